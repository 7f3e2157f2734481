"""Which images with objects are meant, and who reads them: `sources` for boxes and masks."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from residual.data.assemble import VALIDATION, Progress, held_out, read_all
from residual.data.coco import is_coco, read_coco
from residual.data.decode import BadImage, View
from residual.data.header import size_of
from residual.data.imagenet_det import is_det, read_det, split_of_det
from residual.data.images import Problem
from residual.data.instances import foldered, numbered, read_foldered, read_numbered
from residual.data.loader import File
from residual.data.localization import is_imagenet, is_tiny_imagenet, read_imagenet, read_tiny_imagenet
from residual.data.objects import ObjectImages, joined
from residual.data.scenes import COUNTED, draw_scenes
from residual.data.split import SPELLINGS
from residual.data.voc import read_voc
from residual.data.yolo import is_yolo, read_yolo

SCENES = {"train": 4_000, "validation": 100, "test": 200}  # drawn
HELD = ("validation", "test")
KINDS = (
    "scenes or shapes, which are drawn, a VOCdevkit, a COCO JSON or the folder above its annotations/, a YOLO folder "
    "(images/, labels/), masks as PNG (Penn-Fudan, Data Science Bowl 2018), Tiny ImageNet, ImageNet's CLS-LOC "
    "or DET"
)
LISTED = ("PASCAL VOC", "ImageNet CLS-LOC", "ImageNet DET")  # origins of what `lists` chooses from

_Lists = list[tuple[str, str]]  # VOC's: year, name of the list


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectDataset:
    """A source, read: its splits, what was left out, and how the splits came to be."""

    train: ObjectImages
    validation: ObjectImages | None = None
    test: ObjectImages | None = None
    split: dict[str, Any] = field(default_factory=dict)  # how the split was made; a run records it
    made_here: bool = False  # the held-out images were chosen by us, not by whoever made the data
    unread: tuple[str, ...] = ()  # sets of the same folder that were not read, as `lists` names them

    @property
    def classes(self) -> tuple[str, ...]:
        """Of all splits alike."""
        return self.train.classes

    @property
    def origin(self) -> str:
        """Where the training images came from, in words."""
        return self.train.origin

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was left out of any split, and why."""
        return tuple(dict.fromkeys(problem for images in self.splits().values() for problem in images.problems))

    @property
    def faults(self) -> tuple[Problem, ...]:
        """Why no training would begin with it, if it was opened all the same (`lenient`)."""
        return tuple(dict.fromkeys(fault for images in self.splits().values() for fault in images.faults))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing, though nothing was left out and nothing is refused for it."""
        notes = [f"the folder has the boxes of {name} too; --lists {name} reads them instead" for name in self.unread]
        for split, images in self.splits().items():
            if names := images.emptied:  # a detector learns from them that nothing is there
                stays = f"{len(names):,} image(s), such as {names[0]}, stay without any object, as background"
                notes.append(f"{split}: {stays}: every object that was told of them was left out")
        return tuple(notes)

    def splits(self) -> dict[str, ObjectImages]:
        """The splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}


def open_objects(
    where: str,
    *,
    lists: str | None = None,
    seed: int = 0,
    size: int = 128,
    validation: float | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    lenient: bool = False,
) -> ObjectDataset:
    """Read images with boxes, and outlines where the data has them.

    Every image is decoded once, so that a damaged one is told of now and not in the middle of a training; of 5,000
    files and more in a split it is kept which are good, and they are not decoded again before one of them changes.

    where: "scenes", which are drawn; "shapes", with one shape each; "scenes:400", so many to train on, the same for
        every seed and drawn for no seed otherwise; or a path: see KINDS.
    lists: of a VOCdevkit, "07+12" for the trainval images of both years, "07++12" for the test images of 2007 as well,
        "2012:train+2007:val" for any; behind a slash what to validate on, "2007:train/2007:val"; None takes what there
        is.  Tested on the test images of 2007, where they are there and not asked for otherwise.  Of an ILSVRC folder
        "DET" or "CLS-LOC"; None takes CLS-LOC where it has both.
    seed: decides what `scenes` draws, and which images are held out.  size: side of a scene, pixels.
    validation: share of the training images held out, by name; 0 holds out none, and None a fifth of a set that has
        neither validation nor test images.
    workers: processes that decode, each bounded in time and memory; 0 decodes in this one.
    progress: called with (files read, files in all), once or more per split.
    lenient: what is listed and missing, and entries that contradict each other, become faults instead of refusing the
        data; for looking at it, not training.

    Raises ValueError for what is not there, or is none of these.
    """
    found = _read(where, lists, seed, size, progress, lenient)
    if lists is not None and not any(images.origin.startswith(LISTED) for images in found.values()):
        raise ValueError(f"`lists` ({lists!r}) chooses images of a VOCdevkit or an ILSVRC folder, which {where} is not")
    classes = found["train"].classes
    for split, images in found.items():
        if images.classes != classes:
            odd = sorted(set(images.classes) ^ set(classes)) or ["their order"]
            raise ValueError(f"the classes of {split} differ from those of train: {', '.join(odd[:5])}")
        if images.pixels is None:
            found[split] = _as_told(images, workers, progress)
    if not any((~here.aside).any() for here in found["train"].objects):
        problems = found["train"].problems
        why = f"; {problems[0].path}: {problems[0].reason}" if problems else ""
        nothing = f"there is no object to be found on the training images{why}"
        if not lenient:
            raise ValueError(f"{where}: {nothing}")
        faults = (*found["train"].faults, Problem(path="train", reason=nothing))
        found["train"] = replace(found["train"], faults=faults)
    data = ObjectDataset(
        train=found["train"],
        validation=found.get("validation"),
        test=found.get("test"),
        split={"made": _made(where, found["train"])} | {split: len(images) for split, images in found.items()},
        unread=_unread(where, found["train"], lists),
    )
    if validation is None and len(found) == 1:
        validation = VALIDATION
    return hold_out(data, validation, seed=seed) if validation else data


