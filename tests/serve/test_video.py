"""Videos: frames as people see them, in bounds, whatever the file says."""

import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from residual.serve import video
from residual.serve.video import BadVideo, Reader, Writer, is_video, need_opencv


def short(moving: ModuleType, path: Path, frames: int = 12) -> Path:
    return moving.video(path, frames)


def test_frames_come_back_with_their_times(moving: ModuleType, film: Path):
    with Reader(film) as reader:
        assert (reader.rate, reader.stated) == (30.0, 300)
        for count, frame in enumerate(reader):
            assert frame.number == count
            assert frame.time == pytest.approx(count / 30, abs=1e-3)
            if count % 50 == 0:  # lossy: a few grey levels, more at edges
                assert np.abs(frame.pixels.astype(int) - moving.frame(count)).mean() < 4
    assert count == 299


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "avi"])
def test_formats_are_told_by_their_content(moving: ModuleType, tmp_path: Path, ending: str):
    path = short(moving, tmp_path / f"x.{ending}").rename(tmp_path / "no ending\udcff")
    with path.open("rb") as file:
        assert is_video(file.read(400))
    with Reader(path) as reader:
        assert len(list(reader)) == 12


def test_skipped_frames_change_nothing_of_the_others(moving: ModuleType, tmp_path: Path):
    path = short(moving, tmp_path / "x.mp4")
    with Reader(path) as whole, Reader(path, skip=7) as rest:
        for one, other in zip(list(whole)[7:], rest, strict=True):
            assert (one.number, one.time) == (other.number, other.time)
            np.testing.assert_array_equal(one.pixels, other.pixels)


def test_what_is_written_is_read(moving: ModuleType, tmp_path: Path):
    with Writer(tmp_path / "y.mp4", rate=30000 / 1001) as writer:
        for number in range(5):
            writer.write(moving.frame(number))
    with Reader(tmp_path / "y.mp4") as reader:
        assert reader.rate == pytest.approx(30000 / 1001, abs=1e-3)
        frames = [frame.pixels for frame in reader]
    assert len(frames) == 5
    assert np.abs(frames[4].astype(int) - moving.frame(4)).mean() < 4


def test_a_video_that_says_it_lies_on_its_side_is_turned_upright(moving: ModuleType, tmp_path: Path):
    path = short(moving, tmp_path / "x.mp4", 1)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # ISO 14496-12, 8.3.2: of the track's header, version 0
    a_quarter_clockwise = (0, 1 << 16, 0, -1 << 16, 0, 0, 120 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *a_quarter_clockwise)
    (tmp_path / "turned.mp4").write_bytes(data)
    with Reader(path) as plain, Reader(tmp_path / "turned.mp4") as turned:
        np.testing.assert_array_equal(np.rot90(next(iter(plain)).pixels, -1), next(iter(turned)).pixels)


def test_frames_that_do_not_come_evenly_keep_their_own_times(moving: ModuleType, tmp_path: Path):
    data = bytearray(short(moving, tmp_path / "x.mp4", 6).read_bytes())
    # How long each frame lasts (ISO 14496-12, 8.6.1.2): one entry for all six becomes one for each.
    place = data.index(b"stts")
    (duration,) = struct.unpack_from(">I", data, place + 16)
    lasts = [1, 1, 4, 1, 5, 1]
    entries = b"".join(struct.pack(">II", 1, duration * each) for each in lasts)
    data[place + 8 : place + 20] = struct.pack(">I", 6) + entries
    for box in (b"stts", b"stbl", b"minf", b"mdia", b"trak", b"moov"):  # which stand after the frames
        start = data.rindex(box, 0, place + 4) - 4
        data[start : start + 4] = struct.pack(">I", struct.unpack_from(">I", data, start)[0] + 40)
    edit = data.index(b"elst") + 12  # how much of it is shown
    data[edit : edit + 4] = struct.pack(">I", 10_000)
    (tmp_path / "uneven.mp4").write_bytes(data)
    with Reader(tmp_path / "uneven.mp4") as reader:
        assert [round(30 * frame.time) for frame in reader] == [0, 1, 2, 6, 7, 12]


def test_an_odd_side_loses_its_last_row(tmp_path: Path):
    with Writer(tmp_path / "y.mp4", rate=5) as writer:
        writer.write(np.zeros((33, 47, 3), np.uint8))
    with Reader(tmp_path / "y.mp4") as reader:
        assert next(iter(reader)).pixels.shape == (32, 46, 3)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n%s\n#EXT-X-ENDLIST\n"
WRONG = {
    "a playlist": (lambda film: PLAYLIST % bytes(film), "not read"),
    "a list to join": (lambda film: b"ffconcat version 1.0\nfile %s\n" % bytes(film), "not read"),
    "text": (lambda film: b"hello", "not read"),
    "nothing": (lambda film: b"", "the file is empty"),
    "half a video": (lambda film: film.read_bytes()[:20_000], "MP4, 20,000 bytes, cut short"),
    "zeros": (lambda film: film.read_bytes()[:32] + bytes(10_000), r"without the index of its frames \(moov\)"),
    "the end of a video": (lambda film: b"\0\0\0\x08ftyp" + film.read_bytes()[-500:], "MP4, 508 bytes, cut short"),
}


