"""When the network says 90 %, is it right nine times of ten?

Shapes: N images, K classes.
"""

from dataclasses import dataclass

import torch

from residual.evaluate.score import Scores


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Images whose highest probability lies between two bounds.  Fractions; None where there is no image."""

    confidence: float | None  # mean of the highest probability
    accuracy: float | None
    count: int


def reliability(scores: Scores, bins: int = 15) -> list[Bin]:
    """Bins of equal width over 0..1, lowest first; a bound belongs to the bin above it, 1 to the last bin."""
    confidence = scores.probabilities.amax(dim=1)
    bounds = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, bounds, right=True) - 1).clamp(max=bins - 1)
    counts = torch.bincount(place, minlength=bins)
    sure = torch.bincount(place, weights=confidence, minlength=bins)
    right = torch.bincount(place, weights=(~scores.wrong).double(), minlength=bins)
    return [
        Bin(confidence=c / n if n else None, accuracy=r / n if n else None, count=int(n))
        for c, r, n in zip(sure.tolist(), right.tolist(), counts.tolist(), strict=True)
    ]


def calibration_error(rows: list[Bin]) -> float:
    """Expected calibration error (Guo et al. 2017): the mean gap, weighted by images; a fraction."""
    images = sum(row.count for row in rows)
    gaps = (
        row.count * abs(row.confidence - row.accuracy)
        for row in rows
        if row.confidence is not None and row.accuracy is not None
    )
    return sum(gaps) / images
