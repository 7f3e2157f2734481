"""Everything we record of one network on one set of images: the content of evaluation.json.

Errors in percent, probabilities and calibration error as fractions.
"""

import base64
from dataclasses import asdict
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from residual.data.images import ImageFiles, Images
from residual.evaluate.calibration import calibration_error, reliability
from residual.evaluate.error import bootstrap_interval, confusion, per_class, top_k_error
from residual.evaluate.score import Scores

MISTAKES = 24


def evaluation(
    scores: Scores,
    images: Images | ImageFiles,
    *,
    split: str,
    weights: str = "last",
    seed: int = 0,
    mistakes: int = MISTAKES,
) -> dict[str, Any]:
    """Plain JSON values.  scores: of these images, in their order; seed: of the interval's resampling."""
    if len(scores) != len(images) or not torch.equal(scores.labels, images.labels.cpu()):
        raise ValueError(f"these are scores of {len(scores)} other images, not of the {len(images)} given")
    bad = int((~torch.isfinite(scores.logits).all(dim=1)).sum())
    if bad:
        raise ValueError(
            f"the network's answer to {bad} of {len(scores)} images is not finite; its weights are damaged "
            "or its training diverged, so evaluate an earlier checkpoint"
        )
    rows = reliability(scores)
    found: dict[str, Any] = {
        "split": split,
        "weights": weights,
        "images": len(scores),
        "top1_error": top_k_error(scores),
        "interval": list(bootstrap_interval(scores.wrong, seed=seed)),
        "ece": calibration_error(rows),
        "per_class": per_class(scores, images.classes),
        "confusion": confusion(scores).tolist(),
        "reliability": [asdict(row) for row in rows],
        "mistakes": worst_mistakes(scores, images, mistakes),
    }
    if len(images.classes) > 5:
        found["top5_error"] = top_k_error(scores, 5)
    return found


def worst_mistakes(scores: Scores, images: Images | ImageFiles, count: int) -> list[dict[str, Any]]:
    """The wrong answers the network was surest of, surest first, each with its picture."""
    confidence = scores.probabilities.amax(dim=1)
    places = scores.wrong.nonzero().flatten()
    worst = places[confidence[places].argsort(descending=True, stable=True)][:count]
    pictures = images.fetch(worst).cpu() if len(worst) else ()
    return [
        {
            "name": images.names[place],
            "truth": images.classes[int(scores.labels[place])],
            "predicted": images.classes[int(scores.predicted[place])],
            "probability": float(confidence[place]),
            "png": png(picture),
        }
        for place, picture in zip(worst.tolist(), pictures, strict=True)
    ]


def png(pixels: Tensor) -> str:
    """(H, W, C) uint8, RGB or grey, as base64 of a PNG file."""
    array = pixels.numpy()
    file = BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
