"""COCO's JSON: images, categories and annotations with boxes and outlines, in one file beside a folder of images.

What the file says is checked before it is believed: numbers that are none, identities that stand twice or nowhere,
boxes that cannot be.  An annotation that is wrong is left out with its reason; a file whose frame is wrong is refused.
It is read whole, which takes several times its bytes in memory, so it has at most 512 MiB, 10 million images and
annotations together, and 50 million lists.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from residual.data.images import Problem
from residual.data.objects import ObjectImages, Objects, is_file, objects, on_image, reach, refusal
from residual.data.outlines import Outline, read_outline, short

LARGEST = 1 << 29  # bytes of the file; instances_train2017.json has 448 million
MOST = {b"{": 10_000_000, b"[": 50_000_000}  # of an image or annotation, and of lists; each takes up to 240 bytes
LARGEST_SIDE = 100_000  # pixels
PARTS = ("images", "categories", "annotations")
MOST_PROBLEMS = 50_000  # annotations left out of a file, and entries; with more it is no data to train on


def is_coco(path: Path) -> bool:
    """Whether a file speaks of what COCO's files speak of; it may still be none."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:
            return False
        data = path.read_bytes()
    except OSError:
        return False
    return all(f'"{part}"'.encode() in data for part in PARTS)


def read_coco(path: Path, images: Path | None = None, *, lenient: bool = False) -> ObjectImages:
    """The images of the file, in the folder `images` (None: the folder near the file that holds most).

    Classes in the order of the file's category ids.  Crowds are set aside.  Outlines become masks one image at a time
    (`objects.with_masks`).  Refuses, as ValueError, a file that is not COCO's, and entries of images or categories that
    cannot be used: ids and names that stand twice, images that are not there.  lenient puts those in `faults`.
    """
    told = _read(path)
    faults: list[Problem] = []
    categories = dict(sorted(_entries(path, told, "categories", _category, faults).items()))
    pictures = _entries(path, told, "images", _picture, faults)
    places = _places(path) if images is None else [images]
    folder, there = _located(places, [picture.name for picture in pictures.values()])
    absent = [short(picture.name) for picture in pictures.values() if picture.name not in there]
    way_out = "mend these entries, or remove them"
    if absent and not there:  # once is enough
        where = f"neither it nor any other is in {', '.join(map(str, places))}"
        way_out = "put the images into one of these folders" + f"; {way_out}" * bool(faults)
        faults.insert(0, Problem(path=path.name, reason=f"it names the image {absent[0]}, but {where}"))
    elif absent:
        way_out = f"add the images, {way_out}"
        why = f"but {folder} has none"
        faults += [Problem(path=path.name, reason=f"it names the image {name}, {why}") for name in absent]
    looked_at = bool(there and categories)
    if faults and not (lenient and looked_at):
        raise refusal(path, faults, way_out, listed=looked_at)
    left = [number for number, picture in pictures.items() if picture.name in there]
    place = {number: index for index, number in enumerate(categories)}
    sizes = {number: picture.size for number, picture in pictures.items()}
    found: dict[int, list[_Object]] = {number: [] for number in pictures}
    problems, seen, left_out = [], set[int](), Counter[int]()
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
            if isinstance(annotation, dict) and _is_whole(annotation.get("image_id")):
                left_out[annotation["image_id"]] += 1
        told["annotations"][index] = None  # its numbers take many times the room of the outline
    return ObjectImages(
        paths=tuple(folder / pictures[number].name for number in left),
        names=tuple(pictures[number].name for number in left),
        sizes=tuple(sizes[number] for number in left),
        objects=tuple(_together(found[number], left_out[number]) for number in left),
        classes=tuple(category.name for category in categories.values()),
        origin=f"COCO annotations {path.name}",
        problems=tuple(problems),
        faults=tuple(faults),
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


class _Named(NamedTuple):
    """A category, or an image of a size."""

    name: str
    size: tuple[int, int] = (0, 0)


def _entries(
    path: Path, told: dict[str, Any], part: str, read: Callable[[dict[str, Any]], _Named], faults: list[Problem]
) -> dict[int, _Named]:
    """The entries of a part by their ids; what is wrong with others is added to the faults.  Refuses an empty part."""
    found, names = dict[int, _Named](), set[str]()
    for index, entry in enumerate(told[part]):
        try:
            if not isinstance(entry, dict) or not _is_whole(entry.get("id")):
                raise ValueError("it has no whole number as its id")
            if entry["id"] in found:
                raise ValueError(f"it has the id {short(entry['id'])}, which another one has too")
            one = read(entry)
            if one.name in names:
                raise ValueError(f"it is called {short(one.name)}, as another one is; put both under one id")
        except ValueError as problem:
            faults.append(Problem(path=f"{path.name}: {part}[{index}]", reason=str(problem)))
            if len(faults) > MOST_PROBLEMS:
                raise refusal(path, faults, "it is no data to train on", listed=False) from None
            continue
        found[entry["id"]] = one
        names.add(one.name)
    if not told[part]:
        raise ValueError(f"{path} has no {part}")
    return found


class _Object(NamedTuple):
    box: tuple[float, float, float, float]
    label: int
    aside: bool
    area: float
    outline: Outline | None
    over: float


def _together(found: list[_Object], left_out: int) -> Objects:
    boxes, labels, aside, areas, outlines, over = zip(*found, strict=True) if found else ((),) * 6
    return objects(boxes, labels, aside, areas, outlines, over, left_out)


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
    corners = (left, top, left + across, top + down)
    on = on_image(corners, *sizes[image])
    return image, _Object(
        box=on,
        label=place[category],
        aside=bool(crowd),
        area=float((on[2] - on[0]) * (on[3] - on[1]) if area is None else area),
        outline=read_outline(told.get("segmentation"), *sizes[image]),
        over=reach(corners, *sizes[image]),
    )


def _places(path: Path) -> list[Path]:
    """Where the images are likely to lie: in or beside the folder of annotations/instances_val2017.json."""
    split = path.stem.split("_")[-1]
    around = [path.parent, path.parent / "images", path.parent / split]
    return around + [path.parent.parent / name for name in ("images", split, f"images/{split}")]


def _located(places: list[Path], names: list[str]) -> tuple[Path, set[str]]:
    """The folder that holds most of the images, of several the first, and which it holds."""
    best = places[0], set[str]()
    for folder in places:
        there = {name for name in names if is_file(folder / name)} if folder.is_dir() else set[str]()
        if len(there) > len(best[1]):
            best = folder, there
        if len(there) == len(names):
            break
    return best


def _category(entry: dict[str, Any]) -> _Named:
    return _Named(_text(entry, "name"))


def _picture(entry: dict[str, Any]) -> _Named:
    name = _text(entry, "file_name")
    if name.startswith("/") or ".." in Path(name).parts or "\0" in name:
        raise ValueError(f"it is called {short(name)}, which leads out of the folder")
    return _Named(name, (_side(entry, "height"), _side(entry, "width")))


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"it has no {name}")
    return value


def _side(entry: dict[str, Any], name: str) -> int:
    value: Any = entry.get(name)
    if not _is_whole(value) or not 1 <= value <= LARGEST_SIDE:
        raise ValueError(f"it has the {name} {short(value)}, not a number of pixels")
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
