"""Frames of a video, and a video of frames, by OpenCV (the extra `video`), each in a process of its own.

Nothing that a file says is trusted: a damaged one can do no more than end the process that decodes it, which has 2 GB
of memory and, whenever a frame is waited for, 20 s, counted on both sides; it ends with the process that asked, however
that one ends; it opens the one descriptor it is given, so that no playlist or
link leads it elsewhere.  MP4 and MOV, Matroska and WebM, AVI and MPEG are read.

Frames come as people see them: turned upright as the file says, sound and subtitles left out.  Each has its own time;
a video written here shows them evenly, at the file's mean rate, as MPEG-4 (part 2) in MP4, whose sides are even: of an
odd one the last row or column is lost.

Run as `python -m residual.serve.video` this is the process.  Messages are 8 bytes of length, then as many of msgpack;
a frame's pixels follow its message.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import math
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np

from residual.data.decode import MAX_PIXELS, Pixels

SILENCE = 20.0  # seconds for one frame, and four times that to begin and to end
MEMORY = 2 << 30  # bytes of address space beyond what the process has when OpenCV stands
WIDEST = 8191  # pixels of a side in MPEG-4 part 2, which has 13 bits for it
RATE = 25.0  # frames per second, where a file says none that can be
FASTEST = 1000.0
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg"  # as FFmpeg calls them
UNFINISHED = ".unfinished.mp4"  # in the folder of the video that is being written
_LENGTH = struct.Struct("<Q")
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>
_MESSAGE = 1 << 16  # bytes; what is longer is no message of ours
_PARTS = 1000  # of an MP4; it has about four


class BadVideo(ValueError):
    """A video that is not read to its end, or not written, and why, in one plain sentence."""


@dataclass(frozen=True, eq=False)
class Frame:
    """number: from 0 on; time: seconds from the beginning; pixels: (H, W, 3) uint8, RGB."""

    number: int
    time: float
    pixels: Pixels


class Said(msgspec.Struct, array_like=True):
    """What goes between the processes: first of all the rate, then frames, then that there are no more."""

    refused: str | None = None
    rate: float = 0.0  # frames per second
    stated: int = 0  # frames, as the file says
    size: tuple[int, int] = (0, 0)  # height and width of the pixels that follow
    time: float = 0.0  # milliseconds
    last: bool = False


def is_video(start: bytes) -> bool:
    """Whether a file that starts so, 400 bytes or more of it, is of a format that is read."""
    return format_of(start) is not None


def format_of(start: bytes) -> str | None:
    """What people call the format of a video that starts so; None where it is none that is read."""
    still = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")  # photographs in the same box
    if start[4:8] == b"ftyp" and start[8:12] not in still:
        return "MOV" if start[8:12] == b"qt  " else "MP4"
    if start[4:8] in (b"moov", b"mdat", b"wide"):
        return "MOV"
    if start.startswith(b"\x1a\x45\xdf\xa3"):
        return "WebM" if b"webm" in start[:64] else "Matroska"
    if start[:4] + start[8:12] == b"RIFFAVI ":
        return "AVI"
    stream = len(start) > 376 and start[0] == start[188] == start[376] == 0x47
    return "MPEG" if stream or start.startswith(b"\x00\x00\x01\xba") else None


def why_not(video: int) -> str:
    """Of an open file in which no frame is found, as far as its parts tell: its format, its length, what it lacks."""
    start, size = os.pread(video, 400, 0), os.fstat(video).st_size
    form = format_of(start)
    if not start:
        return "the file is empty"
    if form is None:
        return f"{size:,} bytes of a kind that is not read; MP4, MOV, MKV, WebM, AVI and MPEG are"
    told = f"{form}, {size:,} bytes"
    place = 0
    names: list[bytes] = []
    while form in ("MP4", "MOV") and place + 8 <= size and len(names) < _PARTS:  # a length, a name, what it holds
        length, name = struct.unpack(">I4s", os.pread(video, 8, place).ljust(8, b"\0"))
        if length == 1:
            (length,) = struct.unpack(">Q", os.pread(video, 8, place + 8).ljust(8, b"\0"))
        if place + length > size:
            return f"{told}, cut short: the part that begins at byte {place:,} should have {length:,}"
        names.append(name)
        if length < 8:  # the last, or nonsense
            break
        place += length
    if names and b"moov" not in names:
        return f"{told}, without the index of its frames (moov): a recording that was cut off, or not a video"
    return f"{told}, in which there is no frame, or none that can be decoded"


def need_opencv() -> None:
    """Raise ValueError where the extra is not installed."""
    if importlib.util.find_spec("cv2") is None:
        raise ValueError("videos need the extra `video`: pip install 'residual[video]'")


class Reader:
    """The frames of a video, one at a time.  Use as a context; raises BadVideo, at opening or at a frame.

    skip: frames to leave out at the beginning; they are decoded, since no file can be trusted to find a frame.
    rate: frames per second on average.  stated: how many frames the file says it has; None: it does not say.
    """

    def __init__(self, path: str | os.PathLike[str], *, skip: int = 0, silence: float = SILENCE) -> None:
        need_opencv()
        self.silence, self.next = silence, skip
        self._size: tuple[int, int] | None = None
        try:
            video = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # never waits on a fifo
        except (OSError, ValueError) as error:  # a zero byte in the name
            raise BadVideo(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None
        try:
            if not stat.S_ISREG(os.fstat(video).st_mode):
                raise BadVideo("not a regular file")
            self._process = _hire("read", str(video), str(skip), pass_fds=[video])
        finally:
            os.close(video)
        try:
            first = self._message(4 * silence)
        except BaseException:
            self.close()
            raise
        self.rate = first.rate if 0 < first.rate <= FASTEST else RATE
        self.stated = first.stated if 0 < first.stated < 1 << 31 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        _bury(self._process)

    def __iter__(self) -> Iterator[Frame]:
        patience = 4 * self.silence + self.next / 10  # the skipped frames are decoded as well
        while not (said := self._message(patience)).last:
            height, width = said.size
            if min(said.size) < 1 or height * width > MAX_PIXELS:
                raise BadVideo(f"frame {self.next} has {width} x {height} pixels, which cannot be")
            if self._size not in (None, said.size):
                raise BadVideo(f"its size changes at frame {self.next}, to {width} x {height} pixels")
            self._size = said.size
            data = self._take(height * width * 3, self.silence)
            pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            seconds = said.time / 1000 if math.isfinite(said.time) and said.time >= 0 else self.next / self.rate
            yield Frame(self.next, seconds, pixels)
            self.next += 1
            patience = self.silence

    def _message(self, patience: float) -> Said:
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size, patience))
        if length > _MESSAGE:
            raise BadVideo(f"the process that decodes it sent what is no answer, at frame {self.next}")
        try:
            said = msgspec.msgpack.decode(self._take(length, patience), type=Said)
        except msgspec.MsgspecError:
            raise BadVideo(f"the process that decodes it sent what is no answer, at frame {self.next}") from None
        if said.refused is not None:
            raise BadVideo(said.refused)
        return said

    def _take(self, length: int, patience: float) -> bytearray:
        """So many bytes of the process; only the time that is spent waiting counts."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        data = bytearray(length)
        rest, until = memoryview(data), time.monotonic() + patience
        while rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise BadVideo(f"frame {self.next} was not decoded within {patience:.0f} s")
            if not (count := os.readv(descriptor, [rest])):
                raise BadVideo(f"the process that decodes it {_ending(self._process)} at frame {self.next}")
            rest = rest[count:]
        return data


