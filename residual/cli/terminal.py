"""Between the program and the terminal: text that cannot steer it, commands to copy, waiting made visible, signals."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from residual.pipeline import Stop


def printable(text: str) -> str:
    """`text` with control characters escaped: the name of a file must not move the cursor or colour the screen."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def next_step(*words: object) -> str:
    """The last line of a command, quoted so that it can be copied as it stands."""
    return printable("Next: " + shlex.join(["residual", *map(str, words)]))


def clock(seconds: float) -> str:
    """A duration that may be ticking: 8 s, 12 min 03 s, 2 h 14 min."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def working(what: str) -> Iterator[Callable[[int, int], None]]:
    """A live line on standard error while something takes long; gives a function to tell it (done, in all).

    Silent where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, description=f"{what}: {done:,} of {total:,}", completed=done, total=total)

        yield tell


def listen(stop: "Stop") -> None:
    """From now on Ctrl-C and SIGTERM ask for a stop after the iteration under way; a second one ends at once."""

    def asked(received: int, frame: object) -> None:
        if stop.signal:
            raise SystemExit(128 + received)
        stop.signal = received

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, asked)


def refuse_new_file(path: Path) -> None:
    """A file to be written must be new, in a folder that is there and writable."""
    if path.exists() or path.is_symlink():
        raise ValueError(f"{path} exists and is not overwritten; name another file")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: {path.parent} is not writable; name a file elsewhere")


def refuse_new_folder(path: Path) -> None:
    """A folder to be made for a run must be possible, and not hold one already."""
    if (path / "run.json").exists():
        raise ValueError(
            f"{path} already holds a run; go on with it: residual train --resume --out {shlex.quote(str(path))}, or "
            "name another folder with --out"
        )
    there = next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise ValueError(f"{path} cannot be a run folder: {there} is a file; name another folder with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{path} cannot be written: {there} is not writable; name another folder with --out")
