"""residual demo: the paper's claim in minutes, with a report."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from residual.cli.terminal import clock, listen, next_step, refuse_new_folder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from residual.experiments.demo import Curve

BARS = "▁▂▃▄▅▆▇█"


def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder for runs and report (runs/demo).")] = None,
) -> None:
    """See the paper's claim come true, in minutes.

    Plain and residual networks, shallow and deep, learn handwritten digits: which get worse with depth?  Interrupt it
    whenever you like; the same command goes on where it stopped.
    """
    folder = out if out is not None else _folder()
    if (folder / "demo.json").exists():
        raise ValueError(f"{folder} holds a finished demo; name another folder with --out, or look at its report.html")
    refuse_new_folder(folder)

    import torch
    from rich.console import Console
    from rich.live import Live

    from residual.experiments import demo as experiment
    from residual.pipeline import Stop
    from residual.report import write_demo

    torch.set_num_threads(1)  # these networks are too small to share out
    stop = Stop()
    listen(stop)
    console = Console(highlight=False, markup=False)
    console.print(f"{experiment.CLAIM}\n")
    curves: dict[tuple[str, int], Curve] = {}
    work = Work([(name, depth, seed) for seed in experiment.SEEDS for name, _, depth in experiment.networks()])
    with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as live:
        for curve in experiment.run(folder, stop=stop):
            curves[curve.network, curve.seed] = curve
            work.saw(curve)
            if live is not None:
                live.update(_view(curves, work, stopping=bool(stop.signal)))
            elif curve.test_error is not None:
                bars, last = _bars(curve), curve.errors[-1]
                console.print(f"{curve.network} seed {curve.seed}: {bars}  {last:.1f} % training error")
    if stop.signal:
        console.print("Stopped; what is trained is safe.")
        console.print(next_step("demo", "--out", folder), soft_wrap=True)
        raise typer.Exit(128 + stop.signal)
    verdict = experiment.conclude(folder, list(curves.values()))
    report = write_demo(folder)
    console.print(f"\n{verdict['sentence']}")
    for test in verdict["tests"]:
        console.print(f"  {'yes' if test['holds'] else 'no '}  {test['claim']} (p = {test['p']:.2g})")
    console.print(f"Report: {report}\n{next_step('train', '--model', 'resnet20', '--data', 'DIR')}", soft_wrap=True)


def _folder() -> Path:
    """runs/demo, or the first numbered one that is not finished."""
    number, folder = 1, Path("runs/demo")
    while (folder / "demo.json").exists():
        number += 1
        folder = Path(f"runs/demo-{number}")
    return folder


class Work:
    """How much of the demo is done, counted in passes times layers, and how long the rest will take."""

    def __init__(self, trainings: list[tuple[str, int, int]]) -> None:
        from residual.recipes.demo import demo as recipe

        self.passes = recipe().epochs or 1
        self.depths = {(network, seed): depth for network, depth, seed in trainings}
        self.began = time.monotonic()
        self.found: dict[tuple[str, int], int] = {}  # passes that an earlier command did
        self.done: dict[tuple[str, int], float] = {}
        self.finished = 0

    def saw(self, curve: "Curve") -> None:
        """Count what a curve shows to be done."""
        key = curve.network, curve.seed
        self.found.setdefault(key, len(curve.errors) - 1)
        self.done[key] = self.passes if curve.test_error is not None else len(curve.errors)
        self.finished += curve.test_error is not None

    def seconds_left(self) -> float:
        """At the speed of this command so far."""
        whole = self.passes * sum(self.depths.values())
        done = sum(self.depths[key] * passes for key, passes in self.done.items())
        earlier = sum(self.depths[key] * passes for key, passes in self.found.items())
        return (time.monotonic() - self.began) * (whole - done) / max(1, done - earlier)


def _bars(curve: "Curve") -> str:
    return "".join(BARS[min(len(BARS) - 1, int(error / 100 * len(BARS)))] for error in curve.errors)


def _view(curves: "dict[tuple[str, int], Curve]", work: Work, *, stopping: bool) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("network", "seed", f"training error, pass by pass ({BARS[0]} low, {BARS[-1]} high)", box=None)
    table.add_column("now", justify="right")
    for curve in sorted(curves.values(), key=lambda curve: (curve.family, curve.depth, curve.seed)):
        style = "red" if curve.family == "plain" else "green"
        table.add_row(curve.network, str(curve.seed), Text(_bars(curve), style), f"{curve.errors[-1]:.1f} %")
    if work.finished == len(work.depths):
        return table
    left = "stopping" if stopping else f"about {clock(work.seconds_left())} left (Ctrl-C is safe)"
    return Group(table, Text(f"\n {work.finished} of {len(work.depths)} networks trained, {left}", style="dim"))
