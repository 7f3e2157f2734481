"""A pool of decoding processes that outlives its members.

Order is that of the request at any number of workers; only so much is decoded ahead.  A process that dies
or falls silent is named, with the file it was at, in `notes`; another takes its place and the file is tried
again by itself.  A file that ends two processes is a BadImage.
"""

import contextlib
import mmap
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TypeVar

import msgspec
import numpy as np

from residual.data.crop import Crop, Draw
from residual.data.decode import BadImage, Pixels, View
from residual.data.jpeg import GAVE_UP
from residual.data.shrink import Shrink
from residual.data.worker import LENGTH, SECONDS, SLOT, SLOTS, Answer, Ask, Request, answer, pack, unwrap

T = TypeVar("T")

SILENCE = 20.0  # seconds without an answer after which a process counts as hung
CHUNK = SLOTS // 2  # files per request; a process has two at most, so that its tray has room for all it owes
_MESSAGE = 1 << 28  # bytes; the pixels of the largest image are 120 MB


@dataclass(frozen=True, kw_only=True)
class File:
    """One image to decode: a path, or the bytes themselves."""

    name: str  # for people
    path: bytes | None = None
    data: "bytes | Lazy | None" = None
    stamp: tuple[int, int] | None = None  # (bytes, modification time in ns) that the file at `path` must still have
    span: tuple[int, int] | None = None  # (offset, bytes) of the image, where that file holds many
    digest: bytes | None = None  # SHA-256 that its bytes must have
    window: tuple[Crop, Draw] | None = None  # which training window of it is wanted, instead of a view of all


