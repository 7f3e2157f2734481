"""What is wrong with my data, before training: `residual data check DIR`.

Shapes: N images, B in a batch.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from residual.data.images import Dataset, ImageFiles, Images, Problem

SIDE = 32  # of the small grey copies that near duplicates are judged by
REACH = 2  # pixels of such a copy by which near duplicates may be shifted
CANDIDATES = 12  # bits of 64 by which the hashes of near duplicates may differ
LIKENESS = 0.93  # correlation of two grey copies, best of small shifts, from which they count as one picture
MOST_PAIRS = 5_000_000_000  # comparisons of hashes; beyond it takes minutes


@dataclass(frozen=True, kw_only=True)
class Alike:
    """Images that are the same or nearly so."""

    names: tuple[str, ...]
    splits: tuple[str, ...]  # of each
    classes: tuple[str, ...]  # of each

    @property
    def across_splits(self) -> bool:
        """Whether training images are tested on."""
        return len(set(self.splits)) > 1

    @property
    def across_classes(self) -> bool:
        """Whether the labels contradict each other."""
        return len(set(self.classes)) > 1


@dataclass(frozen=True, kw_only=True)
class Check:
    """Everything that is known about a data set before training."""

    origin: str
    counts: dict[str, dict[str, int]]  # split -> class -> images
    faults: tuple[Problem, ...]  # for which training refuses the data
    problems: tuple[Problem, ...]
    duplicates: tuple[Alike, ...]  # equal in every pixel
    near_duplicates: tuple[Alike, ...]  # pairs of two splits that look alike
    sizes: dict[str, int]  # "500x375" -> images, as found
    imbalance: float  # largest over smallest class of the training set
    notes: tuple[str, ...]


def check(data: Dataset) -> Check:
    """Count, compare and list.  Needs one more pass over images that are not in memory."""
    counts = {
        split: {
            name: int(number)
            for name, number in zip(
                data.classes, images.labels.bincount(minlength=len(data.classes)).tolist(), strict=True
            )
        }
        for split, images in data.splits().items()
    }
    hashes: dict[str, list[bytes]] = {}
    grey: dict[str, NDArray[np.uint8]] = {}
    for split, images in data.splits().items():
        hashes[split], grey[split] = _look(images)
    notes = list(data.notes)
    training = counts["train"].values()
    return Check(
        origin=data.origin,
        counts=counts,
        faults=data.faults,
        problems=data.problems,
        duplicates=tuple(_exact(data, hashes)),
        near_duplicates=tuple(_near(data, hashes, grey, notes)),
        sizes=data.sizes,
        imbalance=max(training) / max(1, min(training)),
        notes=tuple(notes),
    )


def perceptual_hash(grey: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """64 bits per picture that change little when it is resized, compressed or shifted (Zauner 2010).

    grey: (N, S, S).  The 8 x 8 slowest cosines of each picture, without its mean, against their median.
    """
    place = np.arange(grey.shape[1], dtype=np.float32)
    cosines = np.cos(np.float32(np.pi) / len(place) * (place + 0.5) * place[:8, None])  # (8, S)
    waves = (cosines @ grey.astype(np.float32) @ cosines.T).reshape(len(grey), 64)
    waves[:, 0] = 0  # the mean says nothing of the picture
    bits = waves > np.median(waves[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _look(images: Images | ImageFiles) -> tuple[list[bytes], NDArray[np.uint8]]:
    """The SHA-256 of each image's pixels and its small grey copy: (N, 32, 32)."""
    hashes: list[bytes] = []
    copies: list[NDArray[np.uint8]] = []
    order = torch.arange(len(images))
    for pixels in images.stream(order[start : start + 512] for start in range(0, len(order), 512)):
        hashes += [hashlib.sha256(one.tobytes()).digest() for one in pixels.numpy()]
        copies.append(_small_grey(pixels))
    return hashes, np.concatenate(copies)


def _small_grey(pixels: Tensor) -> NDArray[np.uint8]:
    grey = pixels.to(torch.float32).mean(3)[:, None]  # (B, 1, H, W)
    if min(grey.shape[2:]) < SIDE:
        small = functional.interpolate(grey, (SIDE, SIDE), mode="bilinear", align_corners=False)
    else:
        small = functional.adaptive_avg_pool2d(grey, SIDE)
    return small[:, 0].round().to(torch.uint8).numpy()


def _exact(data: Dataset, hashes: dict[str, list[bytes]]) -> Iterator[Alike]:
    groups: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for split, own in hashes.items():
        for row, value in enumerate(own):
            groups[value].append((split, row))
    for members in groups.values():
        if len(members) > 1:
            yield _alike(data, members)


def _near(
    data: Dataset, hashes: dict[str, list[bytes]], grey: dict[str, NDArray[np.uint8]], notes: list[str]
) -> Iterator[Alike]:
    names = list(grey)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            if len(grey[first]) * len(grey[second]) > MOST_PAIRS:
                notes.append(f"{first} and {second} are too many images to look for near duplicates")
                continue
            for row, other in near_pairs(grey[first], grey[second]):
                if hashes[first][row] != hashes[second][other]:
                    yield _alike(data, [(first, row), (second, other)])


def near_pairs(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """Rows (i, j) of two stacks of small grey pictures, (N, 32, 32), that show the same."""
    steps = (0, REACH, 2 * REACH)
    ours = [perceptual_hash(_window(first, down, right)) for down in steps for right in steps]
    theirs = perceptual_hash(_window(second, REACH, REACH))
    for start in range(0, len(theirs), 64):
        near = np.zeros((len(first), len(theirs[start : start + 64])), np.bool_)
        for shifted in ours:
            near |= np.bitwise_count(shifted[:, None] ^ theirs[None, start : start + 64]) <= CANDIDATES
        rows, columns = np.nonzero(near)
        if len(rows):
            alike = _likeness(first[rows], second[start + columns]) >= LIKENESS
            for row, column in zip(rows[alike].tolist(), columns[alike].tolist(), strict=True):
                yield row, start + column


def _window(pictures: NDArray[np.uint8], down: int, right: int) -> NDArray[np.uint8]:
    side = SIDE - 2 * REACH
    return pictures[:, down : down + side, right : right + side]


def _likeness(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Correlation of pictures, pair by pair, at the best shift of up to REACH pixels: (P,)."""
    fixed = _standard(_window(second, REACH, REACH))
    best = np.full(len(first), -1.0)
    for down in range(2 * REACH + 1):
        for right in range(2 * REACH + 1):
            best = np.maximum(best, (fixed * _standard(_window(first, down, right))).mean((1, 2)))
    return best


def _standard(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    values = pictures.astype(np.float64)
    values -= values.mean((1, 2), keepdims=True)
    return np.asarray(values / np.maximum(values.std((1, 2), keepdims=True), 1.0))


def _alike(data: Dataset, members: list[tuple[str, int]]) -> Alike:
    splits = data.splits()
    return Alike(
        names=tuple(splits[split].names[row] for split, row in members),
        splits=tuple(split for split, _ in members),
        classes=tuple(data.classes[int(splits[split].labels[row])] for split, row in members),
    )
