"""D7: pictures that stand in a set twice, equal or nearly so, are reported before anything is trained on them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.check import check
from residual.data.sources import open_dataset

SIDE = 48
WAYS = ("resized", "compressed", "shifted")


def picture(rng: np.random.Generator) -> np.ndarray:
    """A random picture with structure, as photographs have: (SIDE, SIDE, 3)."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def altered(pixels: np.ndarray, how: str) -> np.ndarray:
    """The same picture after a resize to 3/4 and back, as a JPEG of quality 50, or shifted by two pixels."""
    image = Image.fromarray(pixels)
    if how == "resized":
        return np.asarray(image.resize((SIDE * 3 // 4,) * 2).resize((SIDE, SIDE)))
    if how == "shifted":
        return np.pad(pixels, ((2, 0), (2, 0), (0, 0)), "edge")[:SIDE, :SIDE]
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def grow(root: Path, count: int, planted: int) -> tuple[set[frozenset[str]], set[frozenset[str]]]:
    """A folder of `count` pictures, a fifth of them for testing; returns the pairs that are equal and nearly so.

    Of the equal pairs every second one stands within the training images, the others in two splits.
    """
    rng = np.random.default_rng(7)
    test = count // 5
    pictures = [picture(rng) for _ in range(count)]
    names = [f"{'test' if number < test else 'train'}/{'ab'[number % 2]}/{number}.png" for number in range(count)]
    originals = list(range(count - 2 * planted, count))  # training images
    copies = list(range(planted // 2)) + list(range(test, test + planted - planted // 2))
    near = list(range(planted // 2, planted // 2 + planted))  # test images
    for copy, original in zip(copies, originals, strict=False):
        pictures[copy] = pictures[original]
    for number, (copy, original) in enumerate(zip(near, originals[planted:], strict=True)):
        pictures[copy] = altered(pictures[original], WAYS[number % len(WAYS)])
    for name, pixels in zip(names, pictures, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / name, compress_level=1)
    exact = {frozenset((names[a], names[b])) for a, b in zip(copies, originals, strict=False)}
    return exact, {frozenset((names[a], names[b])) for a, b in zip(near, originals[planted:], strict=True)}


def hunt(root: Path, count: int, planted: int, row) -> None:
    exact, near = grow(root, count, planted)
    found = check(open_dataset(str(root), workers=1))
    equal = {frozenset(each.names) for each in found.duplicates}
    alike = {frozenset(each.names) for each in found.near_duplicates}
    recall = len(alike & near) / len(near)
    false = len((equal - exact) | (alike - near)) / max(1, len(equal | alike))
    row(
        "D7", "Duplicates",
        f"{len(equal & exact)}/{planted} equal and {len(alike & near)}/{planted} near pairs of {count:,} images found, "
        f"{false:.1%} of those told are false",
        len(equal & exact) == planted and recall >= 0.95 and false <= 0.01,
    )  # fmt: skip


def test_planted_duplicates_are_found(tmp_path, row):
    hunt(tmp_path, 400, 20, row)


@pytest.mark.reliability
def test_two_hundred_equal_and_two_hundred_near_among_five_thousand(tmp_path, row):
    hunt(tmp_path, 5000, 200, row)
