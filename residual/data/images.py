"""Images and their labels: what every reader returns and everything later takes.

Shapes: N images, B of them asked for, H x W pixels, C channels.  Pixels are uint8, (N, H, W, C).

`Images` holds its pixels in memory.  `ImageFiles` holds paths and decodes on demand; the two are used alike.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residual.data.ahead import ahead
from residual.data.crop import Crop
from residual.data.decode import BadImage, View
from residual.data.loader import File, Pool


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file or folder that was left out, and why."""

    path: str  # relative to the data, printable
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Labelled images in memory."""

    pixels: Tensor  # (N, H, W, C) uint8
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    names: tuple[str, ...]  # one per image: its path relative to the data, or "data_batch_1:17"

    def __post_init__(self) -> None:
        assert self.pixels.dtype == torch.uint8, self.pixels.dtype
        assert self.pixels.ndim == 4, self.pixels.shape
        assert self.labels.dtype == torch.int64, self.labels.dtype
        assert len(self.pixels) == len(self.labels) == len(self.names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.pixels.shape[1:]
        return height, width, channels

    def fetch(self, indices: Tensor) -> Tensor:
        """Pixels of some images: (B,) int64 -> (B, H, W, C) uint8, on the device of the pixels."""
        return self.pixels[indices.to(self.pixels.device)]

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`fetch` of each batch, in order."""
        for indices in batches:
            yield self.fetch(indices)

    def select(self, indices: Tensor) -> "Images":
        """Some of the images, in the order of `indices`."""
        chosen = indices.cpu()
        names = tuple(self.names[i] for i in chosen.tolist())
        return Images(pixels=self.fetch(indices), labels=self.labels[chosen], classes=self.classes, names=names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over shape, pixels, labels and classes, in the order they lie here."""
        digest = _start(self.classes, self.labels)
        digest.update(repr(tuple(self.pixels.shape)).encode())
        digest.update(self.pixels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFiles:
    """Labelled images that stay on disk: the same noun, decoded as they are needed.

    Every file was read once before and was good then.  One that has changed since stops the run by name:
    its label may no longer be true.
    """

    files: Sequence[File]
    labels: Tensor  # (N,) int64
    classes: tuple[str, ...]
    names: Sequence[str]
    view: View  # always gives one shape
    digests: tuple[bytes, ...] = ()  # of each file's bytes, when it was read
    workers: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        assert self.view.size is not None
        return self.view.size, self.view.size, 1 if self.view.mode == "L" else 3

    def fetch(self, indices: Tensor) -> Tensor:
        """Pixels of some images, decoded here: (B,) int64 -> (B, H, W, C) uint8."""
        return next(self._batches(Pool(workers=0), [[self.files[index] for index in indices.tolist()]]))

    def stream(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """`fetch` of each batch, in order, two batches ahead of the reader."""
        wanted = ([self.files[index] for index in indices.tolist()] for indices in batches)
        with Pool(workers=self.workers) as pool:
            yield from ahead(self._batches(pool, wanted), depth=2)

    def windows(self, batches: Iterable[tuple[Crop, int, Tensor, Tensor]]) -> Iterator[Tensor]:
        """Random windows for training, in order, two batches ahead of the reader: (B, size, size, C) uint8 each.

        Of a batch: how to cut, the seed, visits (B,) and indices (B,), which decide the windows and nothing else does.
        """

        def wanted() -> Iterator[list[File]]:
            for crop, seed, visits, indices in batches:
                draws = zip(visits.tolist(), indices.tolist(), strict=True)
                yield [replace(self.files[index], window=(crop, (seed, visit, index))) for visit, index in draws]

        with Pool(workers=self.workers, windows=True) as pool:
            yield from ahead(self._batches(pool, wanted()), depth=2)

    def _batches(self, pool: Pool, batches: Iterable[list[File]]) -> Iterator[Tensor]:
        sizes: deque[int] = deque()

        def wanted() -> Iterator[File]:
            for files in batches:
                sizes.append(len(files))
                yield from files

        batch, row = np.empty((0, *self.shape), np.uint8), 0
        for result in pool.decode(wanted(), self.view):
            if isinstance(result.pixels, BadImage):
                raise ValueError(
                    f"{result.file.name}: {result.pixels}. It was good when the data was checked at the "
                    "start of this run; put the file back or start again without it"
                )
            if row == 0:
                batch = np.empty((sizes.popleft(), *result.pixels.shape), np.uint8)
            batch[row] = result.pixels
            row += 1
            if row == len(batch):
                yield torch.from_numpy(batch)
                row = 0

    def select(self, indices: Tensor) -> "ImageFiles":
        """Some of the images, in the order of `indices`."""
        chosen = indices.tolist()
        return ImageFiles(
            files=tuple(self.files[i] for i in chosen),
            labels=self.labels[indices.cpu()],
            classes=self.classes,
            names=tuple(self.names[i] for i in chosen),
            view=self.view,
            digests=tuple(self.digests[i] for i in chosen) if self.digests else (),
            workers=self.workers,
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the bytes of the files (as they were read), the view, labels and classes."""
        digest = _start(self.classes, self.labels)
        digest.update(repr(self.view).encode())
        digest.update(b"".join(self.digests))
        return digest.hexdigest()


def _start(classes: tuple[str, ...], labels: Tensor) -> "hashlib._Hash":
    digest = hashlib.sha256(repr(classes).encode("utf-8", "surrogateescape"))
    digest.update(labels.cpu().contiguous().numpy().data)
    return digest


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A source, read: its splits, what was left out, and how the splits came to be."""

    train: Images | ImageFiles
    validation: Images | ImageFiles | None = None
    test: Images | ImageFiles | None = None
    classes: tuple[str, ...]
    origin: str  # where it came from, in words
    problems: tuple[Problem, ...] = ()
    faults: tuple[Problem, ...] = ()  # for which no training would begin, where it was opened to be looked at
    split: dict[str, Any] = field(default_factory=dict)  # how the split was made; a run records it
    made_here: bool = False  # the held-out images were chosen by us, not by whoever made the data
    sizes: dict[str, int] = field(default_factory=dict)  # "500x375" (width x height) -> images, as found
    notes: tuple[str, ...] = ()  # what happened while reading, such as a decoding process that died

    def splits(self) -> dict[str, Images | ImageFiles]:
        """The splits that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}
