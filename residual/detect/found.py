"""A detector's answer for one image, as tensors.  Shapes: M answers, the surest first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from residual.detect.detections import Detections


@dataclass(frozen=True)
class Found:
    """boxes (M, 4), pixels of the image; labels (M,); scores (M,), probabilities; masks (M, H, W) bool, or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def detections(self) -> Detections:
        """As arrays, which the numbers are made of."""
        return Detections(
            boxes=self.boxes.detach().cpu().numpy().astype(np.float64),
            labels=self.labels.cpu().numpy(),
            scores=self.scores.detach().cpu().numpy().astype(np.float64),
            masks=None if self.masks is None else self.masks.cpu().numpy(),
        )


def factor(size: Sequence[float], shown: Sequence[float], like: Tensor) -> Tensor:
    """(4,) by which boxes on an image of `size` (height, width) become boxes on the same image `shown` in another."""
    down, across = shown[0] / size[0], shown[1] / size[1]
    return like.new_tensor([across, down, across, down])
