"""ImageNet's detection set (ILSVRC DET): objects of 200 classes, all of them boxed on the validation images.

    Annotations/DET/train/ILSVRC2013_train/n01443537/n01443537_1.xml    Data/DET/train/...    ImageSets/DET/train_1.txt
    Annotations/DET/val/ILSVRC2012_val_00000001.xml                     Data/DET/val/...      ImageSets/DET/val.txt

Of each class there is a list of training images: 1 behind a name says that all its objects have boxes, 0 that some
have, -1 that there is none.  He et al. 2015 train on the training images and val1 and measure on val2, two halves of
the validation images that Girshick et al. 2014 chose so that every class has about as many objects in both.  Their
lists, val1.txt and val2.txt, are no part of the set: they are read where somebody has put them beside val.txt or into
devkit/data/det_lists.  Without them the halves are ours: every second validation image in the order of their names.
"""

from pathlib import Path

from residual.data.assemble import Progress
from residual.data.localization import Listed, ilsvrc, names_in, read_listed
from residual.data.objects import ObjectImages, is_file
from residual.data.synsets import det_synsets

HALVES = ("val1", "val2")
GIVEN = "train and val1 to train on, val2 to validate, as val1.txt and val2.txt list them"
OURS = (
    "train and val1 to train on, val2 to validate; the halves of val.txt are every second image by name, not those of "
    "Girshick et al. 2014, for there are no val1.txt and val2.txt"
)


def is_det(root: Path) -> bool:
    """Whether a folder is laid out as ILSVRC's DET, or is the folder above it."""
    return (ilsvrc(root, "DET") / "Annotations" / "DET").is_dir()


def read_det(root: Path, *, progress: Progress | None = None, lenient: bool = False) -> dict[str, ObjectImages]:
    """train: the training images that have objects, and val1.  validation: val2, also of images without objects.

    Corners are taken for continuous, and of the training images those without annotation are passed over.  Names of
    images that are not there are refused; lenient puts them in `faults`.
    """
    inner = ilsvrc(root, "DET")
    ids, classes = tuple(det_synsets()), tuple(det_synsets().values())
    training = [_listed(inner, "train", name)._replace(optional=True) for name in _training(inner)]
    first, second = ([_listed(inner, "val", name) for name in names] for names in _halves(root))
    if not any(is_file(one.annotation) for one in training):
        raise ValueError(
            f"of the training images that {inner / 'ImageSets/DET'}/train_1.txt and its like list with objects, none "
            f"has an annotation in {inner / 'Annotations/DET/train'}; complete them"
        )
    parts = {"train": ([*training, *first], "train + val1"), "validation": (second, "val2")}
    return {
        split: read_listed(root, listed, ids, classes, f"ImageNet DET, {told}", progress=progress, lenient=lenient)
        for split, (listed, told) in parts.items()
    }


def split_of_det(root: Path) -> str:
    """How the halves of the validation images came to be, in words."""
    return GIVEN if _lists_of_halves(root) else OURS


def _listed(inner: Path, part: str, name: str) -> Listed:
    annotation, image = (inner / folder / "DET" / part for folder in ("Annotations", "Data"))
    return Listed(name=name, annotation=annotation / f"{name}.xml", image=image / f"{name}.JPEG")


def _training(inner: Path) -> list[str]:
    """The training images on which some class has objects, each once."""
    lists = sorted((inner / "ImageSets" / "DET").glob("train*.txt"))
    if not lists:
        raise ValueError(f"{inner / 'ImageSets/DET'} has no lists of training images: train_1.txt to train_200.txt")
    return sorted({name for path in lists for name in names_in(path, without=" -1")})


def _halves(root: Path) -> list[list[str]]:
    """The names of val1 and of val2."""
    if lists := _lists_of_halves(root):
        first, second = map(names_in, lists)
        if both := sorted(set(first) & set(second)):
            raise ValueError(f"{both[0]} is in {lists[0]} and in {lists[1]}; no image may be trained and measured on")
        return [first, second]
    path = ilsvrc(root, "DET") / "ImageSets" / "DET" / "val.txt"
    if not is_file(path):
        raise ValueError(f"there is no {path}, nor val1.txt and val2.txt; complete the lists")
    names = sorted(names_in(path))
    return [names[::2], names[1::2]]


def _lists_of_halves(root: Path) -> list[Path]:
    """val1.txt and val2.txt, or nothing.  Refuses one without the other."""
    inner = ilsvrc(root, "DET")
    for folder in (inner / "ImageSets" / "DET", *(above / "devkit" / "data" / "det_lists" for above in (inner, root))):
        there = [folder / f"{half}.txt" for half in HALVES if is_file(folder / f"{half}.txt")]
        if len(there) == 1:
            raise ValueError(f"{there[0]} is there without the other of val1.txt and val2.txt; give both, or neither")
        if there:
            return there
    return []
