"""Scores kept in a file, view by view, to be combined again without the network.

A .safetensors file: `labels` (N,) and `logits` (N, V, K), with names, classes and the protocol of every network
as JSON in its metadata.  The views of several networks lie one network after the other.

Shapes: N images, B of them at a time, V views of each, K classes.
"""

import json
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import safetensors
import torch
from torch import Tensor

from residual.evaluate.look import combined
from residual.evaluate.protocol import Average, Protocol
from residual.evaluate.score import Scores
from residual.records import DurableFile, convert

KEY = "residual-scores"
FORMAT = 1
READ_AT_ONCE = 1 << 28  # bytes
MAX_CLASSES = 100_000  # all of ImageNet has 21,841


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One network of the file: whose weights, under which protocol, and what each of its views is."""

    weights: str
    protocol: Protocol
    views: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What stands beside the numbers."""

    names: tuple[str, ...]  # of the images
    classes: tuple[str, ...]
    split: str
    networks: tuple[Seen, ...]
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"the scores have format {self.format}, this version of residual reads {FORMAT}")
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f"the scores are of {len(self.classes):,} classes; the limit is {MAX_CLASSES:,}")
        if not self.networks or not all(network.views for network in self.networks):
            raise ValueError("the scores are of no network or of no view")

    @property
    def views(self) -> int:
        """V, of all networks together."""
        return sum(len(network.views) for network in self.networks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A file of scores, opened: its numbers stay on disk."""

    path: Path
    contents: Contents
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the scores."""
        return self.contents.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images."""
        return self.contents.names

    def said(self, count: int) -> Iterator[list[Tensor]]:
        """As `look.look` said it: for `count` images after the other, (B, V, K) of every network."""
        sizes = [len(network.views) for network in self.contents.networks]
        with safetensors.safe_open(self.path, "pt") as file:
            logits = file.get_slice("logits")
            for start in range(0, len(self), count):
                yield list(logits[start : start + count].split(sizes, dim=1))


def keep_scores(
    path: Path, contents: Contents, labels: Tensor, said: Iterable[list[Tensor]]
) -> Generator[list[Tensor]]:
    """Write what is said as it passes by, and hand it on; the file appears, durably, when all has passed."""
    shape = (len(labels), contents.views, len(contents.classes))
    first = labels.numel() * 8
    header = {
        "__metadata__": {KEY: msgspec.json.encode(contents, order="deterministic").decode()},
        "labels": {"dtype": "I64", "shape": [len(labels)], "data_offsets": [0, first]},
        "logits": {"dtype": "F32", "shape": shape, "data_offsets": [first, first + 4 * torch.Size(shape).numel()]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with DurableFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(labels.contiguous().numpy().data.cast("B"))
        rows = 0
        for views in said:
            together = torch.cat(views, dim=1).contiguous()
            assert together.shape[1:] == shape[1:], (together.shape, shape)
            file.write(together.numpy().data.cast("B"))
            rows += len(together)
            yield views
        assert rows == len(labels), (rows, len(labels))


def holds_scores(path: Path) -> bool:
    """Whether a file is one of kept scores, by content."""
    if not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def open_scores(path: Path) -> Kept:
    """Open a file that `keep_scores` wrote; whatever does not fit together is refused."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            contents = convert(msgspec.json.decode((file.metadata() or {}).get(KEY, "{}")), Contents)
            labels, shape = file.get_tensor("labels"), tuple(file.get_slice("logits").get_shape())
            kinds = labels.dtype, file.get_slice("logits").get_dtype()
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path} is no file of scores ({problem}); --keep-scores writes one") from None
    expected = (len(contents.names), contents.views, len(contents.classes))
    if shape != expected or labels.shape != (expected[0],) or kinds != (torch.int64, "F32"):
        raise ValueError(
            f"{path} holds scores of shape {shape}, but its names, views and classes are {expected}; it is damaged: "
            "write it again with --keep-scores"
        )
    return Kept(path=path, contents=contents, labels=labels)


def rescore(files: list[Kept], average: Average | None = None) -> Scores:
    """Kept scores combined as their protocol says, or by another average; several files are an ensemble.

    Refuses files that are not of the same images and classes, in the same order.
    """
    first = files[0]
    for other in files[1:]:
        if other.names != first.names or other.classes != first.classes or not torch.equal(other.labels, first.labels):
            raise ValueError(
                f"{other.path} holds scores of other images or classes than {first.path}; only scores of the same "
                "images, in the same order, are combined"
            )
    protocol = first.contents.networks[0].protocol
    protocol = protocol if average is None else replace(protocol, average=average)
    row = sum(4 * one.contents.views for one in files) * len(first.classes)  # bytes of one image
    together = zip(*(one.said(max(1, READ_AT_ONCE // row)) for one in files), strict=True)
    found = [combined([views for said in parts for views in said], protocol.average) for parts in together]
    return Scores(torch.cat(found), first.labels, protocol)
