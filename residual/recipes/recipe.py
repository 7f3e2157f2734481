"""What a recipe says: everything that decides the numbers of a run, except network, data, seed and device."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

from residual.data.transforms import Augmentation
from residual.train.loss import Loss
from residual.train.optimizer import Lamb, Sgd
from residual.train.precision import Format
from residual.train.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    iterations or epochs: the length, in batches or in passes over the training images; exactly one is given.
    batch: images per iteration, over all processes.
    accumulate: parts in which a process passes its share of a batch through the network, one after another, where the
        whole does not fit into memory; the step is that of the whole, but batch norm sees a part at a time.
    batch_norm_group: images behind one mean and variance of batch norm in training, an even number; None: all that
        pass at once, of all processes.  As many GPUs without synchronisation did it, on however many there are.
    lamb: this optimizer in place of `optimizer`.  clip: the longest gradient, over all parameters; None: any.
    mean: what is subtracted, per "channel" or per "pixel"; std: whether to divide by the standard deviation.
    label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
    loss: "cross-entropy", or "binary" for each class on its own (train/loss.py).
    stochastic_depth: chance that a step drops the last block's F, in place of the network's; None: as the network has.
    average: decay of the moving average of the weights; None: the last weights are the result.
    average_every: iterations between its updates.
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
    accumulate: int = 1
    batch_norm_group: int | None = None
    lamb: Lamb | None = None
    clip: float | None = None
    loss: Loss = "cross-entropy"
    stochastic_depth: float | None = None
    average_every: int = 1

    def __post_init__(self) -> None:
        check_training(self)
        if self.batch < 2:
            raise ValueError(f"a batch of {self.batch} has no batch-norm statistics; take 2 images or more")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share, at least 0 and below 1, got {self.label_smoothing}")
        if self.exact_statistics < 0:
            raise ValueError(f"exact_statistics counts images, 0 for none, got {self.exact_statistics}")
        self._refuse_odd_parts()

    def _refuse_odd_parts(self) -> None:
        if self.lamb is not None and self.optimizer != Sgd():
            raise ValueError(f"recipe {self.name!r} gives two optimizers, LAMB and {self.optimizer}; leave one out")
        if self.accumulate < 1:
            raise ValueError(f"accumulate counts, from 1 on, got {self.accumulate}")
        if self.accumulate > 1 and self.batch % (2 * self.accumulate):
            raise ValueError(
                f"a batch of {self.batch} images does not divide into {self.accumulate} parts of pairs; take a "
                f"multiple of {2 * self.accumulate}"
            )
        group = self.batch_norm_group
        if group is not None and (group < 2 or group % 2 or (self.batch // self.accumulate) % group):
            raise ValueError(
                f"batch norm over {group} images: that must be an even number of which {self.batch} images in "
                f"{self.accumulate} parts are a multiple"
            )
        if self.stochastic_depth is not None and not 0 <= self.stochastic_depth < 1:
            raise ValueError(f"stochastic_depth is a chance, at least 0 and below 1, got {self.stochastic_depth}")

    def length(self, images: int) -> int:
        """Iterations in all, for a training set of `images` images."""
        return iterations_of(self, images)

    def for_few(self, images: int) -> Self:
        """With batches of which an epoch has at least four: a power of two, 8 or more, where possible."""
        if self.batch <= max(8, images // 4):
            return self
        batch = min(self.batch, images, max(8, 2 ** int(math.log2(images / 4))))
        group = self.batch_norm_group
        divides = group is not None and batch % group == 0
        return replace(self, batch=batch, accumulate=1, batch_norm_group=group if divides else None)


class AnyRecipe(Protocol):
    """What the recipes of classifiers and of detectors have in common."""

    @property
    def name(self) -> str: ...
    @property
    def iterations(self) -> int | None: ...
    @property
    def epochs(self) -> float | None: ...
    @property
    def batch(self) -> int: ...
    @property
    def clip(self) -> float | None: ...
    @property
    def average(self) -> float | None: ...
    @property
    def average_every(self) -> int: ...
    @property
    def validation(self) -> float: ...


def check_training(recipe: AnyRecipe) -> None:
    """Refuse what no recipe can mean, a classifier's or a detector's."""
    if (recipe.iterations is None) == (recipe.epochs is None):
        raise ValueError(f"recipe {recipe.name!r} must give iterations or epochs, and not both")
    length = recipe.iterations if recipe.iterations is not None else recipe.epochs
    assert length is not None
    if not 0 < length < math.inf:
        raise ValueError(f"recipe {recipe.name!r} must train for longer than {length}")
    if not 0 <= recipe.validation < 1:
        raise ValueError(f"validation is a share, at least 0 and below 1, got {recipe.validation}")
    if recipe.clip is not None and not recipe.clip > 0:
        raise ValueError(f"clip is the longest gradient, above 0, got {recipe.clip}")
    if recipe.average is not None and not 0 < recipe.average < 1:
        raise ValueError(f"average is a decay, above 0 and below 1, or None for no average; got {recipe.average}")
    if recipe.average_every < 1:
        raise ValueError(f"average_every counts, from 1 on, got {recipe.average_every}")


def iterations_of(recipe: AnyRecipe, images: int) -> int:
    """Iterations in all, for a training set of `images` images."""
    if recipe.iterations is not None:
        return recipe.iterations
    assert recipe.epochs is not None
    return max(1, round(recipe.epochs * images / recipe.batch))
