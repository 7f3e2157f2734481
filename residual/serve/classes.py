"""What is on an image, told by a classifier to whom it then is to place (a localizer of residual/detect)."""

import os
from collections.abc import Callable, Sequence

import torch

from residual.data.decode import Pixels
from residual.data.transforms import Normalize, prepare
from residual.evaluate.look import class_order
from residual.serve.predict import probabilities
from residual.weights.sources import load

GUESSES = 5


def surest_classes(
    source: str | os.PathLike[str], classes: tuple[str, ...], device: torch.device
) -> Callable[[Pixels], Sequence[int]]:
    """The five classes that the classifier of a run or weights file is surest of, as numbers in `classes`."""
    model = load(source).to(device)
    if odd := sorted(set(model.card.classes) ^ set(classes)):
        some = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise ValueError(
            f"{source} tells other classes apart than are to be placed: {some}; name a classifier that was trained on "
            "the same classes"
        )
    order = class_order(model.card.classes, classes)
    normalize = Normalize(model.card.preprocessing, device)

    def classify(pixels: Pixels) -> Sequence[int]:
        view = torch.from_numpy(prepare(pixels, model.card.preprocessing).copy())[None]
        said = probabilities(model, normalize, view)[0]
        found: list[int] = (said if order is None else said[order]).topk(min(GUESSES, len(classes))).indices.tolist()
        return found

    return classify
