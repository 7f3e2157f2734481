"""residual detect: boxes and masks on images and videos."""

import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from residual.cli.terminal import clock, listen, next_step, printable

if TYPE_CHECKING:
    from residual.detect.card import DetectorCard
    from residual.detect.detector import Detector
    from residual.detect.procedure import Procedure
    from residual.pipeline import Stop
    from residual.serve.answers import Tally
    from residual.serve.classes import Placing
    from residual.serve.detect import Step

QUIET = 15.0  # seconds between plain lines of how far it is
NAMED = 5  # objects on a line, and classes that a localizer guesses
OUT = Path("detections")

Kind = Literal["objects", "guesses", "places"]  # what is told: a localizer guesses classes, or places a classifier's


def detect(
    weights: Annotated[Path, typer.Argument(metavar="RUN|WEIGHTS", help="A run folder or a file of weights.")],
    paths: Annotated[list[str], typer.Argument(metavar="IMAGE|DIR|VIDEO", help="Files, and folders of them.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; by default detections/NAME.")] = None,
    score: Annotated[
        float | None,
        typer.Option(metavar="P", help="Least probability; by default 0.5, and 0 of a localizer.", min=0, max=1),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="RUN|WEIGHTS", help="Localizers: a classifier that tells the five classes.")
    ] = None,
    protocol: Annotated[
        Literal["plain", "improved"], typer.Option(help="plain: as trained; improved: as in table 9, much slower.")
    ] = "plain",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command ended.")] = False,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, cuda, mps.")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that decode images.", min=0)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image and frame.")] = False,
) -> None:
    """Find the objects on each image and on each frame of each video.

    Draws them into new files and lists them in detections.json and detections.csv; what was given stays as it is.
    A localizer takes each for a picture of one thing and tells five classes that it may be, with a box for each.
    Whatever cannot be read is named with its reason, and the exit code is 1; it is 2 when nothing could be read.
    """
    from residual.detect.weights import load
    from residual.pipeline import Stop
    from residual.serve import detect as serving
    from residual.serve.answers import DOCUMENT, JOURNAL, tally, write_documents
    from residual.serve.journal import Journal
    from residual.serve.video import need_opencv
    from residual.train.precision import keep_freed_memory, pick_device

    for path in paths:
        if path == "-" or not Path(path).exists():
            raise ValueError(f"there is no {path!r}; give image files, videos, or folders of them")
    folder = out if out is not None else OUT / _name(paths[0])
    _refuse_folder(folder, paths, resume=resume)
    _refuse_classifier(weights)
    keep_freed_memory()
    detector = load(weights)
    card = detector.card
    least = score if score is not None else 0.0 if card.localizer is not None else 0.5
    procedure = _procedure(card, protocol)
    listed = serving.sources(paths)
    if any(source.kind == "video" for source in listed):
        need_opencv()
    finder = detector if classes is None else _placing(detector, classes, device)
    first = serving.begun(card, finder.state_dict(), listed, least, procedure)
    detector.to(pick_device(device))
    stop = Stop()
    listen(stop)
    folder.mkdir(parents=True, exist_ok=True)
    line = LiveLine(stop)
    given: dict[str, object] = {"--score": score, "--classes": classes, "--protocol": protocol, "--device": device}
    with Journal(folder / JOURNAL, first) as journal:
        gone_on = len(list(islice(journal.lines(), 2))) > 1
        steps = serving.detect(finder, listed, journal, score=least, procedure=procedure, workers=workers)
        kind: Kind = "objects" if card.localizer is None else "guesses" if classes is None else "places"
        if not _show(steps, line, kind, as_json=as_json):
            if not as_json:
                print(printable(f"Stopped; all that was found so far is in {folder / JOURNAL}."))
                print(next_step("detect", weights, *paths, *_options(given), "--out", folder, "--resume"))
            raise typer.Exit(128 + stop.signal)
        write_documents(journal)
        total = tally(journal)
    if not total.pictures:
        all_in = f"; each one is in {folder / DOCUMENT}" if total.bad > 1 else ""
        raise ValueError(f"nothing could be read of {', '.join(paths[:5])}: {total.problem}{all_in}")
    if not as_json:
        _say_what_was_found(total, card, folder, kind)
        if total.bare or not total.objects:
            missed = line.missed_images if total.objects else line.missed
            _say_what_was_not_found(total, None if gone_on else missed, least, kind, gone_on=gone_on)
            if missed is not None and not gone_on:
                less = f"{_less(missed[1]):g}"
                given |= {"--score": less, "--out": f"{folder}-{less}"}
                print(next_step("detect", weights, *paths, *_options(given)))
    if total.bad:
        raise typer.Exit(1)