class Lazy(Protocol):
    """Bytes that are read when the file is decoded, so that a long list of files is not held in memory."""

    def read(self) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of one file."""

    file: File
    pixels: Pixels | BadImage
    found: tuple[int, int] = (0, 0)  # width and height before the view
    digest: bytes = b""  # SHA-256 of the file's bytes
    packed: tuple[bytes, str] | None = None  # instead of pixels, the bytes of a file to pack and its suffix


@dataclass(eq=False)
class _Chunk:
    """Some files that go to one process together; `first` is where they belong in the order."""

    first: int
    files: list[File]
    done: int = 0
    failures: int = 0  # processes that ended at the only file of this chunk
    fast: bool = True  # windows may be decoded alone


@dataclass(eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    slate: mmap.mmap  # 8 bytes: how many files it has begun
    tray: mmap.mmap  # pixels that are answered, until the answer is read
    answered: int = 0
    incoming: bytearray = field(default_factory=bytearray)
    outgoing: deque[memoryview] = field(default_factory=deque)
    chunks: deque[_Chunk] = field(default_factory=deque)
    heard: float = 0.0  # when it last showed life
    ready: bool = False


class Pool:
    """Decoding processes, started when first needed.  workers=0 decodes in this process, without bounds.

    windows: whether training windows will be asked for.  They are cut by one process at least: what decodes them
        ends its process on a file that it cannot bear.
    notes: what went wrong with processes and was mended, in plain sentences.
    """

    def __init__(self, *, workers: int, silence: float = SILENCE, windows: bool = False) -> None:
        if workers < 0:
            raise ValueError(f"{workers} decoding processes do not exist; 0 decodes without any")
        self.workers, self.silence, self.windows = max(workers, int(windows)), silence, windows
        self.notes: list[str] = []
        self._team: list[_Worker] = []
        self._owner = os.getpid()
        self._busy = False
        self._stillborn = 0

    def __enter__(self) -> "Pool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; the pool can be used again."""
        team, self._team = self._team, []
        if os.getpid() != self._owner:
            return
        for worker in team:
            self._bury(worker)

    @property
    def processes(self) -> tuple[int, ...]:
        """The process ids of the workers that run now."""
        return tuple(worker.process.pid for worker in self._team)

    def decode(
        self, files: Iterable[File], view: View, *, shrink: Shrink | None = None, window: int | None = None
    ) -> Iterator[Decoded]:
        """Decode files, in order, at most `window` ahead of the reader.

        shrink: hand on what is to be packed of a file instead of its pixels.
        """
        if self.workers == 0:
            for file in files:
                yield _finish(file, answer(_ask(file), view, shrink=shrink))
            return
        if os.getpid() != self._owner:  # forked: the processes belong to the parent
            self._team, self._owner, self._busy = [], os.getpid(), False
        if self._busy:
            raise RuntimeError("this pool is decoding already; give the second reader a pool of its own")
        self._busy = True
        finished = False
        try:
            yield from self._run(_chunks(files), view, shrink, window or 4 * CHUNK * self.workers)
            finished = True
        finally:
            self._busy = False
            if not finished:  # abandoned half way: answers nobody waits for are still under way
                self.close()

    # --- the event loop ------------------------------------------------------------------------------------

    def _run(self, source: Iterator[list[File]], view: View, shrink: Shrink | None, window: int) -> Iterator[Decoded]:
        encoder = msgspec.msgpack.Encoder()
        results: dict[int, Decoded] = {}
        again: deque[_Chunk] = deque()
        given = asked = 0  # files handed to the reader; files taken from the source
        exhausted = False
        while True:
            # Give what is ready, in order.
            while given in results:
                left = time.monotonic()
                yield results.pop(given)
                given += 1
                for worker in self._team:  # while the reader was away, nobody listened
                    worker.heard += time.monotonic() - left
            while len(self._team) < self.workers:
                self._team.append(self._hire())
            # Hand out work: whoever has least, while the window has room.
            while True:
                worker = min(self._team, key=lambda one: len(one.chunks))
                if len(worker.chunks) >= 2:
                    break
                if again:
                    chunk = again.popleft()
                elif not exhausted and asked - given < window:
                    taken = next(source, None)
                    if taken is None:
                        exhausted = True
                        continue
                    chunk = _Chunk(asked, taken)
                    asked += len(taken)
                else:
                    break
                asked_for = [_ask(file) for file in chunk.files]
                message = pack(encoder.encode(Request(view, asked_for, shrink, chunk.fast)))
                if not worker.chunks:
                    worker.heard = time.monotonic()
                worker.chunks.append(chunk)
                worker.outgoing.append(memoryview(message))
            if exhausted and given == asked:
                return
            for worker, cause in self._wait(results):
                self._team.remove(worker)
                if cause is None:  # its answers ended: let it end by itself, so that its exit code is its own
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        worker.process.wait(timeout=1)
                self._bury(worker)
                self._replace(worker, cause, again, results)

    def _wait(self, results: dict[int, Decoded]) -> list[tuple[_Worker, str | None]]:
        """Move bytes until an answer came; return the workers that are lost, and why where we know."""
        lost: list[tuple[_Worker, str | None]] = []
        with selectors.DefaultSelector() as selector:
            for worker in self._team:
                assert worker.process.stdout is not None
                assert worker.process.stdin is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
                if worker.outgoing:
                    selector.register(worker.process.stdin, selectors.EVENT_WRITE, worker)
            while not lost:
                answered = False
                for key, events in selector.select(timeout=min(1.0, self.silence / 4)):
                    worker = key.data
                    if events & selectors.EVENT_WRITE:
                        if not _push(worker):
                            selector.unregister(key.fileobj)
                    elif not _pull(worker):
                        lost.append((worker, None))
                    else:
                        worker.heard = time.monotonic()
                        try:
                            answered = self._sort(worker, results) or answered
                        except (ValueError, msgspec.MsgspecError):
                            lost.append((worker, "sent what is no answer"))
                now = time.monotonic()
                for worker in self._team:
                    waiting = bool(worker.chunks) or not worker.ready
                    known = any(one is worker for one, _ in lost)
                    patience = self.silence if worker.ready else 4 * self.silence  # it imports what it needs
                    if waiting and not known and now - worker.heard > patience:
                        lost.append((worker, f"did not answer for {patience:.0f} s"))
                if answered:
                    break
        return lost

    def _sort(self, worker: _Worker, results: dict[int, Decoded]) -> bool:
        """Turn received bytes into results; whether there was at least one."""
        start, found = 0, False
        buffer = worker.incoming
        while len(buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, start)
            if length > _MESSAGE:
                raise ValueError("an answer is too long")
            end = start + LENGTH.size + length
            if len(buffer) < end:
                break
            reply = unwrap(bytes(buffer[start + LENGTH.size : end]))
            start = end
            if not worker.ready:
                worker.ready, self._stillborn = True, 0
                continue
            if not worker.chunks:
                raise ValueError("an answer to no question")
            chunk = worker.chunks[0]
            results[chunk.first + chunk.done] = _finish(chunk.files[chunk.done], reply, worker.tray)
            chunk.done += 1
            worker.answered += 1
            found = True
            if chunk.done == len(chunk.files):
                worker.chunks.popleft()
        del buffer[:start]
        return found

    # --- processes -----------------------------------------------------------------------------------------

    def _hire(self) -> _Worker:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        role = ["windows"] if self.windows else []
        with _shared(LENGTH.size) as (slate_file, slate), _shared(SLOTS * SLOT) as (tray_file, tray):
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "residual.data.worker", str(slate_file), str(tray_file), *role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[slate_file, tray_file],
                env=environment,
                bufsize=0,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        for pipe in (process.stdin, process.stdout):
            os.set_blocking(pipe.fileno(), False)
            _widen(pipe.fileno())
        return _Worker(process, slate, tray, heard=time.monotonic())

    def _bury(self, worker: _Worker) -> None:
        process = worker.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        process.wait()

    def _replace(self, worker: _Worker, cause: str | None, again: deque[_Chunk], results: dict[int, Decoded]) -> None:
        """Write down what happened to a lost worker and put its work back into the queue."""
        why = cause or _ending(worker.process.returncode)
        who = f"decoding process {worker.process.pid}"
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= 5:
                raise RuntimeError(
                    f"decoding processes do not start ({why}); "
                    f"`{sys.executable} -m residual.data.worker` shows why, and workers=0 does without them"
                )
            self.notes.append(f"{who} {why} before its first file; another was started")
            again.extendleft(reversed(worker.chunks))
            return
        if not worker.chunks:
            self.notes.append(f"{who} {why} while it had no work; another was started")
            return
        open_ = [
            (chunk.first + number, chunk.files[number], chunk.failures, chunk.fast)
            for chunk in worker.chunks
            for number in range(chunk.done, len(chunk.files))
        ]
        (begun,) = LENGTH.unpack(worker.slate[:])
        place, suspect, failures, fast = open_.pop(min(max(begun - worker.answered - 1, 0), len(open_) - 1))
        for other, file, earlier, window_alone in reversed(open_):
            again.appendleft(_Chunk(other, [file], failures=earlier, fast=window_alone))
        if cause is None and fast and worker.process.returncode == GAVE_UP:
            self.notes.append(f"a part of {suspect.name} could not be decoded alone, so all of it is")
            again.appendleft(_Chunk(place, [suspect], failures=failures, fast=False))
        elif failures:
            self.notes.append(f"{who} {why} at {suspect.name}, for the second time; the file is left out")
            results[place] = Decoded(file=suspect, pixels=BadImage(f"a decoding process {why} at it, twice"))
        else:
            self.notes.append(f"{who} {why} at {suspect.name}; another was started and tries it again")
            again.appendleft(_Chunk(place, [suspect], failures=1, fast=fast))


