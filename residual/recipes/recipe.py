"""What a recipe says: everything that decides the numbers of a run, except network, data, seed and device."""

import math
from dataclasses import dataclass, field
from typing import Literal

from residual.data.transforms import Augmentation
from residual.train.optimizer import Sgd
from residual.train.precision import Format
from residual.train.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    iterations or epochs: the length, in batches or in passes over the training images; exactly one is given.
    batch: images per iteration, over all processes.
    mean: what is subtracted, per "channel" or per "pixel"; std: whether to divide by the standard deviation.
    label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
    average: decay of the moving average of the weights; None: the last weights are the result.
    validation: share of the training images held out for choosing where the data has no validation set.
    exact_statistics: images over which batch-norm statistics are recomputed after training; 0: moving averages.
    """

    name: str
    schedule: Schedule
    iterations: int | None = None
    epochs: float | None = None
    batch: int = 128
    optimizer: Sgd = field(default_factory=Sgd)
    augmentation: Augmentation = field(default_factory=Augmentation)
    mean: Literal["channel", "pixel"] = "channel"
    std: bool = True
    label_smoothing: float = 0.0
    average: float | None = None
    validation: float = 0.0
    exact_statistics: int = 0
    precision: Format = "auto"

    def __post_init__(self) -> None:
        if (self.iterations is None) == (self.epochs is None):
            raise ValueError(f"recipe {self.name!r} must give iterations or epochs, and not both")
        length = self.iterations if self.iterations is not None else self.epochs
        assert length is not None
        if not 0 < length < math.inf:
            raise ValueError(f"recipe {self.name!r} must train for longer than {length}")
        if self.batch < 2:
            raise ValueError(f"a batch of {self.batch} has no batch-norm statistics; take 2 images or more")
        for name in ("label_smoothing", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share, at least 0 and below 1, got {getattr(self, name)}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"average is a decay, above 0 and below 1, or None for no average; got {self.average}")
        if self.exact_statistics < 0:
            raise ValueError(f"exact_statistics counts images, 0 for none, got {self.exact_statistics}")

    def length(self, images: int) -> int:
        """Iterations in all, for a training set of `images` images."""
        if self.iterations is not None:
            return self.iterations
        assert self.epochs is not None
        return max(1, round(self.epochs * images / self.batch))