def has_objects(where: str) -> bool:
    """Whether data is laid out for objects, so that it cannot be read as folders of images by class.

    `shapes` are both, and not told of here; so is Tiny ImageNet once its validation images lie in folders by class.
    """
    if where.partition(":")[0] == "scenes":
        return True
    path = Path(where).expanduser()
    if path.is_file():
        return path.suffix.lower() in (".json", ".yaml", ".yml")
    if not path.is_dir():
        return False
    path = path.resolve()
    if is_tiny_imagenet(path):
        return (path / "val" / "images").is_dir()
    laid_out = (_devkit, is_imagenet, is_det, numbered, foldered, is_yolo)
    named = ("annotations/*.json", "*/_annotations.coco.json")
    return (
        any(knows(path) for knows in laid_out)
        or any(any(path.glob(pattern)) for pattern in named)
        or any(is_coco(file) for file in sorted(path.glob("*.json")))
    )


def hold_out(data: ObjectDataset, share: float, *, seed: int) -> ObjectDataset:
    """Take `share` of the training images for validation: a pure function of seed and names.

    Refuses data that has validation images, and a share that leaves one of the two empty.
    """
    if data.validation is not None:
        raise ValueError("this data has validation images of its own; nothing needs to be held out")
    names = data.train.names
    held = held_out(names, torch.zeros(len(names), dtype=torch.int64), share=share, seed=seed).tolist()
    if not any(held) or all(held):
        raise ValueError(f"{share:.0%} of {len(held)} training images cannot be held out for validation; add images")
    train, validation = (
        data.train.select([number for number, out in enumerate(held) if out == wanted]) for wanted in (False, True)
    )
    how = {"made": f"{share:.0%} of the training images held out by name", "seed": seed}
    counts = {"train": len(train), "validation": len(validation)}
    return replace(data, train=train, validation=validation, split=data.split | how | counts, made_here=True)


def to_evaluate(data: ObjectDataset) -> tuple[str, ObjectImages]:
    """What a detector that never saw this data is measured on: (name of the split, images).

    The test images; without them the validation images; of data that came without any split, all images, by name.
    """
    if data.test is not None:
        return "test", data.test
    if data.validation is None:
        return "all", data.train
    if not data.made_here:
        return "validation", data.validation
    return "all", joined(data.train, data.validation)