def _name(path: str) -> str:
    whole = Path(path).resolve()
    return (whole.name if whole.is_dir() else whole.stem) or "all"


def _refuse_folder(folder: Path, paths: list[str], *, resume: bool) -> None:
    """The folder of answers is new, or goes on; it is never among the user's own images."""
    from residual.serve.answers import JOURNAL

    if resume:
        if not (folder / JOURNAL).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ValueError(
                f"{folder} holds nothing to go on with (it has no {JOURNAL}); leave --resume out, or name the folder "
                "with --out"
            )
    elif folder.exists() or folder.is_symlink():
        raise ValueError(
            f"{folder} exists and is not written to; go on with it by --resume, or name another folder with --out"
        )
    for path in paths:
        if Path(path).is_dir() and folder.resolve().is_relative_to(Path(path).resolve()):
            raise ValueError(f"{folder} lies in {path}, whose images are read; name a folder elsewhere with --out")


def _refuse_classifier(weights: Path) -> None:
    from residual.detect.weights import holds_detector
    from residual.weights.sources import load

    if holds_detector(weights):
        return
    try:
        load(weights)
    except (ValueError, OSError):  # no classifier either: loading it as a detector says what is wrong
        return
    raise ValueError(f"{weights} is a classifier, which finds no boxes; use: residual predict {weights} IMAGE")


def _procedure(card: "DetectorCard", protocol: str) -> "Procedure":
    from residual.serve.detect import improved

    if protocol == "plain":
        return card.procedure
    if card.detector is None:
        raise ValueError(f"--protocol improved is for Faster R-CNN, and {card.name} is another network; leave it out")
    return improved(card.procedure)


def _placing(detector: "Detector", classes: Path, device: str) -> "Placing":
    from residual.serve.classes import Placing
    from residual.train.precision import pick_device
    from residual.weights.sources import load

    if detector.card.localizer is None:
        raise ValueError(
            f"--classes tells a localizer what to place, and {detector.card.name} finds its classes itself; leave it "
            "out"
        )
    return Placing(detector, load(classes).to(pick_device(device)), of=classes)


def _options(given: dict[str, object]) -> list[object]:
    """The options that were given, as words of a command."""
    return [word for name, value in given.items() if value not in (None, "plain", "auto") for word in (name, value)]


# --- what is said in the end -----------------------------------------------------------------------------------


def _say_what_was_found(total: "Tally", card: "DetectorCard", folder: Path, kind: Kind) -> None:
    from residual.serve.answers import DOCUMENT

    found, guessed = _many(total.objects, "object" if kind == "objects" else "answer"), min(NAMED, len(card.classes))
    if kind != "objects" and total.objects == guessed * total.pictures:
        found = f"The {guessed} likeliest classes, with a box for each, the first of them drawn,"
    bad = f"; {total.bad:,} could not be used" if total.bad else ""
    print(printable(f"{found} on {_many(total.pictures, 'picture')}{bad}.  All is in {folder}: {DOCUMENT}"))
    if kind == "guesses" and total.objects:
        print("The classes are guesses of the localizer; a classifier of the same classes tells better: --classes RUN")


def _say_what_was_not_found(
    total: "Tally", missed: tuple[str, float] | None, score: float, kind: Kind, *, gone_on: bool
) -> None:
    """Where nothing was sure enough: how sure the network was, and of what.

    On images, or, where there is no object at all, on frames too.  missed: the surest there, class and probability.
    gone_on: what was seen before is not known any more.
    """
    from residual.serve.detect import called

    what = "nothing" if kind == "objects" else "no first guess"
    where = f"On {total.bare:,} of {_many(total.images, 'image')} {what}" if total.objects else what.capitalize()
    bar = f"{where} was as sure as {100 * score:g} %"
    if missed is not None:
        name, sure = missed
        print(printable(f"{bar}; the surest there was {called(name)} with {100 * sure:.1f} %.  --score sets the bar."))
    elif gone_on:
        print(f"{bar}; a lower --score tells more.")
    else:
        print(f"{bar}, nor as sure as anything: the network had no answer at all, whatever --score.")


def _less(sure: float) -> float:
    """A round number that so sure an answer reaches: 0.3 of 0.37, 0.04 of 0.048; 0 of less than one in a hundred."""
    place = 10 if sure >= 0.1 else 100
    return int(sure * place) / place


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


# --- what is seen of the work ----------------------------------------------------------------------------------