def ahead(source: Iterable[T], *, depth: int) -> Iterator[T]:
    """The items of `source`, made by a thread at most `depth` ahead of the reader."""
    ready: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(maxsize=max(1, depth))
    stop = threading.Event()

    def put(item: tuple[T | None, BaseException | None, bool]) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in source:
                put((item, None, False))
                if stop.is_set():
                    break
            put((None, None, True))
        except BaseException as error:  # handed to the reader
            put((None, error, True))
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="residual decoding", daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


def _chunks(files: Iterable[File]) -> Iterator[list[File]]:
    chunk: list[File] = []
    for file in files:
        chunk.append(file)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _ask(file: File) -> Ask:
    data = file.data
    if data is not None and not isinstance(data, bytes):
        try:
            data = data.read()
        except BadImage as error:
            return Ask(None, refused=str(error))
    return Ask(file.path, data, file.stamp, file.span, file.digest, file.window)


def _finish(file: File, reply: Answer, tray: mmap.mmap | None = None) -> Decoded:
    if reply.refused is not None:
        return Decoded(file=file, pixels=BadImage(reply.refused))
    if reply.packed is not None:
        nothing = np.empty((0, 0, 0), np.uint8)
        return Decoded(file=file, pixels=nothing, found=reply.found, digest=reply.digest, packed=reply.packed)
    # A copy of its own, so that one kept image does not keep its message.
    if reply.slot is None or tray is None:
        pixels = np.frombuffer(bytearray(reply.pixels), np.uint8).reshape(reply.shape)
    else:
        pixels = np.ndarray(reply.shape, np.uint8, tray, offset=reply.slot * SLOT).copy()
    return Decoded(file=file, pixels=pixels, found=reply.found, digest=reply.digest)


@contextlib.contextmanager
def _shared(size: int) -> Iterator[tuple[int, mmap.mmap]]:
    """Memory to share with a process that is started inside; its descriptor here, and the memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("residual")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
        yield descriptor, mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _push(worker: _Worker) -> bool:
    """Write to a worker what it takes; whether something is left."""
    assert worker.process.stdin is not None
    while worker.outgoing:
        rest = worker.outgoing[0]
        try:
            written = os.write(worker.process.stdin.fileno(), rest)
        except BlockingIOError:
            return True
        except OSError:  # it is gone; the end of its answers says so
            worker.outgoing.clear()
            return False
        if written < len(rest):
            worker.outgoing[0] = rest[written:]
            return True
        worker.outgoing.popleft()
    return False


def _pull(worker: _Worker) -> bool:
    """Read what a worker wrote; False when it wrote its last."""
    assert worker.process.stdout is not None
    try:
        data = os.read(worker.process.stdout.fileno(), 1 << 20)
    except BlockingIOError:
        return True
    worker.incoming += data
    return bool(data)


def _widen(pipe: int) -> None:
    """A megabyte of room in a pipe, where the system gives it, saves most of the waiting."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


def _ending(code: int) -> str:
    if code == -signal.SIGPROF:
        return f"took more than {SECONDS:.0f} s of processor time"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
