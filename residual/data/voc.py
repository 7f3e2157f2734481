"""PASCAL VOC: a folder VOC2007 or VOC2012, or a VOCdevkit that holds them, with the official lists of images.

An annotation is XML from somewhere: it is read without document types and entities, bounded in size and depth, and a
box that cannot be is left out with its reason.  VOC's corners are inclusive, counted from 1; here boxes are continuous.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from residual.data.images import Problem
from residual.data.objects import ObjectImages, Objects, is_file, objects, on_image, reach, refusal

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LARGEST = 1 << 20  # bytes of an annotation; the largest official one has 22 thousand
MOST = 20_000  # tags and pieces of text
DEEPEST = 8  # an object's part has its box at depth 5
LARGEST_SIDE = 100_000  # pixels


class BadAnnotation(ValueError):
    """An annotation that cannot be used, and why."""


def read_voc(root: Path, lists: Iterable[tuple[str, str]], *, lenient: bool = False) -> ObjectImages:
    """The union of official lists, e.g. (("2007", "trainval"), ("2012", "trainval")) for 07+12.

    root: a VOCdevkit, or the folder of the one year asked for.  Annotations that cannot be used, and boxes that cannot
    be, are in `problems`; a list that is missing is refused, and so are names in it that are none, or of no image:
    lenient puts those in `faults`.
    """
    paths, names, sizes, found, problems, faults = [], [], [], [], [], []
    seen = set[tuple[str, str]]()
    for year, split in lists:
        folder = root if root.name == f"VOC{year}" else root / f"VOC{year}"
        listed = [name for name in _listed(folder, split) if (year, name) not in seen]
        seen |= {(year, name) for name in listed}
        for name in listed:
            picture = folder / "JPEGImages" / f"{name}.jpg"
            if why := _no_image(name, picture):
                faults.append(Problem(path=f"VOC{year}/ImageSets/Main/{split}.txt", reason=why))
                continue
            where = f"VOC{year}/Annotations/{name}.xml"
            try:
                size, here, left_out = read_annotation(folder / "Annotations" / f"{name}.xml")
            except BadAnnotation as problem:
                problems.append(Problem(path=where, reason=str(problem)))
                continue
            problems += [Problem(path=where, reason=reason) for reason in left_out]
            paths.append(picture)
            names.append(f"VOC{year}/{name}")
            sizes.append(size)
            found.append(here)
    if faults and not (lenient and paths):
        raise refusal(root, faults, "complete the images, or shorten the list", listed=bool(paths))
    if not paths:
        raise ValueError(f"{root} has no image with a usable annotation in the lists {list(lists)}")
    return ObjectImages(
        paths=tuple(paths),
        names=tuple(names),
        sizes=tuple(sizes),
        objects=tuple(found),
        classes=CLASSES,
        origin="PASCAL VOC " + " + ".join(f"{year} {split}" for year, split in lists),
        problems=tuple(problems),
        faults=tuple(faults),
    )


def read_annotation(
    path: Path, classes: Sequence[str] = CLASSES, *, inclusive: bool = True
) -> tuple[tuple[int, int], Objects, list[str]]:
    """(height, width), the objects, and why others were left out.  Raises BadAnnotation.

    inclusive: corners are pixels that belong to the box, counted from 1; otherwise boxes are continuous already.
    """
    try:
        if not path.is_file():
            raise BadAnnotation("there is no such file")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise BadAnnotation(f"it cannot be read: {error.strerror}") from error
    if len(data) > LARGEST:
        raise BadAnnotation(f"it is larger than {LARGEST:,} bytes, which no annotation is")
    tree = _parse(data)
    size = tree.one("size")
    height, width = _whole(size, "height"), _whole(size, "width")
    place = {name: label for label, name in enumerate(classes)}
    boxes, labels, aside, over, left_out = [], [], [], [], []
    for number, told in enumerate(tree.all("object"), start=1):
        try:
            name = told.text("name")
            if name not in place:
                raise BadAnnotation(f"<name> is {name[:40]!r}, none of the {len(place)} classes")
            corners = told.one("bndbox")
            left, top, right, bottom = (_number(corners, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
            told_box = (left - inclusive, top - inclusive, right, bottom)
            box = on_image(told_box, height, width)
            difficult = told.text("difficult", "0") == "1"
        except ValueError as problem:
            left_out.append(f"object {number}: {problem}")
            continue
        boxes.append(box)
        labels.append(place[name])
        aside.append(difficult)
        over.append(reach(told_box, height, width))
    return (height, width), objects(boxes, labels, aside, over=over, left_out=len(left_out)), left_out


class Element:
    """One tag: its text and what stands in it."""

    __slots__ = ("inner", "parts", "tag")

    def __init__(self, tag: str) -> None:
        self.tag, self.inner, self.parts = tag, list[Element](), list[str]()

    @property
    def said(self) -> str:
        return "".join(self.parts).strip()

    def all(self, tag: str) -> "list[Element]":
        return [element for element in self.inner if element.tag == tag]

    def one(self, tag: str) -> "Element":
        found = self.all(tag)
        if len(found) != 1:
            raise BadAnnotation(f"<{self.tag}> has {len(found)} <{tag}>, it needs one")
        return found[0]

    def text(self, tag: str, otherwise: str | None = None) -> str:
        if otherwise is not None and not self.all(tag):
            return otherwise
        return self.one(tag).said


class _Builder:
    """What the parser tells its finds to."""

    def __init__(self) -> None:
        self.top = Element("document")
        self.open = [self.top]
        self.count = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.more()
        if len(self.open) > DEEPEST:
            raise BadAnnotation(f"its tags stand more than {DEEPEST} deep in each other")
        element = Element(tag)
        self.open[-1].inner.append(element)
        self.open.append(element)

    def end(self, tag: str) -> None:
        self.open.pop()

    def data(self, text: str) -> None:
        self.more()
        self.open[-1].parts.append(text)

    def more(self) -> None:
        self.count += 1
        if self.count > MOST:
            raise BadAnnotation(f"it has more than {MOST:,} tags and lines, which no annotation has")

    def close(self) -> None:
        pass


def _parse(data: bytes) -> Element:
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    builder = _Builder()
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    try:
        parser.feed(data)
        parser.close()
    except BadAnnotation:
        raise
    except ParseError as error:
        raise BadAnnotation(f"it is not XML: {error}") from error
    except DefusedXmlException as error:
        raise BadAnnotation("it declares a document type or entities, which an annotation needs not") from error
    except (LookupError, ValueError) as error:  # an encoding that Python does not have, or cannot decode
        raise BadAnnotation(f"it is not XML that can be read: {error}") from error
    return builder.top.one("annotation")


def _listed(folder: Path, split: str) -> list[str]:
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        there = sorted(found.stem for found in path.parent.glob("*.txt") if "_" not in found.stem)
        hint = f"there are {', '.join(there)}" if there else "there is no list at all"
        raise ValueError(f"{folder} has no list {split!r} (ImageSets/Main/{split}.txt); {hint}")
    return list(dict.fromkeys(path.read_text(encoding="utf-8", errors="surrogateescape").split()))


def _no_image(name: str, picture: Path) -> str | None:
    """What is wrong with a name of a list, if anything is."""
    if "/" in name or name.startswith("."):
        return f"it lists {name[:80]!r}, which is no name of an image"
    return None if is_file(picture) else f"it lists {name[:80]}, but there is no JPEGImages/{picture.name[:80]}"


def _number(element: Element, tag: str) -> float:
    said = element.text(tag)
    try:
        return float(said)
    except ValueError:
        raise BadAnnotation(f"<{tag}> is {said[:40]!r}, not a number") from None


def _whole(element: Element, tag: str) -> int:
    value = _number(element, tag)
    if not 1 <= value <= LARGEST_SIDE or value != int(value):
        raise BadAnnotation(f"<{tag}> of the image is {element.text(tag)[:40]!r}, not a number of pixels")
    return int(value)