@pytest.mark.parametrize("content, said", WRONG.values(), ids=WRONG)
def test_what_is_no_video_is_refused(film: Path, tmp_path: Path, content, said: str):
    (tmp_path / "x.mp4").write_bytes(content(film))
    with pytest.raises(BadVideo, match=said):
        Reader(tmp_path / "x.mp4")


def test_what_cannot_be_opened_is_refused_and_nobody_waits(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path, said in [
        ("pipe", "regular file"),
        ("none", "No such file"),
        ("a\0b", "null byte"),
        (".", "regular file"),
    ]:
        with pytest.raises(BadVideo, match=said):
            Reader(tmp_path / path)


def test_whatever_bytes_change_the_end_is_frames_or_a_reason(moving: ModuleType, tmp_path: Path):
    data = short(moving, tmp_path / "x.mp4").read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(6):
        bad = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0 if trial % 2 else 48, len(bad), size=60)
        bad[places] = rng.integers(256, size=60)
        (tmp_path / "bad.mp4").write_bytes(bad.tobytes())
        with suppress(BadVideo), Reader(tmp_path / "bad.mp4") as reader:
            assert len(list(reader)) <= 100


def test_a_process_that_hangs_or_dies_is_told_with_its_frame(film: Path):
    for number, said in [(signal.SIGSTOP, "frame 3 was not decoded within"), (signal.SIGKILL, "SIGKILL at frame 3")]:
        with Reader(film) as reader, pytest.raises(BadVideo, match=said):  # noqa: PT012 - at which frame is the point
            for frame in reader:
                if frame.number == 2:
                    reader.silence = 0.5
                    reader._process.send_signal(number)
                    _drained(reader)


def _drained(reader: Reader) -> None:
    """Take what the process had put into the pipe before it stopped: at most one frame, which begins a message."""
    import select

    time.sleep(0.2)
    assert reader._process.stdout is not None
    while select.select([reader._process.stdout], [], [], 0)[0]:
        if not os.read(reader._process.stdout.fileno(), 1 << 16):
            return


HANGS = """
import sys, types
from residual.serve import video
video.SILENCE = 0.1
video._opencv = lambda: types.SimpleNamespace(
    VideoCapture=lambda *told: types.SimpleNamespace(isOpened=lambda: sum(iter(int, 1))), CAP_FFMPEG=0, error=KeyError
)
sys.argv[1:] = [str(video.os.getppid()), "read", "0", "0"]
video.main()
"""


def test_a_decoder_that_computes_for_ever_is_ended_though_nobody_waits():
    ended = subprocess.run([sys.executable, "-c", HANGS], stdin=subprocess.DEVNULL, timeout=60)
    assert ended.returncode == -signal.SIGPROF


ASKS = """
import os, signal, sys, time
from residual.serve.video import Reader
reader = Reader(sys.argv[1])
next(iter(reader))
reader._process.send_signal(signal.SIGSTOP)
print(reader._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_stopped_decoder_ends_with_the_process_that_asked(film: Path):
    with subprocess.Popen([sys.executable, "-c", ASKS, str(film)], stdout=subprocess.PIPE) as asker:
        assert asker.stdout is not None
        decoder = int(asker.stdout.readline())
        assert _alive(decoder)
        asker.kill()
    until = time.monotonic() + 10
    while _alive(decoder) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _alive(decoder)


def _alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_a_writing_process_that_hangs_is_told_while_frames_come_and_at_the_end(moving: ModuleType, tmp_path: Path):
    with pytest.raises(BadVideo, match=r"not written within 0\.3 s"):  # noqa: PT012, SIM117 - where it hangs is the point
        with Writer(tmp_path / "y.mp4", rate=30) as writer:
            writer.write(moving.frame(0))
            writer.silence = 0.3
            assert writer._process is not None
            writer._process.send_signal(signal.SIGSTOP)
            while True:
                writer.write(moving.frame(1))
    with pytest.raises(BadVideo, match="fell silent"):  # noqa: PT012, SIM117
        with Writer(tmp_path / "y.mp4", rate=30) as writer:
            writer.write(moving.frame(0))
            writer.silence = 0.3
            assert writer._process is not None
            writer._process.send_signal(signal.SIGSTOP)
    assert list(tmp_path.iterdir()) == []


def test_the_process_has_a_bound_on_memory(film: Path):
    with Reader(film) as reader:
        next(iter(reader))
        limits = Path(f"/proc/{reader._process.pid}/limits")
        if not limits.exists():
            pytest.skip("no /proc here")
        (line,) = (line for line in limits.read_text().splitlines() if line.startswith("Max address space"))
        assert 2 << 30 < int(line.split()[3]) < 5 << 30


def test_an_error_while_writing_leaves_no_file(moving: ModuleType, tmp_path: Path):
    with suppress(KeyError), Writer(tmp_path / "y.mp4", rate=30) as writer:
        writer.write(moving.frame(0))
        raise KeyError
    with pytest.raises(BadVideo, match="at most 8191"), Writer(tmp_path / "y.mp4", rate=30) as writer:
        writer.write(np.zeros((2, 9000, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    for made in (need_opencv, lambda: Reader(tmp_path), lambda: Writer(tmp_path / "x.mp4", rate=1)):
        with pytest.raises(ValueError, match=r"pip install 'residual\[video\]'"):
            made()


@pytest.mark.parametrize(
    "start", [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypheic", b"GIF89a", b"", b"PK"]
)
def test_other_files_are_no_videos(start: bytes):
    assert not is_video(start.ljust(400, b"\0"))
