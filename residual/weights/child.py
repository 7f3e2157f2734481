"""Somebody's file is read in a process of its own, bounded in memory and in time, that executes nothing in it.

The worst that a hostile file can do is to end that process.  It knows no torch (26 MB where PyTorch takes 550),
gets of our environment what Python needs to start, and hands the numbers on through a temporary file.

Bounded are everywhere: processor time, time on the clock, and the bytes written.  Memory is on Linux alone, where
the address space can be (RLIMIT_AS); elsewhere each container's own limits on what a file may unfold to must do.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from residual.weights.arrays import write
from residual.weights.containers import Container, named
from residual.weights.files import BadWeights

if TYPE_CHECKING:
    from torch import Tensor

MEMORY = 224 << 20  # bytes beyond 1.2 x the file and what an idle child has (30 MB resident): 256 MB with those
SECONDS = 8  # of processor time, and one more for every
PER_SECOND = 32 << 20  # bytes of the file
PATIENCE = 5  # times as long may pass on the clock, for a machine that is busy with other things
UNFOLDED = 64 << 20  # bytes that tensors may take beyond twice the file: those that share numbers, or are compressed
ENVIRONMENT = (  # of ours, what a child keeps: where Python and its libraries are, and how names are written
    "PATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
)
REFUSED = 2  # exit status of a child that has said why
TEXT = 4000  # characters of what it says


def read_apart(path: str | os.PathLike[str], container: Container) -> "dict[str, Tensor]":
    """The tensors of a file, read by `container` in a child process.

    Refuses, as `BadWeights`, what the container refuses, and a file whose reader died or had to be stopped.
    """
    from safetensors import SafetensorError  # not at the top: the child has no use for torch
    from safetensors.torch import load_file

    seconds = _seconds(Path(path).stat().st_size)
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory(prefix="residual-") as folder:
        target = Path(folder, "tensors")
        try:
            ended = subprocess.run(
                [sys.executable, "-P", "-m", __name__, container.NAME, os.fspath(path), target],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                timeout=PATIENCE * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BadWeights(
                f"reading it took longer than {PATIENCE * seconds} s and was stopped; a sound file of this size takes "
                "a few, so the file is damaged or hostile, or the machine very busy"
            ) from None
        if ended.returncode:
            raise BadWeights(_why(ended.returncode, ended.stdout, container.NAME, seconds))
        try:
            return load_file(target)  # mapped, and so still there when its name is gone
        except (SafetensorError, OSError) as problem:
            raise BadWeights(f"the process that read it left nothing usable ({problem}); try again") from None


def _why(status: int, said: bytes, name: str, seconds: int) -> str:
    if status == REFUSED and said:
        return said.decode(errors="replace")
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return (
            f"reading it was stopped: it took more than {seconds} s of processor time, or the machine ran out of "
            "memory; a sound file of this size takes neither"
        )
    ending = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return f"the process that read it as {name} {ending}; the file is damaged or hostile, so fetch it again"


def _seconds(size: int) -> int:
    """Of processor time that reading a file of `size` bytes may take."""
    return SECONDS + size // PER_SECOND


def main() -> None:
    """In the child: read one file.  Arguments: the container's name, the file, the file to write."""
    name, path, target = sys.argv[1:]
    container, size = named(name), Path(path).stat().st_size
    limit = 2 * size + UNFOLDED
    _bound(memory=size * 6 // 5 + MEMORY, seconds=_seconds(size), written=limit + (16 << 20))
    try:
        arrays = container.read(path)
        with Path(target).open("wb") as file:
            write(file, arrays, limit)
    except BadWeights as problem:
        _refuse(str(problem))
    except MemoryError:
        _refuse(f"reading it takes more than {(size * 6 // 5 + MEMORY) >> 20} MB of memory, so it is not what it seems")
    except OSError as problem:
        _refuse(f"its numbers could not be read and kept for a moment: {problem.strerror or problem}")
    except Exception as problem:
        said = f"{type(problem).__name__}: {problem}"
        _refuse(f"as {name} it makes no sense ({said[:200]}); it is damaged, or of a kind that we have not met")


def _refuse(message: str) -> None:
    sys.stdout.buffer.write(message[:TEXT].encode(errors="backslashreplace"))
    sys.stdout.flush()
    os._exit(REFUSED)  # at once: tidying up may need memory too


def _bound(*, memory: int, seconds: int, written: int) -> None:
    """Limits on this process from now on; where the system has no such limit, do without."""
    import resource

    def limit(kind: int, most: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            _, ceiling = resource.getrlimit(kind)
            if ceiling == resource.RLIM_INFINITY or most < ceiling:
                resource.setrlimit(kind, (most, ceiling))

    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_CPU, seconds)
    limit(resource.RLIMIT_FSIZE, written)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit(resource.RLIMIT_AS, pages * resource.getpagesize() + memory)


if __name__ == "__main__":
    main()
