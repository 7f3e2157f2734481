"""One class and its boxes per image: Tiny ImageNet, and ImageNet's localization (ILSVRC CLS-LOC).

Classes are WordNet's numbers in their order, as where the same folders are read for classification.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from residual.data.assemble import Entry, Listing, Progress
from residual.data.images import Problem
from residual.data.loader import File
from residual.data.objects import ObjectImages, Objects, is_file, objects, on_image, reach, refusal
from residual.data.voc import BadAnnotation, read_annotation

TINY = 64  # pixels of a side of every image of Tiny ImageNet
LISTS = {"train": ("train_loc", "train_cls"), "validation": ("val",)}


def is_tiny_imagenet(root: Path) -> bool:
    """Whether a folder is laid out so."""
    return (root / "wnids.txt").is_file() and (root / "val" / "val_annotations.txt").is_file()


def read_tiny_imagenet(root: Path) -> dict[str, ObjectImages]:
    """The train and validation images, a box on each; of the test images no boxes were given out."""
    classes = tuple(sorted((root / "wnids.txt").read_text(encoding="utf-8").split()))
    place = {name: label for label, name in enumerate(classes)}
    parts = {"train": _tiny_train(root, classes), "validation": _tiny_validation(root)}
    found = {}
    for split, lines in parts.items():
        paths, here, problems = [], list[Objects](), []
        for path, name, corners, where in lines:
            try:
                if name not in place:
                    raise ValueError(f"the class {name!r} is none of wnids.txt")
                if not is_file(path):
                    raise ValueError(f"it tells of {path.name}, which is not there")
                left, top, right, bottom = map(float, corners)
                box = (left, top, right + 1, bottom + 1)  # corners are pixels that belong to it, counted from 0
                here.append(objects([on_image(box, TINY, TINY)], [place[name]], over=[reach(box, TINY, TINY)]))
                paths.append(path)
            except ValueError as problem:
                problems.append(Problem(path=where, reason=str(problem)))
        found[split] = _images(root, paths, [(TINY, TINY)] * len(paths), here, classes, f"Tiny ImageNet, {split}",
                               problems)  # fmt: skip
    return found


def list_tiny_imagenet(root: Path) -> Listing:
    """The same images by their class alone, as a classifier learns from them; none is read yet."""
    entries, problems = [], dict[Problem, None]()
    found = read_tiny_imagenet(root)
    for split, images in found.items():
        problems |= dict.fromkeys(images.problems)
        for path, name, here in zip(images.paths, images.names, images.objects, strict=True):
            status = path.stat()
            file = File(name=name, path=os.fsencode(path), stamp=(status.st_size, status.st_mtime_ns))
            entries.append(Entry(file=file, label=int(here.labels[0]), split=split))
    return Listing(
        entries=entries,
        classes=found["train"].classes,
        origin="Tiny ImageNet",
        problems=tuple(problems),
        split={"made": "as Tiny ImageNet has it"},
    )


def is_imagenet(root: Path) -> bool:
    """Whether a folder is laid out as ILSVRC's CLS-LOC, or is the folder above it."""
    return (ilsvrc(root, "CLS-LOC") / "Annotations" / "CLS-LOC").is_dir()


def read_imagenet(root: Path, *, progress: Progress | None = None, lenient: bool = False) -> dict[str, ObjectImages]:
    """Train and validation images with boxes, as ImageSets/CLS-LOC lists them; train images without are passed over.

    Corners are taken for continuous.  A train image whose annotation tells of another class than its folder is left
    out, and in `problems`; of validation images nothing but the annotation tells the class.  Names of images that are
    not there are refused; lenient puts them in `faults`.
    """
    inner = ilsvrc(root, "CLS-LOC")
    classes = _synsets(root, inner)
    annotations, images = inner / "Annotations" / "CLS-LOC", inner / "Data" / "CLS-LOC"
    found = {}
    for split, lists in LISTS.items():
        folder = "train" if split == "train" else "val"
        there = (inner / "ImageSets" / "CLS-LOC" / f"{name}.txt" for name in lists)
        names = next((names_in(path) for path in there if path.is_file()), [])
        listed = [
            Listed(
                name=name,
                annotation=annotations / folder / f"{name}.xml",
                image=images / folder / f"{name}.JPEG",
                alone=name.split("/")[0] if split == "train" and "/" in name else None,  # n01/n01_1
                optional=split == "train",
            )
            for name in names
        ]
        if names:
            origin = f"ImageNet CLS-LOC, {split}"
            found[split] = read_listed(root, listed, classes, classes, origin, progress=progress, lenient=lenient)
    return found


class Listed(NamedTuple):
    """An image that a list of ILSVRC's names.

    alone: the one class that its annotation may tell of.  optional: it is passed over where it has no annotation.
    """

    name: str
    annotation: Path
    image: Path
    alone: str | None = None
    optional: bool = False


