"""Losses of a classification.

Shapes: B images, K classes; logits (B, K), labels (B,).  Mixed images have two labels: row i keeps `share` of its own
and takes the rest from its mirror in the batch, row B-1-i (data/transforms.py).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["cross-entropy", "binary"]

PRESENT = 0.2  # share above which a mixed image counts as of a class: timm's setting for the recipes that use it


def cross_entropy(logits: Tensor, labels: Tensor, *, share: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, for mixed images the shares' mean of both labels' (Zhang et al. 2017); a scalar.

    smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
    """
    loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    if share < 1:
        partner = functional.cross_entropy(logits, labels.flip(0), label_smoothing=smoothing)
        loss = share * loss + (1 - share) * partner
    return loss


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, share: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Each class on its own: is it in the image?  The mean over images and classes (Beyer et al. 2020).

    A mixed image is of both its classes, not of a share of each ("ResNet strikes back", section 2).
    """
    targets = binary_targets(labels, logits.shape[1], share=share, smoothing=smoothing)
    return functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def binary_targets(labels: Tensor, classes: int, *, share: float, smoothing: float) -> Tensor:
    """(B, K): 1 - smoothing + smoothing / K for each class that is in the image, smoothing / K for the others."""
    present = torch.zeros((len(labels), classes), device=labels.device)
    if share > PRESENT:
        present.scatter_(1, labels[:, None], 1.0)
    if 1 - share > PRESENT:
        present.scatter_(1, labels.flip(0)[:, None], 1.0)
    return present * (1 - smoothing) + smoothing / classes
