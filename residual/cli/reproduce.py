"""residual reproduce: the paper's tables and figures, our numbers beside its, with verdicts."""

import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.terminal import clock, listen, next_step, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from residual.pipeline import Stop
    from residual.reproduce.experiment import Experiment
    from residual.reproduce.overview import Overview
    from residual.reproduce.reproduction import Order, Planned, Recorded
    from residual.reproduce.work import Board

EXPERIMENTS = (  # of the paper, in its order, each with its twin; then those of the papers that followed; ours
    "figure1", "table1", "table2", "table2-tiny", "figure4", "figure4-tiny", "table3", "table3-tiny", "table4",
    "table4-tiny", "table5", "table5-tiny", "table6", "figure6", "figure7",
    "table7", "table7-voc2007", "table8", "table9", "table9-scenes", "table10", "table11", "table12", "table13",
    "table13-tiny", "table14", "masks-scenes",
    "identity-shortcuts", "identity-activations", "identity-depth", "stochastic-depth", "wide",
    "departures",
)  # fmt: skip
EVERYTHING = ("all", "demo-all")
OUT = Path("runs/reproduce")
QUIET = 30.0  # seconds between plain lines


def reproduce(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="list | NAME... | all", help="Experiments: table6, figure1, ...")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR", help="Where a data set lies, or a trained network; may be given several times."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Runs of each row (what it asks for).", min=1)] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="DURATION", help="End within this time: 20m, 2h; do what fits.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", help="Trainings side by side (one per core, or per GPU).", min=1)
    ] = None,
    on: Annotated[str, typer.Option(metavar="WHERE", help="local, or ray: on a Ray cluster.")] = "local",
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for runs and records.")] = OUT,
    quick: Annotated[
        bool, typer.Option("--quick", help="Every step in seconds, on drawn images; the numbers mean nothing.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="Fetch cifar10 or cifar100 if absent.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Reproduce tables and figures of the paper.

    `residual reproduce list` shows what there is and what it costs here.  Interrupt it whenever you like; the same
    command goes on where it stopped.
    """
    began = time.monotonic()
    if not names:
        raise ValueError(
            "name the experiments to reproduce, for example: residual reproduce table1; `residual reproduce list` "
            "shows all of them"
        )
    if on not in ("local", "ray"):
        raise ValueError(f"--on {on}: jobs run on local or ray")
    if names == ["list"]:
        _list(out, data or [], device=device, jobs=jobs, as_json=as_json)
        return
    _refuse_unknown(names)
    limit = None if budget is None else _seconds(budget)
    if quick and (limit is not None or data):
        raise ValueError("--quick runs on drawn images, and in a moment: leave out --budget and --data")
    _refuse_file(out)

    from residual.pipeline import Stop
    from residual.reproduce.data import given
    from residual.reproduce.reproduction import Order, needed, why_not

    everything = any(name in EVERYTHING for name in names)
    chosen = _experiments(EXPERIMENTS if everything else tuple(dict.fromkeys(names)))
    places = given(data or [], needed(chosen))
    found = {each.name: None if quick else why_not(each, places, download=download) for each in chosen}
    reasons = {name: reason for name, reason in found.items() if reason is not None}
    able = tuple(each for each in chosen if each.name not in reasons)
    if reasons and (not everything or not able):
        raise ValueError("; ".join(reasons.values()))
    stop = Stop()
    listen(stop)
    order = Order(
        experiments=able,
        out=out,
        places=places,
        seeds=seeds,
        budget=limit,
        jobs=jobs,
        on="ray" if on == "ray" else "local",
        device=device,
        quick=quick,
        download=download,
        began=began,
    )
    failed = _follow(order, stop, reasons, as_json=as_json)
    if stop.signal:
        raise typer.Exit(128 + stop.signal)
    if failed:
        raise typer.Exit(1)


def _experiments(names: Iterable[str]) -> "tuple[Experiment, ...]":
    """identity-depth: what residual/experiments/identity_depth.py calls `experiment`."""
    from importlib import import_module

    from residual.reproduce.experiment import Experiment

    found = []
    for name in names:
        made = import_module(f"residual.experiments.{name.replace('-', '_')}").experiment
        found.append(made if isinstance(made, Experiment) else made())
    return tuple(found)


def _refuse_unknown(names: list[str]) -> None:
    from difflib import get_close_matches

    for name in names:
        if name not in (*EXPERIMENTS, *EVERYTHING):
            near = get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?  " if near else ""
            raise ValueError(f"no experiment is called {name!r}; {hint}`residual reproduce list` shows all of them")


def _refuse_file(out: Path) -> None:
    there = next(place for place in (out, *out.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise ValueError(f"{out} cannot be a folder: {there} is a file; name another with --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{out} cannot be written: {there} is not writable; name another folder with --out")


def _seconds(duration: str) -> float:
    from residual.cli.train import seconds

    try:
        return seconds(duration)
    except ValueError:
        raise ValueError(
            f"--budget {duration!r} is no time to work in; write hours, minutes or seconds: 2h, 20m, 90s"
        ) from None


# --- list --------------------------------------------------------------------------------------------------------


def _list(out: Path, given_data: list[str], *, device: str, jobs: int | None, as_json: bool) -> None:
    from residual.reproduce.data import DATA, given, missing
    from residual.reproduce.overview import overview

    experiments = _experiments(EXPERIMENTS)
    found = list(overview(experiments, out, given(given_data, set(DATA)), device=device, count=jobs))
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    for each in found:
        print(f"{each.name}: {each.title} ({each.source})")
        print(f"  claims    {each.claim}")
        for name, there in each.data.items():
            print(f"  data      {name}, {'here' if there else missing(name)}")
        print(f"  costs     {_cost(each)}")
        for path, verdicts in each.verdicts.items():
            print(f"  measured  {', '.join(f'{count} {verdict}' for verdict, count in verdicts.items())} ({path})")
    ready = [each.name for each in found if each.runs and all(each.data.values())]
    print(next_step("reproduce", *([ready[0], "--budget", "20m"] if ready else ["table1"])))


def _cost(each: "Overview") -> str:
    if not each.runs:
        return "nothing: it is computed or cited"
    done = f", {each.done} of {each.runs} trainings done" if each.done else ""
    work = f"{each.runs} trainings" + (f", {each.exams} exams after them" if each.exams else "")
    if each.seconds is None:
        return f"unknown, {work}{done}"
    return f"{long(each.seconds)} on this machine, {work}, {each.jobs} side by side{done}"


def long(seconds: float) -> str:
    """A duration that may be of any length: 40 s, 12 min, 5.3 h, 2.4 days, 3.1 years."""
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"


# --- follow ------------------------------------------------------------------------------------------------------


def _follow(order: "Order", stop: "Stop", left_out: dict[str, str], *, as_json: bool) -> bool:
    """Show what happens; whether something failed."""
    from rich.console import Console
    from rich.live import Live

    from residual.reproduce import reproduction, work
    from residual.reproduce.exam import Exam

    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=as_json)
    view = View(stop)
    told = time.monotonic()
    failed = False
    folders = []
    happenings = reproduction.reproduce(order, stop=stop)
    with Live(view, console=console, transient=True) if console.is_terminal and not as_json else nullcontext():
        for event in happenings:
            view.saw(event)
            match event:
                case reproduction.Doing():
                    view.doing = event.what
                case reproduction.Planned():
                    _planned(console, event)
                case work.Began() if event.step:
                    console.print(f"{event.run.name}: going on from step {event.step:,}")
                case work.Ended():
                    console.print(f"{event.run.name}: done after {clock(event.seconds)}")
                case work.Halted() if isinstance(event.run, Exam):
                    console.print(f"{event.run.name}: stopped, it begins anew the next time")
                case work.Halted():
                    console.print(f"{event.run.name}: stopped at step {event.step:,}, its checkpoint is safe")
                case work.Failed():
                    on = "begins anew" if isinstance(event.run, Exam) else "goes on from its newest checkpoint"
                    what = on if event.again else "is left out"
                    console.print(f"{event.run.name}: failed and {what}: {printable(event.reason)}")
                    failed |= not event.again
                case reproduction.Recorded():
                    folders.append(event.path.parent)
                    _recorded(console, event)
            if as_json and not isinstance(event, work.Beat):
                print(json.dumps(_plain(event), default=str), flush=True)
            elif not console.is_terminal and time.monotonic() - told > QUIET and view.board is not None:
                told = time.monotonic()
                console.print(view.line())
    for reason in left_out.values():
        console.print(f"left out: {reason}")
    if stop.signal:
        console.print("Stopped; what is trained is safe.")
        console.print(next_step(*sys.argv[1:]))
    else:
        console.print(next_step("report", folders[0] if len(folders) == 1 else folders[0].parent))
    return failed


class View:
    """How far everything is: drawn several times a second in a terminal, and a line now and then elsewhere."""

    def __init__(self, stop: "Stop") -> None:
        self.stop = stop
        self.board: Board | None = None
        self.until: float | None = None  # on the monotonic clock
        self.doing = ""

    def saw(self, event: object) -> None:
        """From now on draw what is after `event`."""
        if type(event).__name__ == "Planned":
            planned: Planned = event  # type: ignore[assignment]
            self.board, self.doing = planned.board, ""
            self.until = None if planned.seconds_left is None else time.monotonic() + planned.seconds_left

    def line(self) -> str:
        """Runs, iterations and time left."""
        assert self.board is not None
        done, total = self.board.iterations()
        left = self.board.seconds_left()
        if self.until is not None:
            left = min(left, max(0.0, self.until - time.monotonic()))
        now = ", ".join(map(self.board.now, list(self.board.going)[:4]))
        exams = f"{len(self.board.taken)} of {len(self.board.exams)} exams, " if self.board.exams else ""
        return (
            f"{len(self.board.done)} of {len(self.board.runs)} runs, {done:,} of {total:,} iterations, {exams}about "
            f"{long(left)} left" + (f" ({now})" if now else "")
        )

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        if self.board is None or self.doing:
            return Text(self.doing, style="dim")
        if self.stop.signal:
            return Text("stopping, with checkpoints; Ctrl-C again ends at once", style="dim")
        return Text(self.line() + "  Ctrl-C is safe", style="dim", no_wrap=True, overflow="ellipsis")


def _planned(console: "Console", event: "Planned") -> None:
    board = event.board
    rest = len(board.runs) - len(board.done)
    exams = f", {len(board.exams)} exams" if board.exams else ""
    console.print(
        f"{len(board.runs)} trainings, {rest} to do{exams}, {event.jobs} side by side, about "
        f"{long(board.seconds_left())}" + (" (the plan of before)" if event.resumed else "")
    )
    for model, (short, full) in event.lengths.items():
        console.print(f"{model}: shortened to {short:,} of {full:,} iterations to fit into the budget")


def _recorded(console: "Console", event: "Recorded") -> None:
    from rich.table import Table

    from residual.report.table import named

    record, paper = event.record, any(row["paper"] for row in event.record["rows"])
    about = record["experiment"]
    mark = "  QUICK: these numbers mean nothing" if record["quick"] else ""
    console.print(f"\n{event.name}: {about['title']} ({about['source']}){mark}")
    table = Table(box=None, pad_edge=False)
    for name in ("row", *(["paper"] if paper else []), "ours", "verdict"):
        table.add_column(name, overflow="fold")
    for row in record["rows"]:
        cells = [named(row["name"], row["unit"])]
        if paper:
            cells.append(f"{row['paper']['value']:g}" if row["paper"] else "")
        table.add_row(*cells, _ours(row), row["verdict"] + (" (as planted)" if row["planted"] else ""))
    if record["rows"]:
        console.print(table)
    for claim in record["claims"]:
        why = claim["verdict"].startswith("not tested") and claim["p"] is None
        p = f" ({claim['reason']})" if why else "" if claim["p"] is None else f", p = {claim['p']:.2g}"
        short = claim["short"]
        length = f", at {short['iterations']:,} of {short['of']:,} iterations" if short else ""
        console.print(f"claim: {claim['text']}: {claim['verdict']}{p}{length}")
    for part in record["left_out"]:
        cost = "" if part["seconds"] is None else f" ({long(part['seconds'])} of work)"
        console.print(f"left out: {part['what']}: {printable(part['why'])}{cost}")


def _ours(row: dict[str, Any]) -> str:
    if row["mean"] is None:
        return ""
    if row["interval"] is None:
        number = f"{row['mean']:,.0f}" if float(row["mean"]).is_integer() else f"{row['mean']:.6g}"
        return number + (" (1 run)" if row["seeds"] else "")
    half = (row["interval"][1] - row["interval"][0]) / 2
    return f"{row['mean']:.2f} ± {half:.2f} ({row['n']})"


def _plain(event: object) -> dict[str, Any]:
    """An event as JSON: runs by the names of their folders."""
    name = type(event).__name__.lower()
    if name == "planned":
        planned: Planned = event  # type: ignore[assignment]
        done, total = planned.board.iterations()
        return {
            "event": name,
            "runs": [run.name for run in planned.board.runs.values()],
            "done": len(planned.board.done),
            "iterations": total,
            "iterations_done": done,
            "exams": [exam.name for exam in planned.board.exams.values()],
            "seconds_left": planned.board.seconds_left(),
            "shortened": planned.lengths,
        }
    told = {key: value.name if key == "run" else value for key, value in vars(event).items()}
    return {"event": name, **told}
