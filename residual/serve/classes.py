"""What is on an image, told by a classifier to whom it then is to place (a localizer of residual/detect)."""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from residual.data.decode import Pixels
from residual.data.synsets import synsets_of
from residual.data.transforms import Normalize, prepare
from residual.detect.detector import Detector
from residual.detect.found import Found
from residual.detect.localizer_evaluation import localizing
from residual.detect.procedure import Procedure
from residual.evaluate.look import class_order
from residual.serve.predict import probabilities
from residual.weights.sources import Loaded, load

GUESSES = 5


class Placing:
    """A localizer of which a classifier asks where its five surest classes are: a `Finder`, the surest class first.

    The probabilities are the localizer's, of its boxes.
    """

    def __init__(self, detector: Detector, classifier: Loaded, *, of: str | os.PathLike[str]) -> None:
        """Both on one device.  of: where the classifier comes from, for an error."""
        self.detector, self.classifier, self.card = detector, classifier, detector.card
        self.classify = told_by(classifier, detector.card.classes, of=of)

    def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found:
        """(K, 4) boxes on an image (H, W, 3), of K = 5 classes or all that there are."""
        told = self.card.procedure if procedure is None else procedure
        find, _ = localizing(self.detector, told.sides, classify=self.classify)
        return find(pixels)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights of both."""
        classifier = {f"classifier.{name}": value for name, value in self.classifier.state_dict().items()}
        return self.detector.state_dict() | classifier


def surest_classes(
    source: str | os.PathLike[str], classes: tuple[str, ...], device: torch.device
) -> Callable[[Pixels], Sequence[int]]:
    """The five classes that the classifier of a run or weights file is surest of, as numbers in `classes`.

    ImageNet's classes may be told by their names or by their ids.
    """
    return told_by(load(source).to(device), classes, of=source)


def told_by(
    model: Loaded, classes: tuple[str, ...], *, of: str | os.PathLike[str]
) -> Callable[[Pixels], Sequence[int]]:
    """The same of a classifier that is loaded already.  of: where it comes from, for an error."""
    device = next(model.parameters()).device
    theirs, ours = by_id(model.card.classes), by_id(classes)
    if odd := sorted(set(theirs) ^ set(ours)):
        some = ", ".join(odd[:5]) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
        raise ValueError(
            f"{of} tells other classes apart than the localizer places: {some}; name a classifier that was trained "
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
