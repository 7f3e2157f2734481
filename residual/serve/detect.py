"""Boxes and masks for images and videos that nobody labelled, on disk as they are found.

A folder of answers holds `detections.jsonl`, the journal, to which every answer is added before it is told;
`pictures/`, the images with what was found on them; the videos likewise, as MP4; and in the end, made of the journal,
`detections.json` and `detections.csv`.  What cannot be used gets an answer too, with a `problem`.  Work that was
interrupted, in whatever way, goes on from the journal to the same two documents, byte for byte.

Shapes: an image of H x W pixels, M objects found on it.
"""

import hashlib
import io
import os
import stat
import unicodedata
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from residual.data.decode import BadImage, Pixels, View, foreign, sniff
from residual.data.loader import Decoded, File, Pool
from residual.data.objects import Floats
from residual.data.outlines import Outline, Runs, short
from residual.data.synsets import synsets
from residual.detect.card import DetectorCard
from residual.detect.detections import Outlines
from residual.detect.draw import CROWD, colour, draw, enlarged
from residual.detect.found import Found
from residual.detect.procedure import IMPROVED, LONGEST, Procedure
from residual.serve.answers import (
    DOCUMENT,
    JOURNAL,
    TABLE,
    Detection,
    Entry,
    FrameAnswer,
    ImageAnswer,
    Mask,
    VideoBegin,
    VideoEnd,
    entry_of,
    kind_of,
    printed,
    put,
)
from residual.serve.journal import Journal
from residual.serve.predict import Prediction, found
from residual.serve.tracks import Tracker
from residual.serve.video import UNFINISHED, BadVideo, Reader, Writer, is_video

PICTURES = "pictures"
LONGEST_NAME = 200  # bytes; file systems have 255, and ours get something added
QUALITY = 90  # of JPEG
START = 400  # bytes of a file that tell what it is
STRANGE = "\ufffd"  # in place of bytes that are no letter

Kind = Literal["image", "video", "unknown"]


class Finder(Protocol):
    """What finds objects: a `residual.detect.detector.Detector`."""

    card: DetectorCard

    def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found: ...


class NotFinite(ValueError):
    """An answer that is no answer."""


class Look:
    """Asks a finder what is on an image, and tells what is sure enough of the answer.

    A localizer's answers are guesses at one object, the first the likeliest: where that is not sure enough, none is.
    surest: class and probability of the surest of the last answer, of a localizer's the first, sure enough or not;
    None where there was none.  drawn: how many of what is told are drawn, the first of them; None: all.
    """

    def __init__(self, finder: Finder, procedure: Procedure, score: float) -> None:
        self.finder, self.procedure, self.score = finder, procedure, score
        self.classes = finder.card.classes
        self.drawn = None if finder.card.localizer is None else 1
        self.surest: tuple[str, float] | None = None

    def __call__(self, pixels: Pixels) -> list[Detection]:
        """Rounded here, once, so that whatever is made of it is the same when it comes from the journal."""
        self.surest = None
        found = self.finder.find(pixels, self.procedure)
        if not (found.boxes.isfinite().all() and found.scores.isfinite().all()):
            raise NotFinite("the network's answer is not finite; its weights are damaged")
        sure = found.scores >= self.score
        if self.drawn is not None:
            sure = sure & sure[:1]
        if len(found):
            first = int(found.scores.argmax()) if self.drawn is None else 0
            self.surest = self.classes[int(found.labels[first])], float(found.scores[first])
        return [
            Detection(
                label=self.classes[int(found.labels[place])],
                probability=round(float(found.scores[place]), 6),
                box=_rounded(found.boxes[place].tolist()),
                track=None,
                mask=None if found.outlines is None else _mask(found.outlines, place),
            )
            for place in sure.nonzero().flatten().tolist()
        ]


# --- what is asked ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image or a video to look at.  place: where in the folder of answers the drawn one will lie."""

    name: str
    kind: Kind
    place: str = ""
    file: File | None = None
    problem: str | None = None  # why there is nothing to look at

    @property
    def path(self) -> str:
        """The name as the documents tell it: bytes that are no UTF-8 as \\xff."""
        return printed(self.name)


