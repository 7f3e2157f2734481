"""residual report RUN...: one offline HTML file for each run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
) -> None:
    """Write report.html from what a run has recorded."""
    from residual.report import write

    for run in runs:
        if not (run / "run.json").is_file():
            raise ValueError(f"{run} is not a run folder: it has no run.json; `residual train` makes one")
        print(write(run))
    print("Next: open it in a browser; it needs no network.")