class Writer:
    """An MP4 of frames of one size.  Use as a context: the file is there, whole, when it ends without an error.

    Refuses, as BadVideo, sides of more than 8191 pixels.
    """

    def __init__(self, path: Path, *, rate: float, silence: float = SILENCE) -> None:
        need_opencv()
        self.path, self.rate, self.silence = path, rate, silence
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, pixels: Pixels) -> None:
        """The next frame, (H, W, 3) uint8, RGB."""
        height, width, _ = pixels.shape
        if max(height, width) > WIDEST:
            raise BadVideo(f"{width} x {height} pixels; a side of MPEG-4 has at most {WIDEST}")
        if self._process is None:  # in the file's folder, by a plain name: OpenCV takes no others for certain
            self._process = _hire("write", repr(self.rate), cwd=self.path.parent)
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            self._send(Said(size=(height, width)), np.ascontiguousarray(pixels), patience=4 * self.silence)
        else:
            self._send(Said(size=(height, width)), np.ascontiguousarray(pixels), patience=self.silence)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        try:
            if error is None:
                self._send(Said(last=True), patience=self.silence)
                assert self._process.stdin is not None
                self._process.stdin.close()
                if _code(self._process, 4 * self.silence) != 0:
                    raise BadVideo(f"the process that writes it {_ending(self._process)}; is the disk full?")
                (self.path.parent / UNFINISHED).replace(self.path)
        finally:
            _bury(self._process)
            (self.path.parent / UNFINISHED).unlink(missing_ok=True)

    def _send(self, said: Said, pixels: Pixels | None = None, *, patience: float) -> None:
        """Hand on one message; only the time that is spent waiting counts."""
        assert self._process is not None
        assert self._process.stdin is not None
        descriptor, until = self._process.stdin.fileno(), time.monotonic() + patience
        for part in _parts(said, pixels):
            rest = part
            while rest:
                _, ready, _ = select.select([], [descriptor], [], max(0.0, until - time.monotonic()))
                if not ready:
                    raise BadVideo(f"a frame of it was not written within {patience:g} s; does the disk answer?")
                try:
                    rest = rest[os.write(descriptor, rest) :]
                except BrokenPipeError:
                    raise BadVideo(f"the process that writes it {_ending(self._process)}; is the disk full?") from None


def _hire(*words: str, pass_fds: list[int] | None = None, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENCV_LOG_LEVEL": "OFF",
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"protocol_whitelist;file|format_whitelist;{FORMATS}|threads;1",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "residual.serve.video", str(os.getpid()), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what damaged streams make FFmpeg say
        pass_fds=pass_fds or [],
        cwd=cwd,
        env=environment,
        bufsize=0,
    )