def sources(paths: Sequence[str | os.PathLike[str]]) -> list[Source]:
    """All images and videos that are meant by files and folders, in order; every file of a folder, at any depth.

    Raises ValueError where there is none at all.
    """
    listed: list[Source] = []
    used = {JOURNAL, DOCUMENT, TABLE, UNFINISHED}
    for path in paths:
        name = os.fsdecode(path)
        for place in found([name]):
            if isinstance(place, Prediction):
                listed.append(Source(name=place.path, kind="unknown", problem=place.problem))
                continue
            kind, stamp, problem = _kind_of(place.name)
            where = _place(name, place.name, kind, len(listed), used)
            file = replace(place, stamp=stamp)
            listed.append(Source(name=place.name, kind=kind, place=where, file=file, problem=problem))
    if all(source.kind == "unknown" for source in listed):
        given = ", ".join(repr(printed(os.fsdecode(path))) for path in paths[:5])
        raise ValueError(
            f"there is no image and no video in {given}{_why_not(listed)}.  Images are JPEG, PNG, WebP, BMP and GIF "
            "files, videos MP4, MOV, MKV, WebM, AVI and MPEG"
        )
    return listed


def _why_not(listed: Sequence[Source]) -> str:
    """Of the first sources, none of which is anything, what they are; the formats that are read are told after it."""
    known = [(source.path, source.problem.split("; images are ")[0]) for source in listed if source.problem]
    if not known:
        return ""
    if len(listed) == 1:
        return f": {known[0][1]}"
    told = [f"{Path(path).name}: {problem}" for path, problem in known[:3]]
    others = len(listed) - len(told)
    told += [f"and {others:,} other{'s' if others > 1 else ''}"] if others else []
    return f": {'; '.join(told)}"


def improved(procedure: Procedure) -> Procedure:
    """The same with table 9's improvements: five scales in the paper's proportions, boxes judged again, voting."""
    sides = tuple(round(side * procedure.side / IMPROVED.side) for side in IMPROVED.sides)
    widest = min(2 * procedure.longest, LONGEST)
    return replace(procedure, sides=sides, widest=widest, refined=True, voters=IMPROVED.voters)


def begun(
    card: DetectorCard, weights: dict[str, Tensor], listed: Sequence[Source], score: float, procedure: Procedure
) -> dict[str, Any]:
    """The first line of a journal: all that decides the answers."""
    return {
        "network": card.name,
        "weights": digest_of(weights),
        "classes": list(card.classes),
        "score": score,
        "procedure": asdict(procedure),
        "images": hashlib.sha256(
            b"".join(repr((one.path, one.kind, one.file and one.file.stamp)).encode() for one in listed)
        ).hexdigest(),
    }


def digest_of(weights: dict[str, Tensor]) -> str:
    """SHA-256 of a state dict."""
    told = hashlib.sha256()
    for name, value in sorted(weights.items()):
        told.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        told.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return told.hexdigest()


# --- the work --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Step:
    """What was just done.  entry: what the journal has got; None while a video is drawn.

    done, total: of the sources, or of the frames of a video; total is None where the file does not say, and is
    what the file says otherwise.
    surest: class and probability of the network's surest answer, of a localizer's first guess, sure enough or not;
    None where it had none.
    """

    number: int  # of the source, from 0 on
    source: Source
    entry: Entry | None
    done: int
    total: int | None
    surest: tuple[str, float] | None = None

    @property
    def bare(self) -> bool:
        """Whether an image or a frame was looked at on which nothing is."""
        return isinstance(self.entry, ImageAnswer | FrameAnswer) and not self.entry.detections


def detect(
    finder: Finder,
    listed: Sequence[Source],
    journal: Journal,
    *,
    score: float,
    procedure: Procedure,
    workers: int = 1,
) -> Generator[Step, None, None]:
    """Look at all sources that the journal has no answer for; everything is on disk when it is told.

    score: least probability of what is told.  workers: processes that decode images, so that no image can end this
    one; a second saves little, and doubles the images that may be in memory.  To stop, leave the loop.
    """
    done, opened = _position(journal)
    look = Look(finder, procedure, score)
    with Pool(workers=workers) as pool:
        rest = listed[done:]
        decoded = pool.decode(
            (one.file for one in rest if one.file and one.problem is None and one.kind != "video"),
            View(strips=True),
            window=1,
        )
        for number, source in enumerate(rest, start=done):
            look.surest = None
            if source.kind == "video":
                for entry, frames, total in _video(look, source, journal, opened):
                    yield Step(number=number, source=source, entry=entry, done=frames, total=total, surest=look.surest)
                opened = None
                continue
            if source.problem is not None:
                image = ImageAnswer(path=source.path, detections=[], problem=source.problem)
            else:
                image = _image(look, source, next(decoded), journal.path.parent)
            journal.append(msgspec.json.encode(image))
            yield Step(
                number=number, source=source, entry=image, done=number + 1, total=len(listed), surest=look.surest
            )


