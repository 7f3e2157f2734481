"""residual report RUN...: one offline HTML file for each run, the demo, or a reproduction as a whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs or reproductions.")],
) -> None:
    """Write report.html from the records of runs or reproductions."""
    writers = [(run, _writer(run)) for run in runs]  # all are known before the first is written
    for run, write in writers:
        print(write(run))
    print("Next: open it in a browser; it needs no network.")


def _writer(folder: Path) -> Callable[[Path], Path]:
    from residual.report import write, write_demo, write_reproduction

    if (folder / "run.json").is_file():
        return write
    if (folder / "demo.json").is_file():
        return write_demo
    if (folder / "record.json").is_file() or any(folder.glob("*/record.json")):
        return write_reproduction
    raise ValueError(
        f"{folder} is not a run folder: it has no run.json; `residual train` makes one, `residual demo` and "
        "`residual reproduce` make their own"
    )
