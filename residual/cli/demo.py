"""residual demo: the paper's claim in minutes, with a report."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from residual.experiments.demo import Curve

BARS = "▁▂▃▄▅▆▇█"


def demo(
    out: Annotated[Path | None, typer.Option(help="The folder for runs and report (runs/demo).")] = None,
) -> None:
    """Train plain and residual networks, shallow and deep, and see which degrade: about three minutes.

    Interrupt it whenever you like; the same command goes on where it stopped.
    """
    import torch
    from rich.console import Console
    from rich.live import Live

    from residual.experiments import demo as experiment
    from residual.pipeline import Stop
    from residual.report import write_demo

    torch.set_num_threads(1)  # these networks are too small to share out
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, frame: setattr(stop, "signal", received))
    folder = out if out is not None else _folder()
    if (folder / "demo.json").exists():
        raise ValueError(f"{folder} holds a finished demo; name another folder with --out, or look at its report.html")
    console = Console(highlight=False)
    console.print(f"{experiment.CLAIM}\n")
    curves: dict[tuple[str, int], Curve] = {}
    began = time.monotonic()
    with Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else _lines() as live:
        for curve in experiment.run(folder, stop=stop):
            curves[curve.network, curve.seed] = curve
            if live is not None:
                live.update(_table(curves))
            elif curve.test_error is not None:
                console.print(f"{curve.network} seed {curve.seed}: {_bars(curve)}  {curve.errors[-1]:.1f} % training error")
    if stop.signal:
        console.print(f"Stopped; what is trained is safe.\nNext: residual demo --out {folder}", markup=False)
        raise typer.Exit(128 + stop.signal)
    verdict = experiment.conclude(folder, list(curves.values()), time.monotonic() - began)
    report = write_demo(folder)
    console.print(f"\n{verdict['sentence']}")
    for test in verdict["tests"]:
        console.print(f"  {'yes' if test['holds'] else 'no '}  {test['claim']} (p = {test['p']:.2g})")
    console.print(f"Report: {report}\nNext: residual train --model resnet20 --data DIR", markup=False)


def _folder() -> Path:
    """runs/demo, or the first numbered one that is not finished."""
    number, folder = 1, Path("runs/demo")
    while (folder / "demo.json").exists():
        number += 1
        folder = Path(f"runs/demo-{number}")
    return folder


@contextmanager
def _lines() -> Iterator[None]:
    yield None


def _bars(curve: "Curve") -> str:
    return "".join(BARS[min(len(BARS) - 1, int(error / 100 * len(BARS)))] for error in curve.errors)


def _table(curves: "dict[tuple[str, int], Curve]") -> "Table":
    from rich.table import Table

    table = Table("network", "seed", "training error, pass by pass", "now", box=None)
    for (network, seed), curve in sorted(curves.items(), key=lambda item: (item[1].family, item[1].depth, item[1].seed)):
        colour = "red" if curve.family == "plain" else "green"
        table.add_row(network, str(seed), f"[{colour}]{_bars(curve)}[/]", f"{curve.errors[-1]:.1f} %")
    return table
