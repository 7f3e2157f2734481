"""Everything we record of one network on one set of images: the content of evaluation.json.

Errors in percent, probabilities and calibration error as fractions.
"""

import base64
from dataclasses import asdict
from io import BytesIO
from itertools import zip_longest
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from residual.data.images import ImageFiles, Images
from residual.evaluate.calibration import calibration_error, reliability
from residual.evaluate.error import bootstrap_interval, confusion, per_class, top_k_error
from residual.evaluate.kept import Kept
from residual.evaluate.score import Scores, refuse_not_finite

MISTAKES = 24
MATRIX = 2000  # classes


def evaluation(
    scores: Scores,
    images: Images | ImageFiles | Kept,
    *,
    split: str,
    weights: str = "last",
    seed: int = 0,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Plain JSON values.  scores: of these images, in their order; seed: of the interval's resampling.

    images: kept scores stand for them where they are not at hand; the mistakes then have no pictures.
    The confusion matrix grows with the square of the classes: of more than 2,000 its list is empty.
    """
    if len(scores) != len(images) or not torch.equal(scores.labels, images.labels.cpu()):
        raise ValueError(f"these are scores of {len(scores)} other images, not of the {len(images)} given")
    refuse_not_finite(scores)
    rows = reliability(scores)
    found: dict[str, Any] = {
        "split": split,
        "weights": weights,
        "images": len(scores),
        "top1_error": top_k_error(scores),
        "interval": list(bootstrap_interval(scores.wrong, seed=seed)),
        "ece": calibration_error(rows),
        "per_class": per_class(scores, images.classes),
        "confusion": confusion(scores).tolist() if len(images.classes) <= MATRIX else [],
        "reliability": [asdict(row) for row in rows],
        "mistakes": worst_mistakes(scores, images, mistakes),
    }
    if scores.protocol is not None:
        found["protocol"] = asdict(scores.protocol) | {"scales": list(scores.protocol.scales)}
    if len(images.classes) > 5:
        found["top5_error"] = top_k_error(scores, 5)
    return found


def worst_mistakes(scores: Scores, images: Images | ImageFiles | Kept, count: int) -> list[dict[str, Any]]:
    """The wrong answers the network was surest of, surest first, each with its picture where there is one."""
    confidence = scores.probabilities.amax(dim=1)
    places = scores.wrong.nonzero().flatten()
    worst = places[confidence[places].argsort(descending=True, stable=True)][:count]
    pictures = images.fetch(worst).cpu() if not isinstance(images, Kept) and len(worst) else ()
    return [
        {
            "name": images.names[place],
            "truth": images.classes[int(scores.labels[place])],
            "predicted": images.classes[int(scores.predicted[place])],
            "probability": float(confidence[place]),
            "png": "" if picture is None else png(picture),
        }
        for place, picture in zip_longest(worst.tolist(), pictures)
    ]


def png(pixels: Tensor) -> str:
    """(H, W, C) uint8, RGB or grey, as base64 of a PNG file."""
    array = pixels.numpy()
    file = BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
