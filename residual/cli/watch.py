"""Shows a training as it happens: a live line in a terminal, plain lines elsewhere, JSON lines on request."""

import json
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from residual import events
from residual.cli.terminal import clock, next_step, printable
from residual.report import write

if TYPE_CHECKING:
    from residual.pipeline import Stop

QUIET = 15.0  # seconds between plain lines


def watch(happenings: Iterable[object], folder: Path, *, stop: "Stop", as_json: bool) -> bool:
    """Follow a training to its end, write its report and say what to do next; whether it finished."""
    if as_json:
        return _as_json(happenings, folder)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    line = LiveLine(stop)
    told = 0.0
    with Live(line, console=console, transient=True) if console.is_terminal else nullcontext():
        for event in happenings:
            line.saw(event)
            match event:
                case events.Reading():
                    if not console.is_terminal and time.monotonic() - told > QUIET:
                        told = time.monotonic()
                        console.print(f"reading the images: {event.done:,} of {event.total:,}")
                case events.Started():
                    _started(console, event)
                case events.Progress():
                    done = event.step == event.iterations
                    if not console.is_terminal and (done or time.monotonic() - told > QUIET):
                        told = time.monotonic()
                        left = "" if done else f"  {clock(event.seconds_left)} left"
                        console.print(f"step {event.step:,} of {event.iterations:,}  {_news(event)}{left}")
                case events.Measured():
                    mark = "  (best so far)" if event.best else ""
                    console.print(f"step {event.step:,}: {event.split} {event.measure} {event.value:.2f} %{mark}")
                case events.Note():
                    console.print(f"note: {printable(event.text)}")
                case events.Stopped():
                    console.print(f"Stopped at step {event.step:,}; its checkpoint is safe.")
                    console.print(next_step("train", "--resume", "--out", folder))
                case events.Finished():
                    _finished(console, event, write(folder))
                    return True
    return False


class LiveLine:
    """What is going on, how far it is and how long it will take: drawn several times a second."""

    def __init__(self, stop: "Stop") -> None:
        self.stop = stop
        self.spinner = Spinner("dots")
        self.now: object = None
        self.progress: events.Progress | None = None
        self.since = time.monotonic()  # the beginning, or the last progress

    def saw(self, event: object) -> None:
        """From now on draw what is after `event`."""
        self.now = event
        if isinstance(event, events.Progress):
            self.progress, self.since = event, time.monotonic()

    def __rich__(self) -> RenderableType:
        if isinstance(self.now, events.Finished | events.Stopped):
            return Text()
        if self.stop.signal:
            return self._doing("stopping after this iteration, with a checkpoint; Ctrl-C again ends at once")
        if isinstance(self.now, events.Reading):
            return self._doing(f"reading the images: {self.now.done:,} of {self.now.total:,}")
        if self.progress is None:
            return self._doing("reading the images" if self.now is None else "training")
        if self.progress.step == self.progress.iterations:
            return self._doing("measuring the trained network")
        return self._training(self.progress)

    def _doing(self, what: str) -> RenderableType:
        self.spinner.update(text=Text(f"{what}  {clock(time.monotonic() - self.since)}", style="dim"))
        return self.spinner

    def _training(self, progress: events.Progress) -> RenderableType:
        line = Table.grid(expand=True, padding=(0, 2, 0, 0))
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        left = max(0.0, progress.seconds_left - (time.monotonic() - self.since))
        line.add_row(
            ProgressBar(total=progress.iterations, completed=progress.step),
            f"{100 * progress.step / progress.iterations:.0f} %",
            f"{clock(left)} left",
        )
        return Group(line, Text(_news(progress), style="dim", no_wrap=True, overflow="ellipsis"))


def _as_json(happenings: Iterable[object], folder: Path) -> bool:
    finished = False
    for event in happenings:
        assert is_dataclass(event)
        assert not isinstance(event, type)
        if isinstance(event, events.Finished):
            finished = True
            write(folder)
        print(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}, default=str), flush=True)
    return finished


def _started(console: Console, event: events.Started) -> None:
    images = ", ".join(f"{count:,} {split}" for split, count in event.images.items())
    side = f"of {event.size}x{event.size} pixels" if event.square else f"with a shorter side of {event.size} pixels"
    console.print(f"{event.network}: {event.parameters:,} parameters; {images} images {side}; {event.device}")
    for path, reason in event.problems[:5]:
        console.print(f"left out: {printable(path)}: {printable(reason)}")
    if len(event.problems) > 5:
        console.print(f"left out: {len(event.problems) - 5} more, all named in {event.run / 'run.json'}")
    if event.step:
        console.print(f"going on from step {event.step:,}")


def _news(event: events.Progress) -> str:
    error = "" if event.train_error is None else f"training error {event.train_error:.1f} %  "
    speed = f"{event.images_per_second:,.{0 if event.images_per_second >= 10 else 1}f} images/s"
    return f"epoch {event.epoch:.1f}  loss {event.loss:.3f}  {error}rate {event.rate:.3g}  {speed}"


def _finished(console: Console, event: events.Finished, report: Path) -> None:
    names = {"last": "last iteration", "best": "best by validation"}
    for which, found in event.evaluations.items():
        low, high = found["interval"]
        chosen = which == "best" and found["split"] == "validation"  # the lowest of many says little of new images
        spread = "chosen by it" if chosen else f"95 % interval {low:.2f} to {high:.2f}"
        console.print(f"{names[which]}: {found['split']} {_headline(found)} ({spread}, {found['images']:,} images)")
    if not event.evaluations:
        console.print("nothing was measured: the data has neither validation nor test images")
    console.print(f"{event.run} is complete after {clock(event.seconds)}.  Report: {report}")
    detects = any("task" in found for found in event.evaluations.values())
    console.print(next_step("detect" if detects else "predict", event.run, "IMAGE"))


def _headline(found: dict[str, Any]) -> str:
    """What is told first of an evaluation."""
    if "map50" in found:
        masks = found.get("coco_masks") or {}
        return f"mAP@.5 {found['map50']:.2f} %" + (
            f", of masks {masks['AP50']:.2f} %" if masks.get("AP50") is not None else ""
        )
    if "given_class_error" in found:
        return f"localization error {found['given_class_error']:.2f} %, the class given"
    return f"error {found['top1_error']:.2f} %"
