"""`residual`: the list of commands, and what becomes of errors.

Exit codes: 0 done; 2 the user got something wrong; 1 something failed; 4 training diverged; 128 + n stopped by
signal n.  Nobody sees a traceback for the first three (RESIDUAL_TRACEBACK=1 shows it, for a report of a bug).
"""

import os
import sys

import typer

from residual.cli import check, demo, evaluate, models, predict, report, train, weights

app = typer.Typer(
    name="residual",
    help="Deep residual learning, whole: train, measure, explain and use residual networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.demo)
app.command("models")(models.models)
app.add_typer(check.app, name="data")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.add_typer(weights.app, name="weights")
app.command("report")(report.report)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:
        os._exit(1)  # whoever read our output has gone; there is nobody to tell
    except Exception as error:
        if os.environ.get("RESIDUAL_TRACEBACK"):
            raise
        fail(*told(error))


def told(error: Exception) -> tuple[str, int]:
    """A paragraph and an exit code for an error."""
    if isinstance(error, ValueError | FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return str(error), 2
    if isinstance(error, PermissionError) or type(error).__name__ == "CannotWrite":
        return str(error), 2 if isinstance(error, PermissionError) or error.errno in (13, 30) else 1  # type: ignore[attr-defined]
    if isinstance(error, ImportError):
        return str(error), 1
    if type(error).__name__ == "Diverged":
        return str(error), 4
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return f"out of memory: {error}. Take a smaller batch, --size or network", 1
    kind = type(error).__name__
    return f"{kind}: {error}. This is a fault of ours; RESIDUAL_TRACEBACK=1 shows where", 1


def fail(message: str, code: int) -> None:
    """Say on standard error what is wrong, and end."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error:[/] ", end="")
    console.print(" ".join(message.split()), markup=False)
    sys.exit(code)
