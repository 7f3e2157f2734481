"""Objects told by masks in PNG files: one file with a number per object, or a folder with a file per object.

    PNGImages/a.png  PedMasks/a_mask.png         Penn-Fudan: 0 is background, 1, 2, ... the objects
    images/a.jpg     masks/a.png                 the same under plain names
    b/images/b.png   b/masks/1.png  2.png ...    the Data Science Bowl of 2018: white is the object

Masks are read once, for their boxes, and kept as runs.  They are decoded in this process, bounded in pixels but not in
time as images are, and a mask of many objects is looked through once for each.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residual.data.assemble import Progress
from residual.data.decode import BadImage, decode, read
from residual.data.folder import IMAGES
from residual.data.header import size_of
from residual.data.images import Problem
from residual.data.objects import MOST_MASKED, Flags, ObjectImages, Objects, from_masks

NUMBERED = (("PNGImages", "PedMasks", "pedestrian"), ("images", "masks", "object"))  # folders, and the class


def numbered(root: Path) -> tuple[Path, Path, str] | None:
    """The folders of images and of their masks, and what the objects are, where a folder is laid out so."""
    for images, masks, name in NUMBERED:
        if (root / images).is_dir() and (root / masks).is_dir() and any((root / masks).glob("*.png")):
            return root / images, root / masks, name
    return None


def foldered(root: Path) -> Path | None:
    """The folder whose folders hold an image and its masks, if there is one."""
    for folder in (root, root / "stage1_train"):
        inside = (path for path in sorted(folder.glob("*")) if path.is_dir())
        first = next(inside, None)
        if first is not None and (first / "images").is_dir() and (first / "masks").is_dir():
            return folder
    return None


def read_numbered(images: Path, masks: Path, name: str, *, progress: Progress | None = None) -> ObjectImages:
    """One class; the mask of a.png is a.png or a_mask.png."""
    found = [path for path in sorted(images.iterdir()) if path.suffix.lower().encode() in IMAGES]
    described = {path: _mask_beside(path, masks) for path in found}
    lonely = sorted(set(masks.glob("*.png")) - set(described.values()))
    told = [Problem(path=f"{masks.name}/{path.name}", reason="it masks an image that is not there") for path in lonely]
    origin = f"masks {images.parent.name}"
    return _gathered(images.parent, found, lambda path: _numbered(described[path]), name, origin, told, progress)


def read_foldered(root: Path, name: str = "nucleus", *, progress: Progress | None = None) -> ObjectImages:
    """One class; a folder for each image."""
    found, problems = [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        inside = [path for path in sorted((folder / "images").glob("*")) if path.suffix.lower().encode() in IMAGES]
        if len(inside) == 1:
            found += inside
        else:
            problems.append(Problem(path=folder.name, reason=f"its images/ has {len(inside)} images, it needs one"))
    origin = f"masks {root.name}"
    return _gathered(root, found, lambda path: _whites(path.parents[1] / "masks"), name, origin, problems, progress)


def _gathered(
    root: Path,
    found: list[Path],
    masks_of: Callable[[Path], Iterator[Flags]],
    name: str,
    origin: str,
    problems: list[Problem],
    progress: Progress | None,
) -> ObjectImages:
    paths, sizes, objects = [], [], list[Objects]()
    for number, path in enumerate(found, start=1):
        try:
            size = size_of(path)
            objects.append(from_masks(_fitting(masks_of(path), size)))
            paths.append(path)
            sizes.append(size)
        except BadImage as problem:
            problems.append(Problem(path=path.relative_to(root).as_posix(), reason=str(problem)))
        if progress is not None:
            progress(number, len(found))
    if not paths:
        why = f"; {problems[0].path}: {problems[0].reason}" if problems else ""
        raise ValueError(f"{root} has no image with usable masks{why}")
    return ObjectImages(
        paths=tuple(paths),
        names=tuple(path.relative_to(root).as_posix() for path in paths),
        sizes=tuple(sizes),
        objects=tuple(objects),
        classes=(name,),
        origin=origin,
        problems=tuple(problems),
    )


def _mask_beside(image: Path, masks: Path) -> Path:
    own = masks / f"{image.stem}_mask.png"
    return own if own.is_file() else masks / f"{image.stem}.png"


def _fitting(masks: Iterator[Flags], size: tuple[int, int]) -> Iterator[Flags]:
    for mask in masks:
        if mask.shape != size:
            raise BadImage(f"it has {size[1]}x{size[0]} pixels, its mask {mask.shape[1]}x{mask.shape[0]}")
        yield mask


def _numbered(path: Path) -> Iterator[Flags]:
    numbers = read_numbers(path)
    there = np.unique(numbers)
    there = there[there > 0]
    if len(there) * numbers.size > MOST_MASKED:
        raise BadImage(f"its mask {path.name} has {len(there)} objects, which is too many for its size")
    for number in there:
        yield numbers == number


def _whites(folder: Path) -> Iterator[Flags]:
    for path in sorted(folder.glob("*.png")):
        try:
            white = decode(read(str(path)), mode="L")[:, :, 0] > 127
        except BadImage as problem:
            raise BadImage(f"its mask {path.name}: {problem}") from None
        if not white.any():
            raise BadImage(f"its mask {path.name} is empty")
        yield white


def read_numbers(path: Path) -> NDArray[np.int64]:
    """The numbers in a PNG (H, W): of its palette, or of its greys, of 8 or 16 bits."""
    try:
        size_of(path)  # refuses what is no image, and a vast one
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise BadImage(f"it has colours ({image.mode}), not a number for each pixel")
            return np.asarray(image).astype(np.int64)
    except BadImage as problem:
        raise BadImage(f"its mask {path.name}: {problem}") from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        raise BadImage(f"its mask {path.name} is damaged ({str(error).strip() or type(error).__name__})") from None