def _show(steps: Generator["Step", None, None], line: "LiveLine", kind: Kind, *, as_json: bool) -> bool:
    """Follow the work to its end; whether it came to it.  Another answer is told as soon as it is on disk."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    told = time.monotonic()
    with closing(steps), Live(line, console=console, transient=True) if _live(console, as_json) else nullcontext():
        for step in steps:
            line.saw(step)
            if as_json:
                if step.entry is not None:
                    print(msgspec.json.encode(step.entry).decode(), flush=True)
            elif news := _news(step, kind):
                console.print(printable(news))
            if not as_json and not console.is_terminal and time.monotonic() - told > QUIET:
                told = time.monotonic()
                console.print(printable(line.text()))
            if line.stop.signal:
                return False
    return True


def _live(console: Console, as_json: bool) -> bool:
    return console.is_terminal and not as_json


def _news(step: "Step", kind: Kind) -> str:
    """What there is to say of a finished image or video; nothing of a frame."""
    from residual.serve.answers import ImageAnswer, VideoEnd
    from residual.serve.detect import called

    match step.entry:
        case ImageAnswer(problem=None, path=path, detections=[]):
            what = "surest" if kind == "objects" else "first guess"
            nearest = f" ({what}: {called(step.surest[0])} {100 * step.surest[1]:.1f} %)" if step.surest else ""
            return f"{path}: nothing found{nearest}"
        case ImageAnswer(problem=None, path=path, detections=found):
            form = "{} (box {:.0f} %)" if kind == "places" else "{} {:.0f} %"
            said = ", ".join(form.format(called(one.label), 100 * one.probability) for one in found[:NAMED])
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            return f"{path}: {'one of ' if kind != 'objects' and len(found) > 1 else ''}{said}{more}"
        case ImageAnswer(problem=problem, path=path):
            return f"{path}: not used: {problem}"
        case VideoEnd(problem=problem, notes=notes):
            told = [*notes, *([problem] if problem else [])]
            if not step.done:
                return f"{step.source.path}: not used: {'; '.join(told)}"
            return f"{step.source.path}: " + "; ".join([_many(step.done, "frame"), *told])
    return ""


def _surer(before: tuple[str, float] | None, now: tuple[str, float]) -> tuple[str, float]:
    return now if before is None or now[1] > before[1] else before


class LiveLine:
    """How far the work is and how long the part of it under way will take: all images, the frames of a video, ...

    missed, missed_images: class and probability of the surest answer where none was sure enough, on images and frames
    and on images alone.
    """

    def __init__(self, stop: "Stop") -> None:
        self.stop = stop
        self.missed: tuple[str, float] | None = None
        self.missed_images: tuple[str, float] | None = None
        self.step: Step | None = None
        self.leg: tuple[object, ...] = ()
        self.since, self.begun, self.now = 0.0, 0, 0.0

    def saw(self, step: "Step") -> None:
        """From now on tell of this step.  The first of a leg warms things up and does not count for its pace."""
        self.step, self.now = step, time.monotonic()
        if step.surest is not None and step.bare:
            self.missed = _surer(self.missed, step.surest)
            if step.source.kind != "video":
                self.missed_images = _surer(self.missed_images, step.surest)
        leg = (step.source.kind == "video" and step.number, step.entry is None)
        if leg != self.leg or step.done <= 1:
            self.leg, self.since, self.begun = leg, self.now, step.done

    def left(self) -> float | None:
        """Seconds, by the pace of this leg so far; None while it has none, or no end is known."""
        step = self.step
        if step is None or step.total is None or step.done <= self.begun or step.done > step.total:
            return None
        expected = (self.now - self.since) / (step.done - self.begun) * (step.total - step.done)
        return max(0.0, expected - (time.monotonic() - self.now))

    def text(self) -> str:
        """On one line, for where there is no terminal."""
        left = self.left()
        return self._doing() + ("" if left is None else f"; {clock(left)} left")

    def _doing(self) -> str:
        if self.stop.signal:
            return "stopping after this image or frame; Ctrl-C again ends at once"
        step = self.step
        if step is None:
            return "looking at the first"
        of = "" if step.total is None else f" of {step.total:,}"
        if step.source.kind != "video":
            return f"{step.done:,}{of} files"
        return f"{step.source.path}: {'drawing ' if step.entry is None else ''}frame {step.done:,}{of}"

    def __rich__(self) -> RenderableType:
        text = Text(printable(self._doing()), style="dim", no_wrap=True, overflow="ellipsis")
        step = self.step
        if step is None or not step.total or step.done > step.total:
            return text
        line = Table.grid(expand=True, padding=(0, 2, 0, 0))
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_column(no_wrap=True)
        left = self.left()
        line.add_row(
            ProgressBar(total=step.total, completed=step.done),
            f"{100 * step.done / step.total:.0f} %",
            "" if left is None else f"{clock(left)} left",
        )
        return Group(line, text)