def _read(
    where: str, lists: str | None, seed: int, size: int, progress: Progress | None, lenient: bool
) -> dict[str, ObjectImages]:
    """The splits, by name; "train" is among them."""
    if drawn := re.fullmatch(r"(scenes|shapes)(?::([1-9]\d*))?", where):
        if Path(where).is_dir():
            raise ValueError(f"{where!r} could be drawn or the folder of that name here: write ./{where} for it")
        kind, many = drawn.groups()
        counts = SCENES if many is None else {"train": int(many)} | dict.fromkeys(HELD, max(4, int(many) // 20))
        starts = {"train": 0, "validation": counts["train"], "test": counts["train"] + counts["validation"]}
        most = 4 if kind == "scenes" else 1
        return {
            split: draw_scenes(count, size=size, seed=COUNTED if many else seed, start=starts[split], most=most)
            for split, count in counts.items()
        }
    path = Path(where).expanduser()
    if not path.exists():
        raise ValueError(f"there is no {where!r}; data with objects is {KINDS}")
    path = path.resolve()
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _coco(_siblings(path), lenient)
        if path.suffix.lower() in (".yaml", ".yml"):
            return _with_train(path, read_yolo(path.parent, path))
        raise ValueError(f"{where} is a file; data with objects is {KINDS}")
    if devkit := _devkit(path):
        chosen = _voc_lists(devkit, lists)
        return _apart({split: read_voc(devkit, which, lenient=lenient) for split, which in chosen.items()})
    readers: tuple[tuple[Callable[[Path], Any], Callable[[Path, Any], dict[str, ObjectImages]]], ...] = (
        (lambda root: _annotations(root, "annotations/*.json"), lambda _, files: _coco(files, lenient)),
        (is_tiny_imagenet, lambda root, _: read_tiny_imagenet(root)),
        (lambda root: _of_imagenet(root, lists), lambda root, read: read(root, progress=progress, lenient=lenient)),
        (numbered, lambda _, told: {"train": read_numbered(*told, progress=progress)}),
        (foldered, lambda _, inner: {"train": read_foldered(inner, progress=progress)}),
        (is_yolo, lambda root, _: read_yolo(root)),
        (lambda root: _annotations(root, "*/_annotations.coco.json"), lambda _, files: _coco(files, lenient)),
        (lambda root: _annotations(root, "*.json"), lambda _, files: _coco(files, lenient)),
    )
    for knows, read in readers:
        if known := knows(path):
            return _with_train(path, read(path, known))
    raise ValueError(f"{where} is no data with objects that is known: {KINDS}")


def _with_train(path: Path, found: dict[str, ObjectImages]) -> dict[str, ObjectImages]:
    """A set that came with test or validation images alone is all there is to train on."""
    if "train" in found:
        return found
    if len(found) > 1:
        raise ValueError(f"{path} has images for {' and '.join(found)}, but none to train on")
    return {"train": next(iter(found.values()))}


def _as_told(images: ObjectImages, workers: int, progress: Progress | None) -> ObjectImages:
    """With the digests of the files, without those that are no image, damaged, or of another size than annotated."""
    fitting, files, wrong = [], [], dict[int, str]()
    for number, (path, told) in enumerate(zip(images.paths, images.sizes, strict=True)):
        try:
            height, width = size_of(path)
            if (height, width) != told:
                raise BadImage(f"it has {width}x{height} pixels, its annotation says {told[1]}x{told[0]}")
            status = path.stat()
        except BadImage as problem:
            wrong[number] = str(problem)
        else:
            fitting.append(number)
            stamp = (status.st_size, status.st_mtime_ns)
            files.append(File(name=images.names[number], path=os.fsencode(path), stamp=stamp))
    harvest = read_all(files, View(mode="L", size=1, strips=True), 1, workers=workers, progress=progress)
    wrong |= {fitting[place]: why for place, why in harvest.bad.items()}
    good = [fitting[place] for place in harvest.good]
    problems = [Problem(path=images.names[number], reason=why) for number, why in sorted(wrong.items())]
    if problems and not good:
        raise ValueError(f"{images.origin}: no image can be used; {problems[0].path}: {problems[0].reason}")
    return replace(images.select(good), digests=tuple(harvest.digests), problems=(*images.problems, *problems))


# --- ImageNet --------------------------------------------------------------------------------------------------------

IMAGENET = {"CLS-LOC": (is_imagenet, read_imagenet), "DET": (is_det, read_det)}  # the first is read if none is named


def _of_imagenet(path: Path, lists: str | None) -> Callable[..., dict[str, ObjectImages]] | None:
    """Who reads the one of ILSVRC's tasks that is meant; None: the folder is not ILSVRC's."""
    there = _tasks(path)
    if there and lists is not None and lists not in there:
        raise ValueError(f"{path} has the boxes of {' and '.join(there)}, not of {lists!r}")
    return IMAGENET[lists or there[0]][1] if there else None


def _tasks(path: Path) -> list[str]:
    """Which of ILSVRC's tasks a folder has."""
    return [name for name, (knows, _) in IMAGENET.items() if knows(path)]


def _unread(where: str, images: ObjectImages, lists: str | None) -> tuple[str, ...]:
    """The tasks that were passed over because nobody named one."""
    return tuple(_tasks(Path(where).expanduser())[1:] if lists is None and images.origin.startswith("ImageNet") else ())


def _made(where: str, images: ObjectImages) -> str:
    """How the splits came to be."""
    told = images.origin.startswith("ImageNet DET")
    return split_of_det(Path(where).expanduser()) if told else "as the data has it"


# --- PASCAL VOC ------------------------------------------------------------------------------------------------------


def _devkit(path: Path) -> Path | None:
    """The folder that holds VOC2007 or its sisters, or is one of them."""
    for folder in (path, path / "VOCdevkit"):
        if any((year / "ImageSets" / "Main").is_dir() for year in folder.glob("VOC20[0-9][0-9]")):
            return folder
    return path if re.fullmatch(r"VOC20\d\d", path.name) and (path / "ImageSets" / "Main").is_dir() else None


def _voc_lists(devkit: Path, told: str | None) -> dict[str, _Lists]:
    """Which official lists make which split."""
    there = {
        name.removeprefix("VOC") for name in (devkit.name, *(path.name for path in devkit.glob("VOC20[0-9][0-9]")))
    }
    years = sorted(year for year in there if re.fullmatch(r"20\d\d", year))

    def has(year: str, name: str) -> bool:
        folder = devkit if devkit.name == f"VOC{year}" else devkit / f"VOC{year}"
        return (folder / "ImageSets" / "Main" / f"{name}.txt").is_file()

    tests = [("2007", "test")] if has("2007", "test") else []
    if told is not None:
        train, slash, validation = told.partition("/")
        splits = {"train": _parsed(train)} | ({"validation": _parsed(validation)} if slash else {})
        splits["test"] = [one for one in tests if all(one not in chosen for chosen in splits.values())]
    elif tests:
        splits = {"train": [(year, "trainval") for year in years if has(year, "trainval")], "test": tests}
    elif all(has(year, name) for year in years for name in ("train", "val")):
        splits = {"train": [(year, "train") for year in years], "validation": [(year, "val") for year in years]}
    else:
        splits = {"train": [(year, "trainval") for year in years]}
    return {split: chosen for split, chosen in splits.items() if chosen}


def _apart(found: dict[str, ObjectImages]) -> dict[str, ObjectImages]:
    """The same, if no image stands in two of the splits."""
    where: dict[str, str] = {}
    for split, images in found.items():
        if twice := next((name for name in images.names if name in where), None):
            raise ValueError(
                f"{twice} is listed for {where[twice]} and for {split}; an image belongs to one: choose lists that "
                "share none, such as train and val"
            )
        where |= dict.fromkeys(images.names, split)
    return found


def _parsed(told: str) -> _Lists:
    chosen: _Lists = []
    for part, plus in re.findall(r"([^+]+)(\+*)", told):
        fits = re.fullmatch(r"(?:20)?(\d\d)(?::(\w+))?", part.strip())
        if fits is None or len(plus) > 2:
            raise ValueError(
                f"lists {told!r} is none of VOC's: write 07+12, 07++12, or years with lists, 2012:train; behind a "
                "slash those to validate on, 2007:train/2007:val"
            )
        year, name = f"20{fits[1]}", fits[2]
        chosen.append((year, name or "trainval"))
        if plus == "++" and name is None:
            chosen.append((year, "test"))
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"lists {told!r} names {'no list' if not chosen else 'a list twice'}")
    return chosen


# --- COCO ------------------------------------------------------------------------------------------------------------


def _coco(files: dict[str, Path], lenient: bool) -> dict[str, ObjectImages]:
    return {split: read_coco(path, lenient=lenient) for split, path in files.items()}


def _split_of(path: Path) -> str | None:
    """train of instances_train2017.json, validation of valid/_annotations.coco.json."""
    words = [*re.findall(r"[a-z]+", path.stem.lower()), path.parent.name.lower()]
    return next((split for word in words for split, spellings in SPELLINGS.items() if word in spellings), None)


def _siblings(path: Path) -> dict[str, Path]:
    """A file of training annotations brings those of the other splits; any other file is alone."""
    if _split_of(path) != "train":
        return {"train": path}
    around = [*path.parent.glob("*.json"), *path.parent.parent.glob(f"*/{path.name}")]
    kind = _kind(path)
    return _by_split([other for other in around if other == path or (_kind(other) == kind and _split_of(other))])


def _annotations(root: Path, pattern: str) -> dict[str, Path]:
    """COCO's files in a folder, by split; empty where there are none."""
    files = sorted(root.glob(pattern))
    files = [path for path in files if _kind(path) == "instances"] or files
    return {"train": files[0]} if len(files) == 1 else _by_split([path for path in files if _split_of(path)])


def _kind(path: Path) -> str:
    """What a file holds, by its name: instances, person_keypoints, captions."""
    spelled = "|".join(word for spellings in SPELLINGS.values() for word in spellings)
    return re.sub(rf"[_\-.]?({spelled})(?![a-z])\d*", "", path.stem.lower())


def _by_split(files: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(set(files)):
        split = _split_of(path)
        assert split is not None
        if split in found:
            raise ValueError(f"{found[split]} and {path} are both for {split}; name the file of training annotations")
        found[split] = path
    if found and "train" not in found:
        raise ValueError(f"there are annotations for {' and '.join(found)}, but none to train on; name the file")
    return {split: found[split] for split in SPELLINGS if split in found}