def _image(look: Look, source: Source, decoded: Decoded, folder: Path) -> ImageAnswer:
    pixels = decoded.pixels
    if isinstance(pixels, BadImage):
        return ImageAnswer(path=source.path, detections=[], problem=str(pixels))
    height, width = pixels.shape[:2]
    try:
        told = look(pixels)
    except NotFinite as problem:
        return ImageAnswer(path=source.path, size=(width, height), detections=[], problem=str(problem))
    drawn, data = _drawn(pixels, told[: look.drawn], look.classes), io.BytesIO()
    Image.fromarray(drawn).save(data, "PNG" if source.place.lower().endswith(".png") else "JPEG", quality=QUALITY)
    picture = f"{PICTURES}/{source.place}"
    (folder / picture).parent.mkdir(parents=True, exist_ok=True)
    put(folder / picture, [data.getvalue()])
    return ImageAnswer(path=source.path, size=(width, height), picture=printed(picture), detections=told)


def _video(
    look: Look, source: Source, journal: Journal, opened: int | None
) -> Iterator[tuple[Entry | None, int, int | None]]:
    """All frames of a video, then the video with what was found on them: what a `Step` tells of each.

    opened: where its journal begins, if it does.
    """

    def said(entry: Entry, done: int, total: int | None) -> tuple[Entry, int, int | None]:
        journal.append(msgspec.json.encode(entry))
        return entry, done, total

    if opened is None:
        opened = journal.length
        yield said(VideoBegin(path=source.path), 0, None)
    tracker, seen = Tracker(), 0
    size = rate = problem = stated = drawn = None
    notes: list[str] = []
    for before in _frames(journal, opened):  # the tracks stand where they stood
        tracker.update(_boxes(before.detections), [look.classes.index(one.label) for one in before.detections])
        seen = before.frame + 1
    try:
        with Reader(source.name, skip=seen) as reader:
            rate, stated = reader.rate, reader.stated
            for frame in reader:
                told = look(frame.pixels)
                numbers = tracker.update(_boxes(told), [look.classes.index(one.label) for one in told])
                tracked = [msgspec.structs.replace(one, track=each) for one, each in zip(told, numbers, strict=True)]
                seen = frame.number + 1
                entry = FrameAnswer(frame=frame.number, time=round(frame.time, 4), detections=tracked)
                yield said(entry, seen, stated)
    except (BadVideo, NotFinite) as bad:
        problem = str(bad) if not seen else f"after {seen:,} frames: {bad}"
    if not seen or rate is None:
        yield said(VideoEnd(problem=problem or "no frame of it can be decoded"), 0, 0)
        return
    if stated is not None and seen < 0.98 * stated - 1:
        notes.append(f"the file says it has {stated:,} frames; {seen:,} could be read")
    path, late = journal.path.parent / source.place, 0.0
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Writer(path, rate=rate) as writer, Reader(source.name) as reader:
            for frame, entry in zip(reader, _frames(journal, opened), strict=False):
                size = (frame.pixels.shape[1], frame.pixels.shape[0])
                late = max(late, abs(entry.time - entry.frame / rate))
                writer.write(_drawn(frame.pixels, entry.detections[: look.drawn], look.classes, large=False))
                yield None, frame.number + 1, seen
        drawn = printed(source.place)
    except BadVideo as bad:
        notes.append(f"no video was drawn: {bad}")
    if late * rate > 2:
        notes.append(f"its frames do not come evenly; the drawn video shows them evenly, off by up to {late:.2f} s")
    yield said(VideoEnd(size=size, rate=rate, video=drawn, notes=notes, problem=problem), seen, seen)


def _position(journal: Journal) -> tuple[int, int | None]:
    """How many sources have their answer, and where the journal of a video begins that has not all of it."""
    done, opened, place = 0, None, 0
    for number, line in enumerate(journal.lines()):
        if number:
            match kind_of(line):
                case "video":
                    opened = place
                case "image" | "end":
                    done, opened = done + 1, None
        place += len(line) + 1
    return done, opened


