"""Errors in percent, by class, by confusion, and how sure we can be of them.

Shapes: N images, K classes.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from residual.evaluate.score import Scores

RESAMPLES = 20_000


def top_k_error(scores: Scores, k: int = 1) -> float:
    """Percent of the images whose true class is not among the k highest scores.

    Of equal scores the class that comes first counts as higher.  A score that is not a number is never right.
    """
    classes = scores.logits.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"the top {k} of {classes} classes do not exist; k is 1 to {classes}")
    return 100 * float((ranks(scores) >= k).double().mean())


def ranks(scores: Scores) -> Tensor:
    """How many classes stand before the true one: (N,) int64, 0 is right."""
    truth = scores.logits.gather(1, scores.labels[:, None])
    before = torch.arange(scores.logits.shape[1]) < scores.labels[:, None]
    higher = ~(scores.logits <= truth)  # so written, a score that is not a number stands before
    return (higher | (scores.logits == truth) & before).sum(dim=1)


def confusion(scores: Scores) -> Tensor:
    """(K, K) int64: how many images of class row were taken for class column."""
    classes = scores.logits.shape[1]
    cells = scores.labels * classes + scores.predicted
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def per_class(scores: Scores, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """For every class its number of images and their top-1 error, percent; None where there is no image."""
    table = confusion(scores)
    counts, right = table.sum(dim=1).tolist(), table.diagonal().tolist()
    return [
        {"class": name, "images": images, "error": 100 * (images - hits) / images if images else None}
        for name, images, hits in zip(classes, counts, right, strict=True)
    ]


def bootstrap_interval(wrong: Tensor, *, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Between which two errors, percent, other images of the same kind would lie (percentile bootstrap).

    wrong: (N,) bool.  Of N images drawn again with replacement a binomial number is wrong, so that number is
    drawn directly.  Without a single error, or without a single success, every resample is alike: the open
    end is then the exact one of Clopper and Pearson.  A pure function of its arguments.
    """
    images, errors = len(wrong), int(wrong.sum())
    if not images:
        raise ValueError("there is no image, so its error has no interval")
    tail = (1 - level) / 2
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(abs(seed))))
    share = rng.binomial(images, errors / images, RESAMPLES) / images
    low, high = np.quantile(share, [tail, 1 - tail])
    reach = 1 - tail ** (1 / images)
    if errors == 0:
        high = reach
    if errors == images:
        low = 1 - reach
    return 100 * float(low), 100 * float(high)


def paired_interval(before: Tensor, after: Tensor, *, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Between which two differences of error, points, other images would put two measurements of each image.

    before, after: (N,) bool, wrong or not, of the same images.  Of N images drawn again with replacement a
    multinomial number becomes wrong and becomes right, so those numbers are drawn directly.  Where no image
    changes sides, each open end is the exact one of Clopper and Pearson.  A pure function of its arguments.
    """
    images = len(before)
    worse, better = int((after & ~before).sum()), int((before & ~after).sum())
    tail = (1 - level) / 2
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(abs(seed))))
    share = [worse / images, better / images, (images - worse - better) / images]
    drawn = rng.multinomial(images, share, RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [tail, 1 - tail])
    reach = 1 - tail ** (1 / images)
    if worse + better == 0:
        low, high = -reach, reach
    return 100 * float(low), 100 * float(high)


def mcnemar(became_wrong: int, became_right: int) -> float:
    """The exact two-sided p-value that both are equally likely (McNemar 1947); 1 where nothing changed."""
    from scipy.stats import binomtest

    changed = became_wrong + became_right
    return float(binomtest(became_wrong, changed).pvalue) if changed else 1.0
