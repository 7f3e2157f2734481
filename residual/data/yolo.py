"""YOLO's folders: beside each image a text file, a line for each object.

    7 0.5 0.5 0.2 0.4                 class, centre (across, down), width, height: shares of the image
    7 0.4 0.3 0.6 0.3 0.6 0.7         class, then the corners of a polygon

Images lie in images/, their text in labels/, and a data.yaml or classes.txt names the classes.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from residual.data.folder import IMAGES
from residual.data.header import size_of
from residual.data.images import Problem
from residual.data.objects import ObjectImages, Objects, is_file, objects, on_image, reach
from residual.data.outlines import Outline, polygons, short
from residual.data.split import SPELLINGS

LARGEST = 4 << 20  # bytes of a text file
LARGEST_YAML = 1 << 18  # the names of a thousand classes have 30 thousand
LONGEST = 1_000  # letters of what may be a number in it
FARTHEST = 4.0  # sides of the image; a centre, a corner, or both sides of a box beyond are pixels
NAMES = ("classes.txt", "names.txt", "obj.names")


def is_yolo(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return (bool(_yamls(root)) or any((root / name).is_file() for name in NAMES)) and any(_splits(root, {}))


def read_yolo(root: Path, description: Path | None = None) -> dict[str, ObjectImages]:
    """The splits there are, by name; a folder without splits is "train".

    description: the YAML file in the folder that is meant; None takes data.yaml, or the only one.
    What a line or file has wrong is in `problems`; an image without a text file has no objects.  Refuses, as
    ValueError, data without names of its classes or without images.
    """
    told = _description(root, description)
    classes = _classes(root, told)
    found = {split: _read_split(root, split, places, classes) for split, places in _splits(root, told)}
    if not found:
        raise ValueError(f"{root} has no folder of images that YOLO's layout knows: images/train, or train/images")
    return found


def read_lines(text: str, classes: int, height: int, width: int) -> tuple[Objects, list[str]]:
    """The objects of one image, and why lines of its file were left out."""
    boxes, labels, outlines, over, left_out = [], [], list[Outline | None](), [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            label, told, outline = _line(line.split(), classes, height, width)
            box = on_image(told, height, width)
        except ValueError as problem:
            left_out.append(f"line {number}: {problem}")
            continue
        boxes.append(box)
        labels.append(label)
        outlines.append(outline)
        over.append(reach(told, height, width))
    return objects(boxes, labels, outlines=outlines, over=over, left_out=len(left_out)), left_out


def _line(
    words: Sequence[str], classes: int, height: int, width: int
) -> tuple[int, tuple[float, float, float, float], Outline | None]:
    """The class, the box in pixels, which may reach over the image, and the outline."""
    if not words[0].isdecimal() or len(words[0]) > 9 or int(words[0]) >= classes:
        raise ValueError(f"class {short(words[0])} is none of the {classes} classes, which count from 0")
    try:
        values = np.array([float(word) for word in words[1:]])
    except ValueError:
        raise ValueError("after the class there is something that is no number") from None
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(f"there are {len(values)} numbers after the class; a box has 4, a polygon 6, 8, 10 ...")
    if not np.isfinite(values).all():
        raise ValueError("after the class there is a number that is not finite")
    beyond = np.abs(values) > FARTHEST
    allowed = len(values) == 4 and not beyond[:2].any()  # one side of a box, which is cut to the image
    if beyond.sum() > allowed:
        raise ValueError(
            f"these look like pixels; YOLO wants fractions of width and height, 0 to 1: divide by {width} and {height}"
        )
    label = int(words[0])
    if len(values) == 4:
        across, down, wide, high = values.tolist()
        shares = (across - wide / 2, down - high / 2, across + wide / 2, down + high / 2)
        left, top, right, bottom = shares
        return label, (left * width, top * height, right * width, bottom * height), None
    corners = values.reshape(-1, 2) * [width, height]
    outline = polygons([corners], height, width)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return label, (left, top, right, bottom), outline


def _read_split(root: Path, split: str, places: Sequence[Path], classes: tuple[str, ...]) -> ObjectImages:
    paths, names, sizes, found, problems = [], [], [], [], []
    described = set[Path]()
    for path in _images(root, places):
        name = path.relative_to(root).as_posix()
        beside = _beside(root, path)
        described.add(beside)
        try:
            height, width = size_of(path)
            here, left_out = read_lines(_text(beside) if is_file(beside) else "", len(classes), height, width)
        except ValueError as problem:
            problems.append(Problem(path=name, reason=str(problem)))
            continue
        where = beside.relative_to(root).as_posix()
        problems += [Problem(path=where, reason=reason) for reason in left_out]
        paths.append(path)
        names.append(name)
        sizes.append((height, width))
        found.append(here)
    for folder in sorted({path.parent for path in described}):
        lonely = (path for path in sorted(folder.glob("*.txt")) if path not in described and path.name not in NAMES)
        problems += [
            Problem(path=path.relative_to(root).as_posix(), reason="it describes an image that is not there")
            for path in lonely
        ]
    if not paths:
        why = f"; {problems[0].path}: {problems[0].reason}" if problems else ""
        raise ValueError(f"{root} has no usable image in its split {split!r}{why}")
    return ObjectImages(
        paths=tuple(paths),
        names=tuple(names),
        sizes=tuple(sizes),
        objects=tuple(found),
        classes=classes,
        origin=f"YOLO folder {root.name}, {split}",
        problems=tuple(problems),
    )


def _images(root: Path, places: Sequence[Path]) -> Iterator[Path]:
    """The images in folders, and those that lists name, each once."""
    seen = set[Path]()
    for place in places:
        inside = _listed(root, place) if place.is_file() else sorted(place.rglob("*"))
        for path in inside:
            if path.suffix.lower().encode() in IMAGES and path not in seen:
                seen.add(path)
                yield path


def _listed(root: Path, path: Path) -> list[Path]:
    return [_inside(root, line.strip(), path) for line in _text(path).splitlines() if line.strip()]


def _beside(root: Path, image: Path) -> Path:
    """images/train/1.jpg -> labels/train/1.txt: the last folder called images; without one, the text is beside it."""
    parts = list(image.relative_to(root).parts)
    places = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _splits(root: Path, told: dict[str, Any]) -> Iterator[tuple[str, list[Path]]]:
    """Each split and its folders or lists: as data.yaml says, or by the names of the folders."""
    any_told = False
    for split, spellings in SPELLINGS.items():
        for name in spellings:
            if told.get(name):
                any_told = True
                places = told[name] if isinstance(told[name], list) else [told[name]]
                yield split, [_place(root, place, told) for place in places]
                break
    if any_told:
        return
    split_up = False
    for split, spellings in SPELLINGS.items():
        folders = [folder for name in spellings for folder in (root / "images" / name, root / name / "images")]
        if there := [folder for folder in folders if folder.is_dir()]:
            split_up = True
            yield split, there
    if not split_up and (root / "images").is_dir() and (root / "labels").is_dir():
        yield "train", [root / "images"]


def _place(root: Path, place: Any, told: dict[str, Any]) -> Path:
    """A folder or list that data.yaml names, below data.yaml's own folder."""
    if not isinstance(place, str):
        raise ValueError(f"{root}/data.yaml names the images {short(place)}, which is no path")
    above = told.get("path")
    below = place.removeprefix("../")  # Roboflow's files mean their own folder by ..
    tried = [_inside(root, below, root)]
    if isinstance(above, str) and not above.startswith("/") and ".." not in PurePosixPath(above).parts:
        tried.insert(0, root / above / below)
    for path in tried:
        if path.is_dir() or is_file(path):
            return path
    raise ValueError(f"{root}/data.yaml names the images {place!r}, but there is no {tried[-1]}")


