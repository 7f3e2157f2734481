"""From a list of image files to a data set: read each once, keep the good ones, split them.

Shapes: N images, H x W pixels, C channels; stored side S.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import BadImage, Pixels, View, fit
from residual.data.images import Dataset, ImageFiles, Images, Problem
from residual.data.kept import Harvest, keep, recall
from residual.data.loader import File, Pool

SIZE = 128  # side a network sees, where nobody said
SMALL = 64  # square images up to this side are kept as they are
MEMORY = 2 << 30  # bytes of pixels up to which a data set is held in memory
VALIDATION = 0.2  # share of each class that a folder without a split holds out

Progress = Callable[[int, int], None]  # files read, files in all


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image that a source lists, before it is read."""

    file: File
    label: int
    split: str | None  # "train", "validation", "test"; None leaves it to `held_out`


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images that a source has, before any is read."""

    entries: Sequence[Entry]
    classes: tuple[str, ...]
    origin: str  # in words
    problems: tuple[Problem, ...] = ()
    faults: tuple[Problem, ...] = ()  # see Dataset
    split: dict[str, Any] = field(default_factory=dict)  # how the split was made


def stored_side(size: int) -> int:
    """The side at which images for a network of `size` pixels are kept: 256 for 224."""
    return round(size * 256 / 224)


def held_out(names: Sequence[str], labels: Tensor, *, share: float, seed: int) -> Tensor:
    """Which images to hold out: (N,) bool, the share of each class rounded, at least one of two or more.

    A pure function of seed and names: neither the order nor the other classes matter.
    """
    held = torch.zeros(len(names), dtype=torch.bool)
    by_class: dict[int, list[tuple[bytes, int]]] = {}
    for place, (name, label) in enumerate(zip(names, labels.tolist(), strict=True)):
        rank = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
        by_class.setdefault(label, []).append((rank, place))
    for ranked in by_class.values():
        count = round(share * len(ranked))
        if len(ranked) > 1:
            count = min(max(count, 1), len(ranked) - 1)
        else:
            count = 0
        for _, place in sorted(ranked)[:count]:
            held[place] = True
    return held


def assemble(
    listing: Listing,
    *,
    size: int | None,
    view: View | None = None,
    seed: int,
    workers: int,
    progress: Progress | None = None,
    lenient: bool = False,
) -> Dataset:
    """Read every file once and make a Dataset of the good ones; damaged ones are listed with reasons.

    view: how a network that exists wants them; None keeps them for one of `size` pixels that is yet to be trained.
    lenient: a class without a good training image becomes a fault instead of being refused, as long as one has any.
    """
    entries, classes = listing.entries, listing.classes
    files = [entry.file for entry in entries]
    if view is None:
        side = stored_side(size or SIZE)
        view = View(size=side, resize=side, keep=SMALL)
    harvest = read_all(files, view, size, workers=workers, progress=progress)
    good = harvest.good
    bad = [*listing.problems, *(Problem(path=files[place].name, reason=why) for place, why in harvest.bad.items())]
    bad.sort(key=lambda one: one.path)

    labels = torch.tensor([entries[place].label for place in good], dtype=torch.int64)
    names = tuple(files[place].name for place in good)
    splits = [entries[place].split for place in good]
    split = dict(listing.split)
    made_here = None in splits
    if made_here:
        held = held_out(names, labels, share=VALIDATION, seed=seed)
        splits = ["validation" if out else "train" for out in held.tolist()]
        split |= {"made": f"{VALIDATION:.0%} of each class held out by name", "seed": seed}
    troubles = list(_classes_without_images(classes, labels, splits, bad))
    if troubles and (not lenient or "train" not in splits):
        more = f" ({len(troubles) - 1:,} more class(es) have none either)" if len(troubles) > 1 else ""
        raise ValueError(troubles[0] + more)

    stored = replace(view, keep=0)
    if harvest.side != view.size:  # small images, as they are
        stored = replace(stored, size=harvest.side, resize=harvest.side)

    def part(name: str) -> Images | ImageFiles | None:
        rows = torch.tensor([row for row, own in enumerate(splits) if own == name], dtype=torch.int64)
        if not len(rows):
            return None
        own_names = tuple(names[row] for row in rows.tolist())
        if harvest.pixels is not None:
            pixels = torch.from_numpy(harvest.pixels)[rows]
            return Images(pixels=pixels, labels=labels[rows], classes=classes, names=own_names)
        return ImageFiles(
            files=tuple(files[good[row]] for row in rows.tolist()),
            labels=labels[rows],
            classes=classes,
            names=own_names,
            view=stored,
            digests=tuple(harvest.digests[row] for row in rows.tolist()),
            workers=workers,
        )

    train, validation, test = part("train"), part("validation"), part("test")
    assert train is not None
    parts = {"train": train, "validation": validation, "test": test}
    return Dataset(
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        origin=listing.origin,
        problems=tuple(bad),
        faults=(*listing.faults, *(Problem(path=listing.origin, reason=trouble) for trouble in troubles)),
        made_here=made_here,
        split=split | {name: len(images) for name, images in parts.items() if images is not None},
        sizes={f"{width}x{height}": count for (width, height), count in harvest.found.most_common()},
        notes=harvest.notes,
    )


def read_all(
    files: Sequence[File], view: View, size: int | None, *, workers: int, progress: Progress | None = None
) -> Harvest:
    """Decode every file once, or recall what was kept of the same ones: the good, and why others are not."""
    harvest = recall(files, view, size)
    if harvest is None:
        harvest = _read(files, view, size, workers, progress)
        keep(files, view, size, harvest)
    return harvest


def _read(files: Sequence[File], view: View, size: int | None, workers: int, progress: Progress | None) -> Harvest:
    """Decode every file once; keep the pixels if they fit in memory."""
    side, channels = view.size, 3 if view.mode == "RGB" else 1
    assert side is not None
    whole = replace(view, keep=0)
    room = len(files) * side * side * channels < MEMORY
    rows = np.empty((len(files) if room else 0, side, side, channels), np.uint8)
    small: list[Pixels] | None = []  # images as they are, as long as all may stay so
    bad: dict[int, str] = {}
    good: list[int] = []
    digests: list[bytes] = []
    found: Counter[tuple[int, int]] = Counter()
    with Pool(workers=workers) as pool:
        for place, decoded in enumerate(pool.decode(files, view)):
            if progress is not None:
                progress(place + 1, len(files))
            pixels = decoded.pixels
            if isinstance(pixels, BadImage):
                bad[place] = str(pixels)
                continue
            good.append(place)
            digests.append(decoded.digest)
            found[decoded.found] += 1
            if small is not None and _may_keep(found, size, view.keep):
                small.append(pixels)
                continue
            if small is not None and room:
                for row, earlier in enumerate(small):
                    rows[row] = fit(earlier, whole)
            small = None
            if room:
                rows[len(good) - 1] = fit(pixels, whole)
        notes = tuple(pool.notes)
    together: Pixels | None = None
    if small:
        side = small[0].shape[0]
        if len(small) * side * side * channels < MEMORY:
            together = np.stack(small)
    elif room:
        together = rows[: len(good)]
    return Harvest(good=good, bad=bad, found=found, pixels=together, side=side, digests=digests, notes=notes)


def _may_keep(found: Counter[tuple[int, int]], size: int | None, most: int) -> bool:
    """Whether all images so far have one small square size, and the one that was asked for if any was."""
    ((width, height),) = found if len(found) == 1 else ((0, 1),)
    return width == height and width <= most and size in (None, width)


def _classes_without_images(
    classes: tuple[str, ...], labels: Tensor, splits: Sequence[str | None], bad: Sequence[Problem]
) -> Iterator[str]:
    counts = Counter(label for label, split in zip(labels.tolist(), splits, strict=True) if split == "train")
    for label, name in enumerate(classes):
        if not counts[label]:
            reasons = [f"{one.path}: {one.reason}" for one in bad if f"/{name}/" in f"/{one.path}"]
            why = f" (for example {reasons[0]})" if reasons else ""
            yield (
                f"class {name!r} has no image that can be used for training{why}; "
                "repair or add images, or remove the folder of that class"
            )
