"""What is on an image, told by a classifier to whom it then is to place (a localizer of residual/detect)."""

import os
from collections.abc import Callable, Sequence

import torch

from residual.data.decode import Pixels
from residual.data.synsets import synsets_of
from residual.data.transforms import Normalize, prepare
from residual.evaluate.look import class_order
from residual.serve.predict import probabilities
from residual.weights.sources import load

GUESSES = 5


def surest_classes(
    source: str | os.PathLike[str], classes: tuple[str, ...], device: torch.device
) -> Callable[[Pixels], Sequence[int]]:
    """The five classes that the classifier of a run or weights file is surest of, as numbers in `classes`.

    ImageNet's classes may be told by their names or by their ids.
    """
    model = load(source).to(device)
    theirs, ours = by_id(model.card.classes), by_id(classes)
    if odd := sorted(set(theirs) ^ set(ours)):
        some = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise ValueError(
            f"{source} tells other classes apart than the localizer places: {some}; name a classifier that was trained "
            "on the same classes"
        )
    order = class_order(theirs, ours)
    normalize = Normalize(model.card.preprocessing, device)

    def classify(pixels: Pixels) -> Sequence[int]:
        view = torch.from_numpy(prepare(pixels, model.card.preprocessing).copy())[None]
        said = probabilities(model, normalize, view)[0]
        found: list[int] = (said if order is None else said[order]).topk(min(GUESSES, len(classes))).indices.tolist()
        return found

    return classify


def by_id(classes: tuple[str, ...]) -> tuple[str, ...]:
    """WordNet's ids, if all are classes of ImageNet; others as they are."""
    known = [one for one in synsets_of(classes) if one is not None]
    return tuple(known) if len(known) == len(classes) else classes
