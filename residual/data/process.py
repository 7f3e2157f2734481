"""A decoding process as the pool sees it: what is written to it, what it answers, and how it ended.

Its own side is residual.data.worker.  Nothing here waits, except for the end of the process.
"""

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator

from residual.data.worker import LENGTH, SECONDS, SLOT, SLOTS

_LONGEST = 1 << 28  # bytes of a message; the pixels of the largest image are 120 MB
_PIPE = 1 << 20  # bytes of room in a pipe, and read at once


class Process:
    """One decoding process, started at once; whoever starts it ends it.

    windows: whether it will cut training windows.
    requests, answers: the ends of its pipes, to select on.
    tray: the memory in which it leaves pixels until the answer is read.
    """

    def __init__(self, *, windows: bool) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        role = ["windows"] if windows else []
        with _shared(LENGTH.size) as (slate_file, self._slate), _shared(SLOTS * SLOT) as (tray_file, self.tray):
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "residual.data.worker", str(slate_file), str(tray_file), *role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[slate_file, tray_file],
                env=environment,
                bufsize=0,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid, self.requests, self.answers = self._process.pid, self._process.stdin, self._process.stdout
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe.fileno(), False)
            _widen(pipe.fileno())
        self._incoming = bytearray()
        self._outgoing: deque[memoryview] = deque()

    @property
    def begun(self) -> int:
        """How many files it has begun, in all."""
        (count,) = LENGTH.unpack(self._slate[:])
        return int(count)

    @property
    def owed(self) -> bool:
        """Whether something is still to be written to it."""
        return bool(self._outgoing)

    def ask(self, message: bytes) -> None:
        """Lay out a message, with its length in front, to be pushed."""
        self._outgoing.append(memoryview(message))

    def push(self) -> bool:
        """Write what it takes; whether something is left."""
        while self._outgoing:
            rest = self._outgoing[0]
            try:
                written = os.write(self.requests.fileno(), rest)
            except BlockingIOError:
                return True
            except OSError:  # it is gone; the end of its answers says so
                self._outgoing.clear()
                return False
            if written < len(rest):
                self._outgoing[0] = rest[written:]
                return True
            self._outgoing.popleft()
        return False

    def pull(self) -> bool:
        """Read what it wrote; False when it wrote its last."""
        try:
            data = os.read(self.answers.fileno(), _PIPE)
        except BlockingIOError:
            return True
        self._incoming += data
        return bool(data)

    def messages(self) -> Iterator[bytes]:
        """The messages that have arrived whole, each once; refuses one that is too long to be an answer."""
        start, buffer = 0, self._incoming
        while len(buffer) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, start)
            if length > _LONGEST:
                raise ValueError("an answer is too long")
            end = start + LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(buffer[start + LENGTH.size : end])
            start = end
        del buffer[:start]

    def end(self, *, patience: float = 0.0) -> None:
        """Kill it, unless it ends by itself within `patience` seconds, and with an exit code of its own."""
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=patience)
        self._process.kill()
        with contextlib.suppress(OSError):
            self.requests.close()
        self.answers.close()
        self._process.wait()

    @property
    def exit_code(self) -> int:
        """Of a process that has ended; a signal's number, negative, where one ended it."""
        return int(self._process.returncode)

    @property
    def ending(self) -> str:
        """How it ended, in words that follow its name."""
        if self.exit_code == -signal.SIGPROF:
            return f"took more than {SECONDS:.0f} s of processor time"
        if self.exit_code < 0:
            return f"was ended by {signal.Signals(-self.exit_code).name}"
        return f"ended with exit code {self.exit_code}"


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


def _widen(pipe: int) -> None:
    """A megabyte of room in a pipe, where the system gives it, saves most of the waiting."""
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)
