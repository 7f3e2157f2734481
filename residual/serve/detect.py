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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from residual.data.decode import BadImage, Pixels, View, sniff
from residual.data.loader import Decoded, File, Pool
from residual.data.objects import Flags, Floats
from residual.data.outlines import Runs, as_runs, mask_of
from residual.detect.card import DetectorCard
from residual.detect.draw import colour, draw, enlarged
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


class Finder(Protocol):
    """What finds objects: a `residual.detect.detector.Detector`."""

    card: DetectorCard

    def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found: ...


class NotFinite(ValueError):
    """An answer that is no answer."""


Answer = tuple[list[Detection], Flags | None]

# --- what is asked ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """An image or a video to look at.  place: where in the folder of answers the drawn one will lie."""

    name: str
    kind: Literal["image", "video", "unknown"]
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
            kind, stamp = _kind_of(place.name)
            where = _place(name, place.name, kind, len(listed), used)
            listed.append(Source(name=place.name, kind=kind, place=where, file=replace(place, stamp=stamp)))
    if all(source.kind == "unknown" for source in listed):
        given = ", ".join(repr(os.fsdecode(path)) for path in paths[:5])
        why = f": {listed[0].problem}" if len(listed) == 1 and listed[0].problem else ""
        raise ValueError(
            f"there is no image and no video in {given}{why}; images are JPEG, PNG, WebP, BMP and GIF files, videos "
            "MP4, MOV, MKV, WebM, AVI and MPEG"
        )
    return listed


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
    """

    number: int  # of the source, from 0 on
    source: Source
    entry: Entry | None
    done: int
    total: int | None


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
    classes = finder.card.classes

    def answer(pixels: Pixels) -> Answer:
        return _told(finder.find(pixels, procedure), classes, score)

    with Pool(workers=workers) as pool:
        rest = listed[done:]
        decoded = pool.decode(
            (one.file for one in rest if one.file and one.kind != "video"), View(strips=True), window=1
        )
        for number, source in enumerate(rest, start=done):
            if source.kind == "video":
                for entry, frames, total in _video(answer, classes, source, journal, opened):
                    yield Step(number=number, source=source, entry=entry, done=frames, total=total)
                opened = None
                continue
            if source.file is None:
                image = ImageAnswer(path=source.path, detections=[], problem=source.problem)
            else:
                image = _image(answer, classes, source, next(decoded), journal.path.parent)
            journal.append(msgspec.json.encode(image))
            yield Step(number=number, source=source, entry=image, done=number + 1, total=len(listed))


def _image(
    answer: Callable[[Pixels], Answer], classes: Sequence[str], source: Source, decoded: Decoded, folder: Path
) -> ImageAnswer:
    pixels = decoded.pixels
    if isinstance(pixels, BadImage):
        return ImageAnswer(path=source.path, detections=[], problem=str(pixels))
    height, width = pixels.shape[:2]
    try:
        told, masks = answer(pixels)
    except NotFinite as problem:
        return ImageAnswer(path=source.path, size=(width, height), detections=[], problem=str(problem))
    colours = [colour(classes.index(one.label)) for one in told]
    pixels, boxes, masks = enlarged(pixels, _boxes(told), masks)
    drawn = draw(pixels, boxes, [_text(one) for one in told], colours, masks=masks)
    data = io.BytesIO()
    Image.fromarray(drawn).save(data, "PNG" if source.place.lower().endswith(".png") else "JPEG", quality=QUALITY)
    picture = f"{PICTURES}/{source.place}"
    (folder / picture).parent.mkdir(parents=True, exist_ok=True)
    put(folder / picture, [data.getvalue()])
    return ImageAnswer(path=source.path, size=(width, height), picture=printed(picture), detections=told)


def _video(
    answer: Callable[[Pixels], Answer], classes: Sequence[str], source: Source, journal: Journal, opened: int | None
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
        tracker.update(_boxes(before.detections), [classes.index(one.label) for one in before.detections])
        seen = before.frame + 1
    try:
        with Reader(source.name, skip=seen) as reader:
            rate, stated = reader.rate, reader.stated
            for frame in reader:
                told, _ = answer(frame.pixels)
                numbers = tracker.update(_boxes(told), [classes.index(one.label) for one in told])
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
                writer.write(_drawn(frame.pixels, entry.detections, classes))
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


def _told(answer: Found, classes: Sequence[str], score: float) -> Answer:
    """What is sure enough of an answer, with its masks (M, H, W).

    Rounded here, once, so that whatever is made of it is the same when it comes from the journal.
    """
    if not (answer.boxes.isfinite().all() and answer.scores.isfinite().all()):
        raise NotFinite("the network's answer is not finite; its weights are damaged")
    sure = answer.scores >= score
    masks = None if answer.masks is None else answer.masks[sure].numpy()
    told = []
    for number, place in enumerate(sure.nonzero().flatten().tolist()):
        left, top, right, bottom = (round(each, 2) for each in answer.boxes[place].tolist())
        told.append(
            Detection(
                label=classes[int(answer.labels[place])],
                probability=round(float(answer.scores[place]), 6),
                box=(left, top, right, bottom),
                track=None,
                mask=None if masks is None else _mask(masks[number]),
            )
        )
    return told, masks


def _mask(mask: Flags) -> Mask:
    height, width = mask.shape
    return Mask((height, width), as_runs(mask).lengths.tolist())


def _boxes(detections: Sequence[Detection]) -> Floats:
    return np.array([one.box for one in detections], np.float64).reshape(-1, 4)


def _drawn(pixels: Pixels, detections: Sequence[Detection], classes: Sequence[str]) -> Pixels:
    """A frame with what is on it: a track keeps its colour; what has no number yet has that of its class."""
    masks = [mask_of(Runs(np.array(one.mask.counts, np.uint32)), *one.mask.size) for one in detections if one.mask]
    return draw(
        pixels,
        _boxes(detections),
        [_text(one) for one in detections],
        [colour(classes.index(one.label) if one.track is None else one.track - 1) for one in detections],
        masks=np.stack(masks) if masks else None,
    )


def _text(one: Detection) -> str:
    number = "" if one.track is None else f" #{one.track}"
    return f"{' '.join(one.label.split())}{number}  {100 * one.probability:.0f} %"


# --- files -----------------------------------------------------------------------------------------------------


def _kind_of(name: str) -> tuple[Literal["image", "video", "unknown"], tuple[int, int] | None]:
    """What a file is, by how it begins; its bytes and modification time.  Never waits on a fifo."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError):  # decoding it will say what is wrong
        return "unknown", None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return "unknown", None
        start = os.pread(descriptor, START, 0)
    except OSError:
        return "unknown", None
    finally:
        os.close(descriptor)
    kind: Literal["image", "video", "unknown"] = "video" if is_video(start) else "image" if sniff(start) else "unknown"
    return kind, (status.st_size, status.st_mtime_ns)


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
