"""COCO's JSON: images, categories and annotations with boxes and outlines, in one file beside a folder of images.

What the file says is checked before it is believed: numbers that are none, identities that stand twice or nowhere,
boxes that cannot be.  An annotation that is wrong is left out with its reason; a file whose frame is wrong is refused.
It is read whole, which takes several times its bytes in memory, so it has at most 512 MiB, 10 million images and
annotations together, and 50 million lists.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from residual.data.images import Problem
from residual.data.objects import ObjectImages, Objects, is_file, objects, on_image
from residual.data.outlines import Outline, read_outline, short

LARGEST = 1 << 29  # bytes of the file; instances_train2017.json has 448 million
MOST = {b"{": 10_000_000, b"[": 50_000_000}  # of an image or annotation, and of lists; each takes up to 240 bytes
LARGEST_SIDE = 100_000  # pixels
PARTS = ("images", "categories", "annotations")
MOST_PROBLEMS = 50_000  # annotations left out of a file; with more it is no data to train on


def is_coco(path: Path) -> bool:
    """Whether a file speaks of what COCO's files speak of; it may still be none."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return False
        data = path.read_bytes()
    except OSError:
        return False
    return all(f'"{part}"'.encode() in data for part in PARTS)


def read_coco(path: Path, images: Path | None = None) -> ObjectImages:
    """The images of the file, in the folder `images` (None: the folder beside the file that holds them).

    Classes in the order of the file's category ids.  Crowds are set aside.  Outlines become masks one image at a time
    (`objects.with_masks`).  Refuses, as ValueError, a file that is not COCO's, ids of images or categories that stand
    twice, and images that are not there.
    """
    told = _read(path)
    categories = _by_id(path, told, "categories")
    pictures = _by_id(path, told, "images")
    classes = tuple(_text(path, "category", category, "name") for category in categories.values())
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ValueError(f"{path} has two categories called {short(twice[0])}")
    place = {number: index for index, number in enumerate(categories)}
    folder = _folder(path, images, pictures)
    sizes = {number: (_side(path, each, "height"), _side(path, each, "width")) for number, each in pictures.items()}
    found: dict[int, list[_Object]] = {number: [] for number in pictures}
    problems, seen = [], set[int]()
    for index, annotation in enumerate(told["annotations"]):
        try:
            number, here = _annotation(annotation, seen, sizes, place)
            found[number].append(here)
        except ValueError as problem:
            problems.append(Problem(path=f"{path.name}: annotation {index}", reason=str(problem)))
            if len(problems) > MOST_PROBLEMS:
                raise ValueError(
                    f"{path} has more than {MOST_PROBLEMS:,} annotations that are wrong; the last: {problem}"
                ) from None
        told["annotations"][index] = None  # its numbers take many times the room of the outline
    names = tuple(_text(path, "image", each, "file_name") for each in pictures.values())
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} has two images called {short(twice[0])}; put what stands on them under one id")
    if absent := [name for name in names if not is_file(folder / name)]:
        raise ValueError(
            f"{path} names the image {short(absent[0])}, but {folder} has none, and {len(absent) - 1:,} more of its "
            f"{len(names):,} images are not there; add them or remove their entries"
        )
    return ObjectImages(
        paths=tuple(folder / name for name in names),
        names=names,
        sizes=tuple(sizes.values()),
        objects=tuple(_together(here) for here in found.values()),
        classes=classes,
        origin=f"COCO annotations {path.name}",
        problems=tuple(problems),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise ValueError(f"there is no file {path}")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than {LARGEST:,} bytes; split it")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    for bracket, most in MOST.items():
        if (count := data.count(bracket)) > most:
            what = "images and annotations" if bracket == b"{" else "lists of numbers"
            raise ValueError(f"{path} has {count:,} {what}, more than {most:,}, for which memory may lack; split it")
    try:
        told = json.loads(data)
    except (RecursionError, ValueError) as error:  # also bytes that are no text, and numbers of 5,000 digits
        why = "it is nested without end" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not JSON that can be read: {why}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} is not a COCO file: it holds a {type(told).__name__}, not an object")
    for part in PARTS:
        if not isinstance(told.get(part), list):
            raise ValueError(f"{path} is not a COCO file of instances: it has no list {part!r}")
    return told


