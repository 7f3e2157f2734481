"""What a run leaves on disk: its description, its measurements, its environment. No torch.

Everything here is written durably (law 4 of the house): a file appears under its name only when all of it
has reached the disk. `DurableFile` is the one place that talks to the disk; all others go through it.
"""

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


class CannotWrite(OSError):
    """A file could not be written; what was there before is unharmed."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, os.strerror(error.errno) if error.errno else str(error), str(path))
        self.path = path
        self.free = free_bytes(path)

    def __str__(self) -> str:
        free = "unknown" if self.free is None else f"{self.free:,}"
        return (
            f"cannot write {self.path}: {self.strerror} ({free} bytes free there); what was there before is "
            f"unharmed: {_way_out(self.errno)}"
        )


def _way_out(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "free some space, then go on from the newest checkpoint with --resume"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "make the folder writable, or name another with --out"
    if number in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
        return "name another place with --out"
    if number == errno.EFBIG:
        return "raise the limit on file sizes (ulimit -f), then go on with --resume"
    return "check the disk, then go on from the newest checkpoint with --resume"


def free_bytes(path: Path) -> int | None:
    """Bytes free on the disk that holds `path`, or the nearest folder of it that exists."""
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


class DurableFile:
    """A file that appears under its name only when complete: temp file, write, fsync, rename, fsync folder.

    Use as a context; an error inside leaves what was there before.  Raises `CannotWrite`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self.descriptor = -1

    def __enter__(self) -> Self:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self.descriptor = os.open(self.temporary, flags, 0o644)
        except OSError as error:
            raise CannotWrite(self.path, error) from error
        return self

    def write(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                os.fsync(self.descriptor)
                self._close()
                self.temporary.replace(self.path)
                sync_folder(self.path.parent)
        except OSError as failure:
            self._discard()
            raise CannotWrite(self.path, failure) from failure
        if error is not None:
            self._discard()
            if isinstance(error, OSError) and not isinstance(error, CannotWrite):
                raise CannotWrite(self.path, error) from error

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)  # released even when it fails, so never closed twice

    def _discard(self) -> None:
        if self.descriptor >= 0:
            with suppress(OSError):
                self._close()
        with suppress(OSError):
            self.temporary.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: Buffer) -> None:
    """Replace a file with `data`, all or nothing."""
    with DurableFile(path) as file:
        file.write(data)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, durably; an existing one is kept."""
    missing = [f for f in (folder, *folder.absolute().parents) if not f.exists()]
    try:
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            sync_folder(new.absolute().parent)
    except OSError as error:
        raise CannotWrite(folder, error) from error


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted `DurableFile` left in a folder; the caller must be its only writer."""
    for path in folder.glob(".*.*.tmp"):
        if path.is_file():
            path.unlink()


