"""Somebody's file, opened with care; and the one error for whatever is wrong with it.  No torch."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

MAX_FILE = 2 << 30  # bytes


class BadWeights(ValueError):
    """A file of weights that is broken, unsafe, or not what was asked for."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever goes wrong with a file of weights is a `BadWeights` that begins with its path."""
    name = repr(os.fspath(path))
    try:
        yield
    except OSError as problem:
        raise BadWeights(f"{name} was not read: {problem.strerror or problem}") from None
    except ValueError as problem:
        if str(problem).startswith(name):
            raise
        raise BadWeights(f"{name} was not read: {problem}") from None


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file of bounded size; `BadWeights` for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block us
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise BadWeights("it is a folder, not a file of weights")
        if not stat.S_ISREG(status.st_mode):
            raise BadWeights("it is a pipe or a device; weights are read from regular files only")
        if status.st_size > MAX_FILE:
            raise BadWeights(f"it has {status.st_size:,} bytes; the limit is {MAX_FILE:,}")
        return os.fdopen(descriptor, "rb")
    except BadWeights:
        os.close(descriptor)
        raise
