"""Names and probabilities for images that nobody labelled: files, folders, or the bytes on standard input.

An image that cannot be used gets an answer too, with a `problem` in place of classes: nothing is skipped in
silence.  Images are decoded and cut by the functions that training used, so both see the same
bytes.
"""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from residual.data.decode import MAX_BYTES, BadImage
from residual.data.loader import Decoded, File, Pool
from residual.data.transforms import Normalize, prepare, view
from residual.weights.card import Card

STDIN = "-"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one image, most probable first; or why there are none."""

    path: str  # as given, or found in a folder; bytes that are no UTF-8 as surrogates
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()  # of those classes; over all classes they sum to 1
    problem: str | None = None


def predict(
    model: nn.Module,
    card: Card,
    paths: Iterable[str | os.PathLike[str]],
    *,
    top: int = 5,
    batch: int = 64,
    workers: int = 1,
    stdin: BinaryIO | None = None,
) -> Iterator[Prediction]:
    """One answer for every file, in order; every file of a folder, at any depth, by name, hidden ones apart.

    paths: files, folders, and "-" for one image on standard input.  top: how many classes at most.
    workers: processes that decode, so that no image can end this one; 0 decodes here.
    """
    if top < 1 or batch < 1:
        raise ValueError(f"top is {top} and batch is {batch}; both count, so at least 1")
    model.eval()
    device = next(model.parameters()).device
    normalize = Normalize(card.preprocessing, device)
    places: deque[File | Prediction] = deque()  # in order: files under way, and answers that need no decoding

    def files() -> Iterator[File]:
        for place in found(paths, stdin):
            places.append(place)
            if isinstance(place, File):
                yield place

    waiting: list[Decoded | Prediction] = []
    with Pool(workers=workers) as pool:
        for decoded in pool.decode(files(), view(card.preprocessing), window=2 * batch):
            while isinstance(place := places.popleft(), Prediction):
                waiting.append(place)
            waiting.append(decoded)
            if len(waiting) >= batch:
                yield from _answers(model, card, normalize, waiting, top)
                waiting = []
    waiting += [place for place in places if isinstance(place, Prediction)]
    yield from _answers(model, card, normalize, waiting, top)


def _answers(
    model: nn.Module, card: Card, normalize: Normalize, places: list[Decoded | Prediction], top: int
) -> Iterator[Prediction]:
    whole = [one.pixels for one in places if isinstance(one, Decoded) and not isinstance(one.pixels, BadImage)]
    good = [prepare(pixels, card.preprocessing) for pixels in whole]
    answers = iter(probabilities(model, normalize, torch.from_numpy(np.stack(good)))) if good else iter(())
    for one in places:
        if isinstance(one, Prediction):
            yield one
            continue
        if isinstance(one.pixels, BadImage):
            yield Prediction(path=one.file.name, problem=str(one.pixels))
            continue
        answer = next(answers)
        if not torch.isfinite(answer).all():
            problem = "the network's answer is not finite; its weights are damaged"
            yield Prediction(path=one.file.name, problem=problem)
            continue
        highest, ranked = answer.sort(descending=True, stable=True)
        yield Prediction(
            path=one.file.name,
            classes=tuple(card.classes[place] for place in ranked[:top].tolist()),
            probabilities=tuple(highest[:top].tolist()),
        )


def probabilities(model: nn.Module, normalize: Normalize, pixels: Tensor) -> Tensor:
    """(B, size, size, C) uint8 -> (B, K) float64 on the CPU."""
    device = normalize.mean.device
    with torch.inference_mode():
        logits: Tensor = model(normalize(pixels.to(device))).float().cpu()  # before .double(), which MPS does not have
    return logits.double().softmax(dim=1)


def found(paths: Iterable[str | os.PathLike[str]], stdin: BinaryIO | None = None) -> Iterator[File | Prediction]:
    """The files meant by `paths`; what does not exist is a file too, and fails to open by name."""
    for path in paths:
        name = os.fsdecode(path)
        if name == STDIN:
            data = (stdin or sys.stdin.buffer).read(MAX_BYTES + 1)
            yield File(name=name, data=data)
        elif is_folder(name):
            yield from _walk(Path(name))
        else:
            yield File(name=name, path=os.fsencode(name))


def _walk(folder: Path) -> Iterator[File | Prediction]:
    """Every file below a folder, sorted by name; a folder reached twice (by links) is entered once."""
    seen: set[tuple[int, int]] = set()
    stack, empty = [folder], True
    while stack:
        path = stack.pop()
        if not is_folder(path):
            empty = False
            yield File(name=str(path), path=os.fsencode(path))
            continue
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                inside = sorted(path.iterdir(), reverse=True)
                stack += [one for one in inside if not one.name.startswith(".")]
        except OSError as error:
            empty = False
            yield Prediction(path=str(path), problem=f"a folder that cannot be read ({error.strerror})")
    if empty:
        yield Prediction(path=str(folder), problem="a folder without files")


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder of this name; False for a name that no folder can have."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # opening it will say what is wrong
        return False
