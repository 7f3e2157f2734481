"""What batch norms remember of the images of training, and between which two settings that lies.

Every batch norm keeps the mean and the variance of what it was shown in training.  For every image and every channel
of every norm, `observe` measures how far its mean lies from the stored one, in stored standard deviations, and what
it adds to the logarithm of the variance.  Averaged over the images, both are 0 where the stored numbers are met.

Two settings of a network or its images give two averages, and `lean` asks where on the line between them the stored
numbers lie: at 0 the first setting explains them, at 1 the second.  It looks along the direction in which the settings
differ most beside what images differ in anyway (Fisher's discriminant, its covariance shrunk), so that a filter that
changes every image by one percent is seen among images that differ by fifty.  It is cross-fitted: no image counts in
a direction that it helped to choose.  The margin is the distance from the middle, 1/2, in standard deviations over
images.  UNSURE stands for what no number of images removes: moving averages, batches, augmentation.

Shapes: N images, D statistics, K classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from residual.evaluate.finding import SURE
from residual.models.resnet import ResNet

SHARP = 0.5 / SURE  # spread with which a setting that is right is expected to make a verdict
UNSURE = 0.02  # stored standard deviations, or shares of a variance, by which stored statistics are off anyway
FOLDS = 8
SMALL = 0.01  # of a norm's average variance: added to each, so that channels that are almost off count little
BEYOND = 1e4  # what is farther off, or not a number, counts as so far
PIXELS_AT_ONCE = 1 << 20  # bounds the memory of a pass: 20 images of 224 pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What the norms of one network saw of every image, against what they stored.

    values: (N, D) float32; its mean over the images is 0 where the stored numbers are met: for every channel the
        mean, in stored standard deviations, then for every channel the logarithm of the variance over the stored one.
    depth: (D,) int64, 0 for the stem, then one more for every stage.
    logits: (N, K); none of a stem alone.
    """

    values: Tensor
    depth: Tensor
    logits: Tensor


@torch.inference_mode()
def observe(model: ResNet, images: Tensor, *, stem_only: bool = False) -> Seen:
    """Show normalised images (N, C, H, W) to a network in eval mode, a few at a time."""
    norms = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if stem_only:
        norms = {name: module for name, module in norms.items() if name.startswith("stem.")}
    moments: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in norms}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].float().flatten(2)
            variance, mean = torch.var_mean(x, dim=2, correction=0)
            moments[name].append((mean.cpu().double(), variance.cpu().double()))

        return note

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in norms.items()]
    logits = []
    try:
        for some in torch.split(images, max(1, PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))):
            if stem_only:
                model.stem(some)
            else:
                logits.append(model(some).float().cpu().double())
    finally:
        for hook in hooks:
            hook.remove()
    columns, depths = [], []
    for name, module in norms.items():
        means, variances = (torch.cat(parts) for parts in zip(*moments[name], strict=True))
        if (one := _against_stored(module, means, variances)) is not None:
            columns.append(one)
            depths += [_depth(name, model)] * one.shape[1]
    if not columns:
        raise ValueError(
            "the norms of these weights carry no statistics (every mean is 0, every variance 1), as in files made for "
            "detection, so there is nothing to compare images with; measure labelled ones: residual evaluate --explain"
        )
    said = torch.cat(logits) if logits else torch.empty(len(images), 0)
    values = torch.cat(columns, 1).nan_to_num(BEYOND, BEYOND, -BEYOND).clamp(-BEYOND, BEYOND)
    return Seen(values=values.float(), depth=torch.tensor(depths), logits=said)


def _depth(name: str, model: ResNet) -> int:
    """0 for the stem, 1 for the first stage; a last norm belongs to the last one."""
    if name.startswith("stem."):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("stages.") else len(model.description.depths)


