"""Shows a training as it happens: a live line in a terminal, plain lines elsewhere, JSON lines on request."""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from residual import events
from residual.report import write

QUIET = 15.0  # seconds between plain lines


def watch(happenings: Iterable[object], folder: Path, *, as_json: bool) -> bool:
    """Follow a training to its end, write its report and say what to do next; whether it finished."""
    finished = False
    if as_json:
        for event in happenings:
            assert is_dataclass(event)
            assert not isinstance(event, type)
            if isinstance(event, events.Finished):
                finished = True
                write(folder)
            print(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}, default=str), flush=True)
        return finished
    console = Console(highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[news]}"),
        console=console,
        transient=True,
    )
    task = bar.add_task("training", total=None, news="", visible=console.is_terminal)
    told = 0.0
    with bar:
        for event in happenings:
            match event:
                case events.Started():
                    _started(console, event)
                case events.Progress():
                    bar.update(task, total=event.iterations, completed=event.step, news=_news(event))
                    if not console.is_terminal and (time.monotonic() - told > QUIET or event.step == event.iterations):
                        told = time.monotonic()
                        console.print(f"step {event.step:,} of {event.iterations:,}  {_news(event)}")
                case events.Measured():
                    mark = "  (best so far)" if event.best else ""
                    console.print(f"step {event.step:,}: {event.split} error {event.error:.2f} %{mark}")
                case events.Note():
                    console.print(f"note: {event.text}", markup=False)
                case events.Stopped():
                    console.print(f"Stopped at step {event.step:,}; its checkpoint is safe.")
                    console.print(f"Next: residual train --resume --out {folder}", markup=False)
                case events.Finished():
                    finished = True
                    _finished(console, event, write(folder))
    return finished


def _started(console: Console, event: events.Started) -> None:
    images = ", ".join(f"{count:,} {split}" for split, count in event.images.items())
    console.print(f"{event.network}: {event.parameters:,} parameters; {images} images; {event.device}", markup=False)
    for path, reason in event.problems[:5]:
        console.print(f"left out: {path}: {reason}", markup=False)
    if len(event.problems) > 5:
        console.print(f"left out: {len(event.problems) - 5} more, all named in {event.run / 'run.json'}", markup=False)
    if event.step:
        console.print(f"going on from step {event.step:,}")


def _news(event: events.Progress) -> str:
    minutes, rest = divmod(round(event.seconds_left), 60)
    left = f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    return (
        f"epoch {event.epoch:.1f}  loss {event.loss:.3f}  training error {event.train_error:.1f} %  "
        f"rate {event.rate:.3g}  {event.images_per_second:,.0f} images/s  {left} left"
    )


def _finished(console: Console, event: events.Finished, report: Path) -> None:
    names = {"last": "last iteration", "best": "best by validation"}
    for which, found in event.evaluations.items():
        low, high = found["interval"]
        console.print(
            f"{names[which]}: {found['split']} error {found['top1_error']:.2f} % "
            f"(95 % interval {low:.2f} to {high:.2f}, {found['images']:,} images)"
        )
    minutes, rest = divmod(round(event.seconds), 60)
    console.print(f"{event.run} is complete after {minutes} min {rest:02d} s.  Report: {report}", markup=False)
    console.print(f"Next: residual predict {event.run} IMAGE", markup=False)