def read_listed(
    root: Path,
    listed: Sequence[Listed],
    ids: Sequence[str],
    classes: tuple[str, ...],
    origin: str,
    *,
    progress: Progress | None = None,
    lenient: bool = False,
) -> ObjectImages:
    """Images with ILSVRC's annotations, whose corners are taken for continuous.  ids: of the classes, as they come."""
    paths, sizes, here, problems, faults = [], [], list[Objects](), list[Problem](), list[Problem]()
    for number, one in enumerate(listed, start=1):
        if progress is not None:
            progress(number, len(listed))
        if one.optional and not is_file(one.annotation):
            continue
        where = one.annotation.relative_to(root).as_posix()
        if not is_file(one.image):
            absent = f"it is listed, but there is no {one.image.relative_to(root).as_posix()}"
            faults.append(Problem(path=one.name, reason=absent))
            continue
        try:
            size, objects_here, left_out = read_annotation(one.annotation, ids, inclusive=False)
        except BadAnnotation as problem:
            problems.append(Problem(path=where, reason=str(problem)))
            continue
        problems += [Problem(path=where, reason=reason) for reason in left_out]
        if one.alone is not None and (others := {ids[label] for label in objects_here.labels.tolist()} - {one.alone}):
            problems.append(Problem(path=where, reason=f"it tells of {min(others)}, another class than its folder"))
            continue
        paths.append(one.image)
        sizes.append(size)
        here.append(objects_here)
    if faults and not (lenient and paths):
        raise refusal(root, faults, "complete the images, or shorten the lists", listed=bool(paths))
    return replace(_images(root, paths, sizes, here, classes, origin, problems), faults=tuple(faults))


def _images(
    root: Path,
    paths: list[Path],
    sizes: list[tuple[int, int]],
    found: list[Objects],
    classes: tuple[str, ...],
    origin: str,
    problems: list[Problem],
) -> ObjectImages:
    if not paths:
        why = f"; {problems[0].path}: {problems[0].reason}" if problems else ""
        raise ValueError(f"{root} has no image with a usable box ({origin}){why}")
    return ObjectImages(
        paths=tuple(paths),
        names=tuple(path.relative_to(root).as_posix() for path in paths),
        sizes=tuple(sizes),
        objects=tuple(found),
        classes=classes,
        origin=origin,
        problems=tuple(problems),
    )


_Line = tuple[Path, str, list[str], str]  # image, class, corners, where it is told


def _tiny_train(root: Path, classes: tuple[str, ...]) -> Iterator[_Line]:
    for name in classes:
        path = root / "train" / name / f"{name}_boxes.txt"
        where, images = path.relative_to(root).as_posix(), path.parent / "images"
        for number, words in _lines(path):
            yield images / words[0], name, words[1:], f"{where}: line {number}"


def _tiny_validation(root: Path) -> Iterator[_Line]:
    path, images = root / "val" / "val_annotations.txt", root / "val" / "images"
    for number, words in _lines(path):
        yield images / words[0], words[1], words[2:], f"val/{path.name}: line {number}"


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    if not path.is_file():
        raise ValueError(f"there is no {path}, which has the boxes of Tiny ImageNet")
    width = 6 if path.name == "val_annotations.txt" else 5
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if len(words) != width or "/" in words[0] or words[0].startswith("."):
            raise ValueError(
                f"{path}, line {number}, is {line[:80]!r}; it must be a file, {width - 5} class, 4 corners"
            )
        yield number, words


def ilsvrc(root: Path, task: str) -> Path:
    """The folder of Annotations/, Data/ and ImageSets/: the one given, or the one in it that has the task."""
    if (root / "Annotations").is_dir():
        return root
    return next((folder for folder in sorted(root.glob("ILSVRC*")) if (folder / "Annotations" / task).is_dir()), root)


def names_in(path: Path, *, without: str | None = None) -> list[str]:
    """The images that a list of ILSVRC's names, without what stands behind them.  Refuses names that lead elsewhere.

    without: what lines end with that are passed over.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.split()[0] for line in lines if line.strip() and not (without and line.rstrip().endswith(without))]
    if odd := next((each for each in names if ".." in each or each.startswith("/")), None):
        raise ValueError(f"{path} lists {odd[:80]!r}, which is no name of an image")
    return names


def _synsets(root: Path, inner: Path) -> tuple[str, ...]:
    """WordNet's numbers, from LOC_synset_mapping.txt or the folders of the training images."""
    for path in (root / "LOC_synset_mapping.txt", inner / "LOC_synset_mapping.txt"):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines()
            return tuple(sorted(line.split()[0] for line in lines if line.strip()))
    folder = inner / "Data" / "CLS-LOC" / "train"
    if not folder.is_dir():
        raise ValueError(f"{root} has neither LOC_synset_mapping.txt nor {folder}: its classes are not told")
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
