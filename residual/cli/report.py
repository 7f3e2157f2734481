"""residual report RUN...: one offline HTML file for each run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
) -> None:
    """Write report.html from what a run, or the demo, has recorded."""
    from residual.report import write, write_demo

    for run in runs:
        if not (run / "run.json").is_file() and not (run / "demo.json").is_file():
            raise ValueError(
                f"{run} is not a run folder: it has no run.json; `residual train` makes one, `residual demo` one of "
                "its own"
            )
    for run in runs:
        print(write(run) if (run / "run.json").is_file() else write_demo(run))
    print("Next: open it in a browser; it needs no network.")