def _frames(journal: Journal, opened: int) -> Iterator[FrameAnswer]:
    """The answers of one video so far."""
    lines = journal.lines(opened)
    next(lines)
    for line in lines:
        entry = entry_of(line)
        if not isinstance(entry, FrameAnswer):
            return
        yield entry


def _rounded(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = (round(each, 2) for each in box)
    return left, top, right, bottom


def _mask(outlines: Outlines, place: int) -> Mask:
    return Mask(outlines.size, outlines.runs[place].lengths.tolist())


def _boxes(detections: Sequence[Detection]) -> Floats:
    return np.array([one.box for one in detections], np.float64).reshape(-1, 4)


def _drawn(pixels: Pixels, told: Sequence[Detection], classes: Sequence[str], *, large: bool = True) -> Pixels:
    """What is on an image, drawn on it.

    A track keeps its colour; what has no number has that of its class, or of its own where all are of one class.
    large: a small image is enlarged.
    """
    boxes = _boxes(told)
    outlines: Sequence[Outline] = [Runs(np.array(one.mask.counts, np.uint32)) for one in told if one.mask]
    if large:
        pixels, boxes, outlines = enlarged(pixels, boxes, outlines)
    own = [number if len(classes) == 1 else classes.index(one.label) for number, one in enumerate(told)]
    colours = [colour(each if one.track is None else one.track - 1) for each, one in zip(own, told, strict=True)]
    return draw(pixels, boxes, _texts(told, classes), colours, outlines=outlines)


def _texts(told: Sequence[Detection], classes: Sequence[str]) -> list[str]:
    """A label for each; in a crowd of the one class that there is, without its name, which leaves more room."""
    named = len(classes) > 1 or len(told) <= CROWD
    return [_text(one, named=named) for one in told]


def _text(one: Detection, *, named: bool) -> str:
    name = " ".join(called(one.label).split()) if named else ""
    number = "" if one.track is None else f" #{one.track}"
    return f"{name}{number}  {100 * one.probability:.0f} %".strip()


def called(label: str) -> str:
    """A class as people call it: ImageNet's by name, where its id is what the network was taught."""
    return synsets().get(label, label)


# --- files -----------------------------------------------------------------------------------------------------


def _kind_of(name: str) -> tuple[Kind, tuple[int, int] | None, str | None]:
    """What a file is, by how it begins; its bytes and modification time; why it is no use.  Never waits on a fifo."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):  # decoding it will say what is wrong
        return "unknown", None, None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "unknown", None, None
        start = os.pread(descriptor, START, 0)
    except OSError:
        return "unknown", None, None
    finally:
        os.close(descriptor)
    stamp = status.st_size, status.st_mtime_ns
    if is_video(start):
        return "video", stamp, None
    return ("image", stamp, None) if sniff(start) else ("unknown", stamp, _what_instead(start, status.st_size))


def _what_instead(start: bytes, size: int) -> str:
    """What a file is that is neither an image nor a video, as far as its beginning shows."""
    if not size:
        return "the file is empty"
    if (known := foreign(start)) is not None:
        return known
    text = start.decode("utf-8", "replace").removesuffix(STRANGE)  # the last letter may be cut through
    if STRANGE not in text and all(letter.isprintable() or letter.isspace() for letter in text):
        return f"{size:,} bytes of text that begin {short(text.strip()[:40])}, neither an image nor a video"
    return f"{size:,} bytes that begin {start[:8].hex(' ')}, neither an image nor a video"


def _place(given: str, name: str, kind: str, number: int, used: set[str]) -> str:
    """A place for a drawn file that no other has, on any file system: the name of the folder given, then its tree."""
    path, folder = Path(name), Path(given)
    where = path.relative_to(folder) if path != folder else Path(path.name)
    where = Path(folder.resolve().name) / where if path != folder else where
    if kind == "video":
        where = where.with_suffix(".mp4")
    elif where.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        where = where.with_name(f"{where.name}.png")
    if len(os.fsencode(where.name)) > LONGEST_NAME:
        where = where.with_name(f"{number}{where.suffix}")

    def told(path: Path) -> str:
        return unicodedata.normalize("NFC", path.as_posix()).casefold()

    while {told(where), f"{told(where)}/", *map(told, where.parents)} & used:
        where = Path(f"{number}-{where.parts[0]}", *where.parts[1:])
    used.update({told(where), *(f"{told(parent)}/" for parent in where.parents)})
    return where.as_posix()