def read_json(path: Path, type: type[T]) -> T:
    """Read a file as one typed value, as strictly as `convert`; `ValueError` names the file and the field."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    try:
        return convert(msgspec.json.decode(data), type)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not what it should be: {error}") from error


def convert(value: object, type: type[T]) -> T:
    """What JSON holds (objects, lists, numbers, text) as one typed value; `ValueError` names the field.

    Fields that the type does not have are refused, since a misspelt setting must not be ignored.
    """
    converted = msgspec.convert(value, type)
    if unknown := _unknown(value, msgspec.to_builtins(converted), "$"):
        raise ValueError(f"it has a field nobody reads: {unknown}; misspelt, or of a newer version")
    return converted


def _unknown(raw: object, known: object, where: str) -> str | None:
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            if key not in known:
                return f"{where}.{key}"
            if found := _unknown(value, known[key], f"{where}.{key}"):
                return found
    if isinstance(raw, list | tuple) and isinstance(known, list | tuple):
        for index, (one, other) in enumerate(zip(raw, known, strict=False)):
            if found := _unknown(one, other, f"{where}[{index}]"):
                return found
    return None


def write_json(path: Path, value: object) -> None:
    """Write a value as sorted, indented JSON, durably."""
    data = msgspec.json.encode(value, order="deterministic", enc_hook=_encode)
    write_durably(path, msgspec.json.format(data, indent=2) + b"\n")


def _encode(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


class AlreadyRunning(ValueError):
    """Another process trains in this run folder."""


class RunFolder:
    """`run.json`, `metrics.jsonl` and the lock of one run.

    Measurements are appended a line at a time; a line torn by a crash is dropped when read and
    before the next is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, description: object) -> Self:
        """Start a run in a folder that holds none."""
        folder = cls(path)
        folder._refuse_a_run()
        make_folder(path)
        with folder.lock():  # of two that start at once, one writes and the other sees it
            folder._refuse_a_run()
            write_json(path / "run.json", description)
        return folder

    def _refuse_a_run(self) -> None:
        if (self.path / "run.json").exists():
            raise ValueError(
                f"{self.path} already holds a run; go on with it by --resume, or name another folder with --out"
            )

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with a run that exists."""
        if not (path / "run.json").is_file():
            raise ValueError(f"{path} is no run folder: it has no run.json; `residual train` makes one")
        return cls(path)

    @property
    def description(self) -> dict[str, Any]:
        return read_json(self.path / "run.json", dict[str, Any])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder alone; a second process is refused with the pid of the first.

        The kernel lets go when the holder ends, however it ends; forked workers do not hold on.
        """
        descriptor = _lock(self.path / "run.lock")
        try:
            remove_leftovers(self.path)
            yield
        finally:
            _held.discard(descriptor)
            _unlock(descriptor)

    def append(self, measurement: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        line = json.dumps(measurement, allow_nan=False).encode() + b"\n"
        path = self.path / "metrics.jsonl"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                _drop_torn_line(descriptor)
                while line:
                    line = line[os.write(descriptor, line) :]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise CannotWrite(path, error) from error

    def metrics(self) -> list[dict[str, Any]]:
        """All measurements, in the order they were made."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        measurements = []
        for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
            try:
                measurement = json.loads(line)
            except ValueError as error:
                # a crash may leave zeros where the last lines should be, never damage before them
                if not any(_is_json(later) for later in lines[number:]):
                    break
                raise ValueError(f"{path} line {number} is damaged: {error}") from error
            measurements.append(measurement)
        return measurements

    def keep_until(self, step: int) -> None:
        """Drop the measurements made after `step`, and the final ones: a resumed run makes them again."""
        measurements = self.metrics()
        kept = [m for m in measurements if m.get("step", 0) <= step and not m.get("final")]
        if (self.path / "metrics.jsonl").exists():
            lines = (json.dumps(m, allow_nan=False).encode() + b"\n" for m in kept)
            write_durably(self.path / "metrics.jsonl", b"".join(lines))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    end = os.pread(descriptor, size, 0).rfind(b"\n") + 1
    os.ftruncate(descriptor, end)


_held: set[int] = set()  # descriptors of the locks this process holds


PATIENCE = 0.5  # seconds: whoever only looks whether the folder holds a run lets go sooner


def _lock(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise CannotWrite(path, error) from error
    try:
        _wait_for_lock(descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise CannotWrite(path, error) from error
    except BaseException:
        os.close(descriptor)
        raise
    _let_go_in_forks()
    _held.add(descriptor)
    return descriptor


def _wait_for_lock(descriptor: int, path: Path) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > until:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise AlreadyRunning(
                    f"{path.parent} is being trained by process {holder}; wait for it, stop it, or name "
                    f"another folder with --out"
                ) from error
        time.sleep(0.01)


def _unlock(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a worker forked a moment ago too
    os.close(descriptor)


@cache
def _let_go_in_forks() -> None:
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    """In a forked child: a worker that outlives its trainer must not keep the folder locked."""
    while _held:
        os.close(_held.pop())


def counted(verdict: str, *, shortened: bool, planted: bool) -> str | None:
    """As what a row or claim of a reproduction counts in a headline; None: not at all.

    A number that is only cited is not ours, and a planted row tests the test.  A claim that was tested on shortened
    trainings is not the paper's claim in full.
    """
    if planted or verdict == "cited":
        return None
    return f"{verdict}, shortened" if shortened and verdict in ("agrees", "differs") else verdict


def environment() -> dict[str, Any]:
    """Where a number was made: software, hardware and the commit of the code."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "commit": _commit(),
    }
    for package in ("residual", "torch", "torchvision", "numpy", "pillow", "safetensors"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    torch = sys.modules.get("torch")
    found["threads"] = torch.get_num_threads() if torch else None
    found["gpu"] = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return found


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the code, with "+" where files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed else "")


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]  # a kill leaves no lock behind
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
