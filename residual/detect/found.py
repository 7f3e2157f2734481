"""A detector's answer for one image, as tensors.  Shapes: M answers, the surest first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from residual.detect.detections import Detections, Outlines


@dataclass(frozen=True)
class Found:
    """boxes (M, 4), pixels of the image; labels (M,); scores (M,), probabilities; outlines of the masks, or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    outlines: Outlines | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def masks(self) -> Tensor | None:
        """(M, H, W) bool on the CPU, None of a detector of boxes.

        Drawn each time it is asked for; a hundred on a photograph of 24 megapixels are 2.4 GB.  `outlines[3]` is one.
        """
        return None if self.outlines is None else torch.from_numpy(self.outlines.drawn())

    def detections(self) -> Detections:
        """As arrays, which the numbers are made of."""
        return Detections(
            boxes=self.boxes.detach().cpu().numpy().astype(np.float64),
            labels=self.labels.cpu().numpy(),
            scores=self.scores.detach().cpu().numpy().astype(np.float64),
            masks=self.outlines,
        )


def factor(size: Sequence[float], shown: Sequence[float], like: Tensor) -> Tensor:
    """(4,) by which boxes on an image of `size` (height, width) become boxes on the same image `shown` in another."""
    down, across = shown[0] / size[0], shown[1] / size[1]
    return like.new_tensor([across, down, across, down])
