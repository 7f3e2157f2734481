"""What was found on images and videos: the lines of the journal, and the documents that are made of them.

`detections.json` is one object: what the answers are of, then `images`, an object each, then `videos`, an object each
with its `frames`.  `detections.csv` has a row per detection.  Both are made a line at a time, in little memory.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from residual.serve.journal import Journal

JOURNAL, DOCUMENT, TABLE = "detections.jsonl", "detections.json", "detections.csv"
FORMAT = 1
ABOUT = ("network", "weights", "classes", "score", "procedure")  # what the document repeats of the first line
COLUMNS = ("path", "frame", "time", "class", "probability", "left", "top", "right", "bottom", "track")


class Mask(msgspec.Struct, frozen=True):
    """Pixels as COCO's run lengths: down the columns from left to right, outside, inside, outside, ..."""

    size: tuple[int, int]  # height and width
    counts: list[int]


class Detection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One object.  box: left, top, right, bottom, in pixels from the upper left corner."""

    label: str = msgspec.field(name="class")
    probability: float
    box: tuple[float, float, float, float]
    track: int | None  # its number on a video, as soon as it has one
    mask: Mask | None = None


class ImageAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="image"):
    """What is on one image; or why that is not known."""

    path: str
    size: tuple[int, int] | None = None  # width and height
    picture: str | None = None  # the image with what was found on it, in the folder of answers
    detections: list[Detection]
    problem: str | None = None


class VideoBegin(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="video"):
    """The frames that follow are of this video."""

    path: str


class FrameAnswer(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="frame"):
    """What is on one frame.  frame: from 0 on; time: seconds from the beginning."""

    frame: int
    time: float
    detections: list[Detection]


class VideoEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="end"):
    """What there is to say of a video when all of it has been seen.  A problem is why it was not, or not to its end."""

    size: tuple[int, int] | None = None
    rate: float | None = None  # frames per second
    video: str | None = None  # with what was found on it, in the folder of answers
    notes: list[str] = []
    problem: str | None = None


Entry = ImageAnswer | VideoBegin | FrameAnswer | VideoEnd


class _Kind(msgspec.Struct):
    """As much of a line as tells what it is."""

    kind: str


_entry: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_kind = msgspec.json.Decoder(_Kind)


def entry_of(line: bytes) -> Entry:
    """A line of the journal, other than the first."""
    return _entry.decode(line)


def kind_of(line: bytes) -> str:
    """What it is, without looking at the rest: image, video, frame or end."""
    return _kind.decode(line).kind


def printed(path: str | Path) -> str:
    """A path as the documents tell it: bytes that are no UTF-8 as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_documents(journal: Journal) -> None:
    """`detections.json` and `detections.csv`, from the journal, a line at a time."""
    put(journal.path.with_name(DOCUMENT), _document(journal))
    put(journal.path.with_name(TABLE), _table(journal))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Of all that a journal holds: images and videos that are not used, or not to their end, and why the first is."""

    objects: int  # on images and frames
    pictures: int  # images and frames
    images: int  # alone
    bare: int  # images that were looked at and on which nothing is
    bad: int
    problem: str | None


def tally(journal: Journal) -> Tally:
    """Count what was found."""
    objects = pictures = images = bare = bad = 0
    problem = None
    for line in _after_first(journal):
        entry = entry_of(line)
        if isinstance(entry, ImageAnswer | FrameAnswer):
            objects += len(entry.detections)
            pictures += not (isinstance(entry, ImageAnswer) and entry.problem)
        if isinstance(entry, ImageAnswer) and entry.problem is None:
            images += 1
            bare += not entry.detections
        if isinstance(entry, ImageAnswer | VideoEnd) and entry.problem is not None:
            bad += 1
            problem = problem or entry.problem
    return Tally(objects=objects, pictures=pictures, images=images, bare=bare, bad=bad, problem=problem)


def _document(journal: Journal) -> Iterator[bytes]:
    """First the images, then the videos with their frames; every line of the journal is a line of it."""
    first = msgspec.json.decode(next(journal.lines()))
    head = {"format": FORMAT, **{name: first[name] for name in ABOUT}}
    yield msgspec.json.encode(head)[:-1] + b',\n"images": ['
    between = b"\n"
    for line in _after_first(journal):
        if kind_of(line) == "image":
            yield between + line
            between = b",\n"
    yield b'\n],\n"videos": ['
    between = b"\n"
    for line in _after_first(journal):
        match kind_of(line):
            case "video":
                yield between + line[:-1] + b', "frames": ['
                between = b"\n"
            case "frame":
                yield between + line
                between = b",\n"
            case "end":
                rest = line.removeprefix(b'{"kind":"end"')
                yield b"\n]" + rest
                between = b",\n"
    yield b"\n]}\n"


def _table(journal: Journal) -> Iterator[bytes]:
    """A row per detection."""
    yield _rows([COLUMNS])
    path = ""
    for line in _after_first(journal):
        match entry_of(line):
            case ImageAnswer() as image:
                yield _rows((image.path, "", "", *_row(one)) for one in image.detections)
            case VideoBegin() as video:
                path = video.path
            case FrameAnswer() as frame:
                yield _rows((path, frame.frame, frame.time, *_row(one)) for one in frame.detections)


def _rows(rows: Iterable[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _row(one: Detection) -> tuple[Any, ...]:
    return (one.label, one.probability, *one.box, one.track)


def _after_first(journal: Journal) -> Iterator[bytes]:
    lines = journal.lines()
    next(lines)
    return lines


def put(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file that appears under its name only when it is complete and on disk."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
