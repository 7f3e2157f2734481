"""What is wrong with images with objects, before training: `residual data check DIR` for boxes and outlines.

Shapes: M objects, A anchors.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residual.data.decode import BadImage, read
from residual.data.images import Problem
from residual.data.objects import Floats, ObjectImages, Objects
from residual.data.open_objects import ObjectDataset

FEW = 20  # training objects; of a class with fewer, little can be learned
OVER = 1.0  # pixels by which a box may reach over its image unnamed: tools count pixels from 0 or from 1
NEARLY = 0.95  # share of its image from which a box is told to cover it
SMALL, MEDIUM = 32**2, 96**2  # square pixels at which COCO's small and medium objects end
SIDE, LONGEST = 600, 1000  # pixels: the shorter side an image is brought to, unless the longer gets longer (Ren 2015)
ANCHORS = (  # square roots of their areas on such images: for PASCAL VOC, for COCO, on a pyramid of features
    (128, 256, 512), (64, 128, 256, 512), (32, 64, 128, 256, 512)
)  # fmt: skip
SHAPES = (0.5, 1.0, 2.0)  # height / width
ENOUGH = 0.5  # overlap of an anchor with its object


@dataclass(frozen=True, kw_only=True)
class Count:
    """A class in a split: its objects to be found, and on how many images they are.

    aside: objects that are difficult or crowds, in addition.
    """

    images: int
    objects: int
    aside: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """A split.

    most: objects on one image, whose name is `fullest`.  empty: names of images with no object at all.  emptied: of
    those, the ones of which some were told, and all were left out.
    areas: objects that are small, medium and large, by COCO's areas.
    """

    images: int
    objects: int
    aside: int
    classes: dict[str, Count]
    most: int
    fullest: str
    empty: tuple[str, ...]
    emptied: tuple[str, ...]
    areas: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Marked:
    """One object.  box: left, top, right, bottom, pixels.  over: by how many it reached over its image, before it was
    cut to it.
    """

    split: str
    name: str  # of its image
    label: str
    box: tuple[float, float, float, float]
    over: float = 0.0

    @property
    def size(self) -> str:
        """Width and height, pixels."""
        left, top, right, bottom = self.box
        return f"{right - left:.0f}x{bottom - top:.0f}"


@dataclass(frozen=True, kw_only=True)
class Equal:
    """Images whose files are the same, byte by byte."""

    names: tuple[str, ...]
    splits: tuple[str, ...]  # of each

    @property
    def across_splits(self) -> bool:
        """Whether training images are tested on."""
        return len(set(self.splits)) > 1


@dataclass(frozen=True, kw_only=True)
class ObjectCheck:
    """Everything that is known about images with objects before training."""

    origin: str
    split: dict[str, Any]  # how the splits came to be
    parts: dict[str, Part]  # by split
    faults: tuple[Problem, ...]  # for which training refuses the data
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    kinds: dict[str, int]  # reason, its numbers and names left out -> problems
    few: dict[str, int]  # class -> training objects, of those that have fewer than FEW
    sizes: dict[str, int]  # "500x375" -> images
    smallest: Marked | None
    largest: Marked | None
    cut: tuple[Marked, ...]  # boxes that reached over their image, and lie on it now
    whole: tuple[Marked, ...]  # boxes that cover nearly all of their image
    repeated: tuple[Marked, ...]  # objects that another one with the same box and class says again
    equal: tuple[Equal, ...]
    one_class: bool  # each image has objects of one class, of which there are several: what localization is about
    masks: bool  # every object has an outline
    without_outline: int  # objects, where others have one
    reached: dict[str, float]  # sides of anchors -> share of the training objects that one of them can overlap enough


def check_objects(data: ObjectDataset) -> ObjectCheck:
    """Count, compare and list.  Files of equal length are read once more, to see whether they are the same."""
    splits = data.splits()
    parts = {split: _part(images) for split, images in splits.items()}
    smallest, largest = _extremes(splits)
    training = parts["train"].classes
    every = [here for images in splits.values() for here in images.objects]
    outlined = [outline is not None for here in every for outline in here.outlines or (None,) * len(here)]
    return ObjectCheck(
        origin=data.origin,
        split=data.split,
        parts=parts,
        faults=data.faults,
        problems=data.problems,
        notes=data.notes,
        kinds=dict(Counter(_kind(problem.reason) for problem in data.problems).most_common()),
        few={name: count.objects for name, count in training.items() if count.objects < FEW},
        sizes=dict(
            Counter(f"{width}x{height}" for images in splits.values() for height, width in images.sizes).most_common()
        ),
        smallest=smallest,
        largest=largest,
        cut=tuple(_cut(splits)),
        whole=tuple(_whole(splits)),
        repeated=tuple(_repeated(splits)),
        equal=tuple(_equal(splits)),
        one_class=len(data.classes) > 1 and all(len(np.unique(here.labels)) == 1 for here in every),
        masks=all(outlined),
        without_outline=outlined.count(False) if any(outlined) else 0,
        reached={", ".join(map(str, sides)): _reached(data.train, sides) for sides in ANCHORS},
    )


def best_overlaps(sides: Floats, anchors: Floats) -> NDArray[np.float64]:
    """(M,) overlap of each object with the anchor that fits it best, were they to share their middle.

    sides: (M, 2) and anchors: (A, 2) widths and heights.
    """
    shared = np.minimum(sides[:, None], anchors[None]).prod(2)  # (M, A)
    areas = sides.prod(1)[:, None] + anchors.prod(1)[None]
    return np.asarray((shared / (areas - shared)).max(1, initial=0.0))


def _part(images: ObjectImages) -> Part:
    counts = {name: [0, 0, 0] for name in images.classes}
    areas = {"small": 0, "medium": 0, "large": 0}
    for here in images.objects:
        for label in np.unique(here.labels):
            aside = here.aside[here.labels == label]
            count = counts[images.classes[label]]
            count[0] += not aside.all()
            count[1] += int((~aside).sum())
            count[2] += int(aside.sum())
        sizes = np.digitize(here.areas[~here.aside], (SMALL, MEDIUM))
        for name, number in zip(areas, np.bincount(sizes, minlength=3).tolist(), strict=True):
            areas[name] += number
    fullest = max(range(len(images)), key=lambda number: len(images.objects[number]))
    return Part(
        images=len(images),
        objects=sum(count[1] for count in counts.values()),
        aside=sum(count[2] for count in counts.values()),
        classes={name: Count(images=i, objects=o, aside=a) for name, (i, o, a) in counts.items()},
        most=len(images.objects[fullest]),
        fullest=images.names[fullest],
        empty=tuple(name for name, here in zip(images.names, images.objects, strict=True) if not len(here)),
        emptied=images.emptied,
        areas=areas,
    )


def _extremes(splits: dict[str, ObjectImages]) -> tuple[Marked | None, Marked | None]:
    """The objects to be found with the smallest and the largest box, if there are any."""
    found = [
        (area, split, number, index)
        for split, images in splits.items()
        for number, here in enumerate(images.objects)
        for index, area in enumerate(_spans(here).tolist())
        if not here.aside[index]
    ]
    if not found:
        return None, None
    (_, first, *least), (_, second, *most) = min(found), max(found)
    return _marked(first, splits[first], *least), _marked(second, splits[second], *most)


def _spans(here: Objects) -> NDArray[np.float64]:
    """(M,) areas of the boxes, square pixels."""
    return np.asarray((here.boxes[:, 2:] - here.boxes[:, :2]).prod(1))


def _marked(split: str, images: ObjectImages, number: int, index: int) -> Marked:
    here = images.objects[number]
    left, top, right, bottom = here.boxes[index].tolist()
    label = images.classes[int(here.labels[index])]
    over = 0.0 if here.over is None else float(here.over[index])
    return Marked(split=split, name=images.names[number], label=label, box=(left, top, right, bottom), over=over)


def _cut(splits: dict[str, ObjectImages]) -> Iterator[Marked]:
    for split, images in splits.items():
        for number, here in enumerate(images.objects):
            for index in () if here.over is None else np.flatnonzero(here.over > OVER).tolist():
                yield _marked(split, images, number, index)


def _whole(splits: dict[str, ObjectImages]) -> Iterator[Marked]:
    for split, images in splits.items():
        for number, (here, (height, width)) in enumerate(zip(images.objects, images.sizes, strict=True)):
            for index in np.flatnonzero(_spans(here) >= NEARLY * height * width).tolist():
                yield _marked(split, images, number, index)


def _repeated(splits: dict[str, ObjectImages]) -> Iterator[Marked]:
    for split, images in splits.items():
        for number, here in enumerate(images.objects):
            seen = set[tuple[float, ...]]()
            for index, told in enumerate(zip(here.labels.tolist(), *here.boxes.T.tolist(), strict=True)):
                if told in seen:
                    yield _marked(split, images, number, index)
                seen.add(told)


def _equal(splits: dict[str, ObjectImages]) -> Iterator[Equal]:
    """Only what has as many bytes as something else is read."""
    lengths: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for split, images in splits.items():
        for number in range(len(images)):
            lengths[_length(images, number)].append((split, number))
    for members in lengths.values():
        groups: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
        for split, number in members if len(members) > 1 else ():
            groups[_digest(splits[split], number)].append((split, number))
        for alike in groups.values():
            if len(alike) > 1:
                names = tuple(splits[split].names[number] for split, number in alike)
                yield Equal(names=names, splits=tuple(split for split, _ in alike))


def _length(images: ObjectImages, number: int) -> int:
    return images.paths[number].stat().st_size if images.pixels is None else images.pixels[number].nbytes


def _digest(images: ObjectImages, number: int) -> bytes:
    if images.pixels is not None:
        picture = images.pixels[number]
        return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()
    try:
        return hashlib.sha256(read(str(images.paths[number]))).digest()
    except BadImage as problem:
        raise ValueError(f"{images.paths[number]}: {problem}") from None


def _reached(images: ObjectImages, sides: tuple[int, ...]) -> float:
    anchors = np.array([(side / shape**0.5, side * shape**0.5) for side in sides for shape in SHAPES])
    enough = total = 0
    for here, (height, width) in zip(images.objects, images.sizes, strict=True):
        by = min(SIDE / min(height, width), LONGEST / max(height, width))
        boxes = here.boxes[~here.aside] * by
        enough += int((best_overlaps(boxes[:, 2:] - boxes[:, :2], anchors) >= ENOUGH).sum())
        total += len(boxes)
    return enough / max(1, total)


def _kind(reason: str) -> str:
    """A reason without what tells one problem from another of its kind."""
    return re.sub(r"'[^']*'|-?\d[\d.,]*(?<![.,])|(?<=\().*(?=\))", "...", reason)
