"""A journal of answers: one JSON line each, on disk as soon as it is said, so that work goes on where it ended.

The first line says what the answers are of; a journal is gone on with under the same first line only.  A line that a
crash has torn is dropped.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

FORMAT = 1
NOW_AND_THEN = 1.0  # seconds between the moments at which the disk is waited for
BLOCK = 1 << 20  # bytes
MARK = b'{"journal":'  # how every journal begins


class Journal:
    """An open journal, of which this process is the only writer.  Use as a context.

    Raises ValueError where another process has it, or where it was begun with another first line.
    """

    def __init__(self, path: Path, first: dict[str, Any]) -> None:
        """Begin the journal, or go on with the one that is there."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._take_hold()
            line = msgspec.json.encode({"journal": FORMAT, **first})
            start = os.pread(self._descriptor, len(MARK), 0)
            torn = MARK.startswith(start.rstrip(b"\0")) and self.length <= len(
                line
            )  # zeros after a fall of the machine
            if start != MARK and not torn:
                raise ValueError(f"{path} is no journal of ours, and is left alone; name another folder with --out")
            self._drop_torn_lines()
            then = next(self.lines(), None)
            if then is None:
                self.append(line)
            elif then != line:
                raise ValueError(_difference(path, then, first))
            self.sync()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def append(self, line: bytes) -> None:
        """Add a line; a kill of this process cannot take it back, a fall of the machine only the last second's."""
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        if time.monotonic() - self._synced > NOW_AND_THEN:
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on disk."""
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """The lines from byte `start` on, a few at a time, without their ends."""
        with self.path.open("rb", buffering=BLOCK) as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                yield line[:-1]

    @property
    def length(self) -> int:
        """Bytes of it so far."""
        return os.fstat(self._descriptor).st_size

    def _take_hold(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go when this process ends
        except BlockingIOError:
            raise ValueError(
                f"another process is writing to {self.path.parent}; wait for it, or name another folder with --out"
            ) from None

    def _drop_torn_lines(self) -> None:
        """Cut the journal after the last line that is whole: a fall of the machine may leave zeros at its end."""
        whole = 0
        for line in self.lines():
            try:
                msgspec.json.decode(line)
            except msgspec.DecodeError:
                break
            whole += len(line) + 1
        os.ftruncate(self._descriptor, whole)
        self._synced = 0.0


def _difference(path: Path, then: bytes, now: dict[str, Any]) -> str:
    before, told = msgspec.json.decode(then), msgspec.json.decode(msgspec.json.encode(now))
    names = ", ".join(name for name in told if before.get(name) != told[name]) or "its version"
    return (
        f"{path.parent} was begun with other settings ({names}); go on with the same weights, images and options as "
        "then, or name another folder with --out"
    )