def _against_stored(norm: _BatchNorm, means: Tensor, variances: Tensor) -> Tensor | None:
    """(N, 2 C) of a norm with C channels, from each image's mean and variance (N, C); None if it stored nothing."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
    if not mean.any() and bool(((variance - 1).abs() < 1e-3).all()):
        return None
    small = SMALL * variance.mean() + norm.eps
    middle = means.mean(0)
    parts = variances + (means - middle) ** 2  # of the variance over all images, whose mean over images it is
    whole = parts.mean(0)
    logarithm = ((whole + small) / (variance + small)).log() + (parts - whole) / (whole + small)
    return torch.cat([(means - mean) / (variance + small).sqrt(), logarithm], 1)


def misfit(seen: Seen) -> float:
    """How far the averages are from what is stored: root mean square over all statistics, 0 where all is met."""
    return float(seen.values.mean(0).square().mean().sqrt())


@dataclass(frozen=True, kw_only=True)
class Lean:
    """Where the stored statistics lie between two settings: 0 is at the first, 1 at the second.

    spread: standard deviation of the place, over other images of the same kind.
    """

    place: float
    spread: float

    @property
    def margin(self) -> float:
        """By how many standard deviations the second setting is better; below 0 the first one is."""
        return (self.place - 0.5) / self.spread

    @property
    def convinces(self) -> bool:
        """Whether the second setting is to be believed: surely better, and itself not far from what is stored."""
        return self.spread <= SHARP and self.margin >= SURE and self.place <= 1.5 + SURE * self.spread

    @property
    def excludes(self) -> bool:
        """Whether the second setting is surely worse."""
        return self.spread <= SHARP and self.margin <= -SURE


def lean(first: Seen, second: Seen) -> Lean | None:
    """Where the stored statistics lie between what the norms see under two settings; None if they see the same.

    Of the stem alone, the stem with the first stage, and so on: the one with the least spread, since what is deeper
    in the network tells more, but varies more from image to image.  The other way round the place is 1 less it.
    """
    places = []
    for depth in sorted(set(first.depth.tolist())):
        heeded = first.depth <= depth
        one, other = first.values[:, heeded].double(), second.values[:, heeded].double()
        if float((one - other).abs().max()) > 1e-4:
            there, back = _project(one, other), _project(other, one)  # images may spread otherwise at either end
            places.append(Lean(place=(there.place + 1 - back.place) / 2, spread=max(there.spread, back.spread)))
    return min(places, key=lambda found: found.spread, default=None)


def _project(first: Tensor, second: Tensor) -> Lean:
    """Fisher's discriminant between two settings, from (N, D) each, at what is stored, which is 0."""
    count = len(first)
    difference = (second - first).mean(0)
    centred = first - first.mean(0)
    # A statistic counts by its fourth moment, so that one to which a few images contribute most counts little.
    heavy = centred.pow(4).mean(0) / (3 * centred.square().mean(0)).clamp(min=1e-30)
    scale = (heavy + count * UNSURE**2).sqrt()
    towards, centred = difference / scale, centred / scale
    products = centred @ centred.T
    fold = torch.arange(count) % FOLDS
    places, floor = torch.empty(count, dtype=torch.float64), 0.0
    for number in range(FOLDS):
        others = fold != number
        inner = products[others][:, others]
        inner = inner - inner.mean(0) - inner.mean(1, keepdim=True) + inner.mean()  # centred without the fold
        along = centred[others] @ towards
        weights = torch.linalg.solve(inner + len(along) * torch.eye(len(along)).to(inner), along - along.mean())
        # (I + covariance)^-1 towards, by the identity of Woodbury, which needs no D x D matrix
        direction = (towards - centred[others].T @ (weights - weights.mean())) / scale
        direction = direction / (direction @ difference)
        places[~others] = -(first[~others] @ direction)
        floor += float(direction.square().sum()) / FOLDS
    return Lean(place=float(places.mean()), spread=math.sqrt(float(places.var()) / count + UNSURE**2 * floor))