def _bury(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    _code(process, SILENCE)  # a disk that does not answer holds even the dead


def _code(process: subprocess.Popen[bytes], patience: float) -> int | None:
    """With which code the process ended, within so many seconds; None: it did not."""
    try:
        return process.wait(timeout=patience)
    except subprocess.TimeoutExpired:
        return None


def _ending(process: subprocess.Popen[bytes]) -> str:
    code = _code(process, 1)
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"was ended by {-code}"
    return f"ended with code {code}" if code is not None else "fell silent"


# --- the process itself ---------------------------------------------------------------------------------------


def main() -> None:
    """PARENT read DESCRIPTOR SKIP: frames to standard output.  PARENT write RATE: from standard input to UNFINISHED."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asked
    parent, way, *told = sys.argv[1:]
    _bound_life(int(parent))
    _bound_time(4 * SILENCE)
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints cannot end up among the frames
    if way == "write":
        sys.exit(_write(incoming, rate=float(told[0])))
    try:
        _read(outgoing, int(told[0]), skip=int(told[1]))
    except BadVideo as problem:
        _send(outgoing, Said(refused=str(problem)))
    except MemoryError:
        _send(outgoing, Said(refused="decoding it takes more memory than a video may (2 GB)"))


def _read(outgoing: BinaryIO, video: int, *, skip: int) -> None:
    cv2 = _opencv()
    _bound_memory()
    try:
        source = cv2.VideoCapture(f"/dev/fd/{video}", cv2.CAP_FFMPEG)
        if not source.isOpened():
            raise BadVideo(why_not(video))
        width, height = (source.get(each) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise BadVideo(
                f"{width:.0f} x {height:.0f} pixels; a frame has at most {MAX_PIXELS // 1_000_000} megapixels"
            )
        rate, stated = source.get(cv2.CAP_PROP_FPS), source.get(cv2.CAP_PROP_FRAME_COUNT)
        whole = int(stated) if math.isfinite(stated) and 0 < stated < 1 << 31 else 0
        _send(outgoing, Said(rate=rate if math.isfinite(rate) else 0.0, stated=whole))
        for number in itertools.count():
            _bound_time(SILENCE)
            if not source.grab():
                if not number:
                    raise BadVideo(why_not(video))
                break
            if skip:
                skip -= 1
                continue
            moment = source.get(cv2.CAP_PROP_POS_MSEC)
            there, frame = source.retrieve()
            if not there:
                raise BadVideo("a frame of it cannot be decoded")
            height, width = frame.shape[:2]
            _send(outgoing, Said(size=(height, width), time=moment), cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        _send(outgoing, Said(last=True))
    except cv2.error as error:
        short = " ".join(str(error).split())[:200]
        raise BadVideo(f"damaged ({short})") from None


def _write(incoming: BinaryIO, *, rate: float) -> int:
    cv2 = _opencv()
    sink, count, said = None, 0, None
    while (said := _receive(incoming)) is not None and not said.last:
        height, width = said.size
        pixels = np.frombuffer(incoming.read(height * width * 3), np.uint8).reshape(height, width, 3)
        _bound_time(SILENCE)
        if sink is None:
            sink = cv2.VideoWriter(UNFINISHED, cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), rate, (width, height))
            if not sink.isOpened():
                return 1
        sink.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        count += 1
    if sink is None or said is None:  # whoever sent the frames has gone
        return 1
    _bound_time(4 * SILENCE)
    sink.release()  # does not tell whether all could be written, so look
    written = cv2.VideoCapture(UNFINISHED, cv2.CAP_FFMPEG)
    return 0 if written.get(cv2.CAP_PROP_FRAME_COUNT) == count else 1


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise BadVideo(f"OpenCV, the extra `video`, cannot be loaded ({error})") from None
    cv2.setNumThreads(1)
    return cv2


def _send(file: Any, said: Said, pixels: Pixels | None = None) -> None:
    for part in _parts(said, pixels):
        rest = part
        while rest:
            rest = rest[file.write(rest) :]


def _parts(said: Said, pixels: Pixels | None) -> list[memoryview]:
    """What goes through the pipe, byte by byte."""
    message = msgspec.msgpack.encode(said)
    parts = [_LENGTH.pack(len(message)) + message] + ([] if pixels is None else [pixels.data])
    return [memoryview(part).cast("B") for part in parts]


def _receive(file: BinaryIO) -> Said | None:
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return msgspec.msgpack.decode(file.read(*_LENGTH.unpack(head)), type=Said)


def _bound_life(parent: int) -> None:
    """End with the thread that asked, even if this process hangs or is stopped.

    Elsewhere than on Linux the closed pipe ends it at its next frame, or the processor time that a frame may take.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).prctl(_PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        sys.exit(1)


def _bound_time(seconds: float) -> None:
    # The default action of SIGPROF ends the process, whatever C code it is in.
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    """Let the address space grow by MEMORY and no further; where the system has no such limit, do without."""
    if sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        wanted = pages * resource.getpagesize() + MEMORY
        _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
        if ceiling == resource.RLIM_INFINITY or wanted < ceiling:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