def _inside(root: Path, told: str, by: Path) -> Path:
    where = PurePosixPath(told)
    if where.is_absolute() or ".." in where.parts or "\0" in told:
        raise ValueError(f"{by} names {short(told)}, which leads out of {root}; give paths below that folder")
    return root / where


def _yamls(root: Path) -> list[Path]:
    return sorted(path for pattern in ("*.yaml", "*.yml") for path in root.glob(pattern) if path.is_file())


def _description(root: Path, chosen: Path | None) -> dict[str, Any]:
    """What data.yaml says, if there is one."""
    there = _yamls(root) if chosen is None else [chosen]
    if not there:
        return {}
    path = next((path for path in there if path.stem == "data"), there[0])
    if len(there) > 1 and path.stem != "data":
        raise ValueError(f"{root} has {len(there)} YAML files and none is data.yaml; give the file that is meant")
    try:
        import yaml
    except ImportError as error:
        raise ValueError(
            f"{path} needs the extra `detect` (pip install 'residual[detect]'), or a classes.txt with a name per line "
            "instead"
        ) from error
    try:
        text = _text(path, LARGEST_YAML)
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            word = event.value if isinstance(event, yaml.ScalarEvent) else ""
            if isinstance(event, yaml.AliasEvent) or word == "<<":  # a few lines of them are billions
                raise ValueError("it has aliases or merge keys (*name, <<); write what they stand for")
            if len(word) > LONGEST and (event.implicit[0] or event.tag is not None):
                raise ValueError(f"it has a word or number of {len(word):,} letters")
        told = yaml.safe_load(text)
    except Exception as error:  # what a tag promises and its text does not keep may raise anything
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not YAML that can be read: {why}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path} holds a {type(told).__name__}, not names and folders")
    return told


def _classes(root: Path, told: dict[str, Any]) -> tuple[str, ...]:
    names = told.get("names")
    if isinstance(names, dict) and list(names) == list(range(len(names))):
        names = list(names.values())
    if names is None:
        lists = [root / name for name in NAMES if (root / name).is_file()]
        if not lists:
            raise ValueError(f"{root} does not name its classes; add a classes.txt with a name per line")
        names = [line.strip() for line in _text(lists[0]).splitlines() if line.strip()]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int) for name in names):
        raise ValueError(f"{root}/data.yaml has as names {short(names)}, not a list, or numbers from 0 with names")
    classes = tuple(map(str, names))
    if len(set(classes)) < len(classes):
        raise ValueError(f"{root} names a class twice among {short(names)}")
    return classes


def _text(path: Path, largest: int = LARGEST) -> str:
    try:
        if path.stat().st_size > largest:
            raise ValueError(f"{path.name} is larger than {largest:,} bytes, which no description is")
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from None