def _by_id(path: Path, told: dict[str, Any], part: str) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for index, entry in enumerate(told[part]):
        if not isinstance(entry, dict) or not _is_whole(entry.get("id")):
            raise ValueError(f"{path}: {part}[{index}] has no whole number as its id")
        if entry["id"] in found:
            raise ValueError(f"{path}: {part}[{index}] has the id {entry['id']}, which another one has too")
        found[entry["id"]] = entry
    if not found:
        raise ValueError(f"{path} has no {part}")
    return dict(sorted(found.items())) if part == "categories" else found


class _Object(NamedTuple):
    box: tuple[float, float, float, float]
    label: int
    aside: bool
    area: float
    outline: Outline | None


def _together(found: list[_Object]) -> Objects:
    boxes, labels, aside, areas, outlines = zip(*found, strict=True) if found else ((),) * 5
    return objects(boxes, labels, aside, areas, outlines)


def _annotation(
    told: Any, seen: set[int], sizes: dict[int, tuple[int, int]], place: dict[int, int]
) -> tuple[int, _Object]:
    """One object, and the id of its image.  Raises ValueError, saying why it is none."""
    if not isinstance(told, dict):
        raise ValueError("it is not an object")
    for name in ("id", "image_id", "category_id"):
        if not _is_whole(told.get(name)):
            raise ValueError(f"its {name} is {short(told.get(name))}, not a whole number")
    number, image, category = told["id"], told["image_id"], told["category_id"]
    if number in seen:
        raise ValueError(f"its id {short(number)} stands twice")
    seen.add(number)
    if image not in sizes:
        raise ValueError(f"image_id {short(image)} is none of the file's images")
    if category not in place:
        raise ValueError(f"category_id {short(category)} is none of the file's categories")
    box, crowd, area = told.get("bbox"), told.get("iscrowd", 0), told.get("area")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"its bbox is {short(box)}, not four numbers")
    if crowd not in (0, 1):
        raise ValueError(f"its iscrowd is {short(crowd)}, not 0 or 1")
    if area is not None and (not _is_number(area) or not 0 <= area < 1e18):
        raise ValueError(f"its area is {short(area)}, not a number of square pixels")
    try:
        left, top, across, down = map(float, box)
    except OverflowError:
        raise ValueError(f"its bbox {short(box)} is beyond all numbers") from None
    on = on_image((left, top, left + across, top + down), *sizes[image])
    return image, _Object(
        box=on,
        label=place[category],
        aside=bool(crowd),
        area=float((on[2] - on[0]) * (on[3] - on[1]) if area is None else area),
        outline=read_outline(told.get("segmentation"), *sizes[image]),
    )


def _folder(path: Path, images: Path | None, pictures: dict[int, dict[str, Any]]) -> Path:
    """Where the images lie: as told, or the likely places beside annotations/instances_val2017.json."""
    if images is not None:
        return images
    first = _text(path, "image", next(iter(pictures.values())), "file_name")
    split = path.stem.split("_")[-1]
    around = [path.parent, path.parent / "images", path.parent / split]
    around += [path.parent.parent / name for name in ("images", split, f"images/{split}")]
    for folder in around:
        if is_file(folder / first):
            return folder
    raise ValueError(f"{path} names the image {short(first)}, which is in none of {', '.join(map(str, around))}")


def _text(path: Path, what: str, entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: {what} {entry['id']} has no {name}")
    if name == "file_name" and (value.startswith("/") or ".." in Path(value).parts or "\0" in value):
        raise ValueError(f"{path}: image {entry['id']} is called {short(value)}, which leads out of the folder")
    return value


def _side(path: Path, entry: dict[str, Any], name: str) -> int:
    value: Any = entry.get(name)
    if not _is_whole(value) or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"{path}: image {entry['id']} has the {name} {short(value)}, not a number of pixels")
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
