"""`residual`: the list of commands, and what becomes of errors.

Exit codes: 0 done; 2 the user got something wrong; 1 something failed; 4 training diverged; 128 + n stopped by
signal n.  Nobody sees a traceback for any of these (RESIDUAL_TRACEBACK=1 shows it, for a report of a bug).
"""

import errno
import os
import sys

import typer

from residual.cli import check, demo, detect, evaluate, models, predict, report, reproduce, train, weights
from residual.cli.terminal import printable

app = typer.Typer(
    name="residual",
    help="Deep residual learning, whole: train, measure and use residual networks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes twice as fast
)
app.command("demo")(demo.demo)
app.command("models")(models.models)
app.add_typer(check.app, name="data")
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("detect")(detect.detect)
app.add_typer(weights.app, name="weights")
app.command("reproduce")(reproduce.reproduce)
app.command("report")(report.report)

GIVEN = (  # what the system says of a path that the user gave; the rest (a full disk, a broken one) is failure
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def main() -> None:
    """Run the command line."""
    # Threads that wait by spinning made training twenty times slower when anything else ran on the same cores
    # (docs/lab_book.md); this is read when PyTorch is imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="residual", standalone_mode=False)
        print(end="", flush=True)
    except BrokenPipeError:
        os._exit(1)  # whoever read our output has gone; there is nobody to tell
    except Exception as error:
        if os.environ.get("RESIDUAL_TRACEBACK"):
            raise
        fail(*told(error))
    sys.exit(code)


def told(error: Exception) -> tuple[str, int]:
    """A paragraph and an exit code for an error."""
    if hasattr(error, "format_message"):  # a command line that cannot be read
        command = getattr(getattr(error, "ctx", None), "command_path", "residual")
        text = error.format_message()
        return f"{text}{'' if text.endswith(('.', '?')) else '.'} See: {command} --help", 2
    if isinstance(error, ValueError):
        return str(error), 2
    if isinstance(error, OSError):
        own = type(error).__str__ is not OSError.__str__  # CannotWrite has its own paragraph
        text = str(error) if own or not error.filename else f"cannot use {error.filename}: {error.strerror}"
        return text, 2 if error.errno in GIVEN else 1
    if isinstance(error, ImportError):
        return str(error), 1
    if type(error).__name__ == "Diverged":  # by name, so as not to import PyTorch for it
        return str(error), 4
    if "out of memory" in str(error).lower() or isinstance(error, MemoryError):
        return f"out of memory: {error}. Take a smaller batch, --size or network", 1
    return f"{type(error).__name__}: {error}. This is a fault of ours; RESIDUAL_TRACEBACK=1 shows where", 1


def fail(message: str, code: int) -> None:
    """Say on standard error what is wrong, and end."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    text = Text.assemble(("error: ", "bold red"), printable(" ".join(message.split())))
    console.print(text, soft_wrap=not console.is_terminal)  # elsewhere one line, for logs and other programs
    try:
        sys.stdout.flush()
    except OSError:  # what could not be written is given up, or Python would fail on it again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
