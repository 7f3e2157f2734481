"""COCO's JSON: images, categories and annotations with boxes and outlines, in one file beside a folder of images.

What the file says is checked before it is believed: numbers that are none, identities that stand twice or nowhere,
boxes that cannot be.  An annotation that is wrong is left out with its reason; a file whose frame is wrong is refused.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from residual.data.images import Problem
from residual.data.objects import ObjectImages, objects, on_image

LARGEST = 1 << 30  # bytes of the file; instances_train2017.json has 448 million
LARGEST_SIDE = 100_000  # pixels


def read_coco(path: Path, images: Path | None = None) -> ObjectImages:
    """The images of the file, in the folder `images` (None: the folder beside the file that holds them).

    Classes in the order of the file's category ids.  Crowds are set aside.  Refuses, as ValueError, a file that is not
    COCO's, ids of images or categories that stand twice, and images that are not there.
    """
    told = _read(path)
    categories = _by_id(path, told, "categories")
    pictures = _by_id(path, told, "images")
    classes = tuple(_text(path, "category", category, "name") for category in categories.values())
    if twice := [name for name, count in Counter(classes).items() if count > 1]:
        raise ValueError(f"{path} has two categories called {twice[0]!r}")
    place = {number: index for index, number in enumerate(categories)}
    folder = _folder(path, images, pictures)
    boxes: dict[int, list[tuple[float, float, float, float]]] = {number: [] for number in pictures}
    labels: dict[int, list[int]] = {number: [] for number in pictures}
    aside: dict[int, list[bool]] = {number: [] for number in pictures}
    areas: dict[int, list[float]] = {number: [] for number in pictures}
    sizes = {number: (_side(path, each, "height"), _side(path, each, "width")) for number, each in pictures.items()}
    problems, seen = [], set[int]()
    for index, annotation in enumerate(told["annotations"]):
        try:
            number, category, box, crowd, area = _annotation(annotation, seen)
            if number not in pictures:
                raise ValueError(f"image_id {number} is none of the file's images")
            if category not in place:
                raise ValueError(f"category_id {category} is none of the file's categories")
            left, top, across, down = box
            height, width = sizes[number]
            boxes[number].append(on_image((left, top, left + across, top + down), height, width))
            areas[number].append(across * down if area is None else area)
            labels[number].append(place[category])
            aside[number].append(crowd)
        except ValueError as problem:
            problems.append(Problem(path=f"{path.name}: annotation {index}", reason=str(problem)))
    names = {number: _text(path, "image", each, "file_name") for number, each in pictures.items()}
    for name in names.values():
        if not (folder / name).is_file():
            raise ValueError(
                f"{path} names the image {name!r}, but there is no {folder / name}; add it or remove its entry"
            )
    return ObjectImages(
        paths=tuple(folder / name for name in names.values()),
        names=tuple(names.values()),
        sizes=tuple(sizes.values()),
        objects=tuple(objects(boxes[number], labels[number], aside[number], areas[number]) for number in pictures),
        classes=classes,
        origin=f"COCO annotations {path.name}",
        problems=tuple(problems),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than {LARGEST:,} bytes; split it")
        told = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        why = "it is nested without end" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path} is not JSON that can be read: {why}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} is not a COCO file: it holds a {type(told).__name__}, not an object")
    for part in ("images", "categories", "annotations"):
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


def _annotation(told: Any, seen: set[int]) -> tuple[int, int, tuple[float, float, float, float], bool, float | None]:
    """Image, category, box (left, top, width, height), whether it is a crowd, the outline's area where it is told."""
    if not isinstance(told, dict):
        raise ValueError("it is not an object")
    for name in ("id", "image_id", "category_id"):
        if not _is_whole(told.get(name)):
            raise ValueError(f"its {name} is {_short(told.get(name))}, not a whole number")
    if told["id"] in seen:
        raise ValueError(f"its id {told['id']} stands twice")
    seen.add(told["id"])
    box = told.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise ValueError(f"its bbox is {_short(box)}, not four numbers")
    if told.get("iscrowd", 0) not in (0, 1):
        raise ValueError(f"its iscrowd is {_short(told['iscrowd'])}, not 0 or 1")
    try:
        left, top, across, down = map(float, box)
    except OverflowError:
        raise ValueError(f"its bbox {_short(box)} is beyond all numbers") from None
    area = told.get("area")
    if area is not None and (not _is_number(area) or not 0 <= area < 1e18):
        raise ValueError(f"its area is {_short(area)}, not a number of square pixels")
    return told["image_id"], told["category_id"], (left, top, across, down), bool(told.get("iscrowd", 0)), area


def _folder(path: Path, images: Path | None, pictures: dict[int, dict[str, Any]]) -> Path:
    """Where the images lie: as told, or the likely places beside annotations/instances_val2017.json."""
    if images is not None:
        return images
    first = _text(path, "image", next(iter(pictures.values())), "file_name")
    split = path.stem.split("_")[-1]
    around = [path.parent, path.parent / "images", path.parent / split]
    around += [path.parent.parent / name for name in ("images", split, f"images/{split}")]
    for folder in around:
        if (folder / first).is_file():
            return folder
    raise ValueError(f"{path} names the image {first!r}, which is in none of {', '.join(map(str, around))}")


def _text(path: Path, what: str, entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{path}: {what} {entry['id']} has no {name}")
    if name == "file_name" and (value.startswith("/") or ".." in Path(value).parts or "\0" in value):
        raise ValueError(f"{path}: image {entry['id']} is called {value[:80]!r}, which leads out of the folder")
    return value


def _side(path: Path, entry: dict[str, Any], name: str) -> int:
    value: Any = entry.get(name)
    if not _is_whole(value) or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"{path}: image {entry['id']} has the {name} {_short(value)}, not a number of pixels")
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    told = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return told if len(told) <= 60 else told[:57] + "..."
