"""What shapes cannot tell about somebody's weights, asked of what their batch norms remember.

Where a bottleneck strides, how the stem pools, which colour comes first, what was subtracted and divided by, which
filter resized: a network with any of these wrong still loads and still answers.  But every batch norm keeps the mean
and the variance of what it was shown in training, and only with the right settings do images of the same kind show
it that again.

The measure.  For every image and every channel of every norm: how far its mean lies from the stored one, in stored
standard deviations, and what it adds to the logarithm of the variance.  Averaged over the images, both are 0 where
the stored numbers are met.  Two settings give two averages, and `lean` asks where on the line between them the stored
numbers lie: at 0 the first setting explains them, at 1 the second.  It looks along the direction in which the settings
differ most beside what images differ in anyway (Fisher's discriminant, its covariance shrunk), so that a filter that
changes every image by one percent is seen among images that differ by fifty.  It is cross-fitted: no image counts in
a direction that it helped to choose.  The margin is the distance from the middle, 1/2, in standard deviations over
images; from SURE of them on it is a verdict, and less is "cannot tell".

Its limits.  The images must be of the kind that the network was trained on.  UNSURE stands for what no number of
images removes: moving averages, batches, augmentation.  Where training cut its windows at random, the statistics do
not know the shorter side, so labels judge it, as they do the order of the classes.  A norm's epsilon leaves too faint
a trace.  Where no mean and scale that people use brings the first norm near what it stored, nothing is judged.

Shapes: N images, D statistics, K classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from residual.data.decode import Pixels
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.models.description import Description
from residual.models.resnet import ResNet

Verdict = Literal["sound", "faulty", "cannot tell"]
Progress = Callable[[int, int], None]

SURE = 2.5  # standard deviations over images that make a verdict
SHARP = 0.5 / SURE  # spread with which a setting that is right is expected to make one
LEAST = 16  # images
ROUNDS = 3
FITS = 0.4  # misfit of the first norm up to which what is deeper makes sense
CLOSE = 4  # rivals that are looked at closely
EXPECTED = 24  # looks at the images, as a network in colour takes
UNSURE = 0.02  # stored standard deviations, or shares of a variance, by which stored statistics are off anyway
FOLDS = 8
SMALL = 0.01  # of a norm's average variance: added to each, so that channels that are almost off count little
BY_CHANCE = 0.006  # how often SURE is passed without a reason
FLOOR = 0.1  # of a network's answer: counts as a guess, so that no single mistake decides
BEYOND = 1e4  # what is farther off, or not a number, counts as so far
PIXELS_AT_ONCE = 1 << 20  # bounds the memory of a pass: 20 images of 224 pixels

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, red green blue
STD = (58.395, 57.12, 57.375)
SHORTER = (256, 232, 224)  # sides that people resize to before a crop of 224


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a file of weights is said to be: a network, and how images are prepared for it."""

    model: Description
    preprocessing: Preprocessing


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the images say about one setting.

    margin: by how much the found value is better than the claimed one or, where that stands, than its nearest rival;
        in standard deviations over images.
    needed: about how many images would tell, where these cannot.
    """

    setting: str
    claimed: str
    found: str
    verdict: Verdict
    margin: float
    because: str
    needed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """All findings, and the claim with its faults corrected.

    misfit: as claimed and as corrected, how far the norms are from what they stored (`misfit`).
    confidence: likewise, the mean highest probability.  error: likewise, top-1, percent, of labelled images.
    order: where the classes stand wrong, the network's output for each class of the claim.
    """

    images: int
    findings: tuple[Finding, ...]
    corrected: Claim
    order: tuple[int, ...] | None
    misfit: tuple[float, float]
    confidence: tuple[float, float]
    error: tuple[float, float] | None = None


def examine(
    tensors: Mapping[str, Tensor],
    claim: Claim,
    images: Sequence[Pixels],
    labels: Tensor | None = None,
    *,
    classes: Sequence[str] = (),
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Examination:
    """Judge every setting of a claim by images; nothing is drawn at random.

    tensors: the state dict of the claimed network.  images: decoded whole, (H, W, C) uint8, LEAST of them or more.
    labels: (N,) int64, in the claimed order of `classes`.
    Refuses networks whose norms carry no statistics.
    """
    if len(images) < LEAST:
        raise ValueError(f"{len(images)} images are too few to tell anything by; give at least {LEAST}, better 64")
    bench = _Bench(tensors, images, torch.device(device), progress)
    found = _correct(bench, claim)
    judged = [_finding(bench, setting, claim, found, rivals(found)) for setting, rivals in RIVALS.items()]
    findings = [one for one in judged if one is not None]
    before, after = bench.whole(claim), bench.whole(found)
    order = None
    if labels is not None:
        said, order = judge_order(after.logits, labels, classes)
        outputs = labels if order is None else torch.tensor(order)[labels]
        shorter, found = _judge_shorter(bench, found, outputs)
        findings += [*shorter, said]
        after = bench.whole(found)
    else:
        findings += _unlabelled(found)
    return Examination(
        images=len(images),
        findings=tuple(findings),
        corrected=found,
        order=order,
        misfit=(misfit(before), misfit(after)),
        confidence=(_confidence(before.logits), _confidence(after.logits)),
        error=None if labels is None else (_error(before.logits, labels), _error(after.logits, outputs)),
    )


# --- what the norms see --------------------------------------------------------------------------------------


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


# --- between two settings ------------------------------------------------------------------------------------


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


# --- what is tried -------------------------------------------------------------------------------------------


def _with(claim: Claim, preprocessing: Preprocessing) -> Claim:
    return replace(claim, preprocessing=preprocessing)


def _strides(claim: Claim) -> Iterator[Claim]:
    if claim.model.block == "bottleneck":
        other: Literal["first", "middle"] = "first" if claim.model.stride_in == "middle" else "middle"
        yield replace(claim, model=replace(claim.model, stride_in=other))


def _pools(claim: Claim) -> Iterator[Claim]:
    if claim.model.stem == "imagenet":
        other: Literal["padded", "ceil"] = "ceil" if claim.model.stem_pool == "padded" else "padded"
        yield replace(claim, model=replace(claim.model, stem_pool=other))


def _filters(claim: Claim) -> Iterator[Claim]:
    if claim.preprocessing.resize is None:
        return  # the training images had this size already, and were not resized
    other: Literal["bilinear", "bicubic"] = "bicubic" if claim.preprocessing.interpolation == "bilinear" else "bilinear"
    yield _with(claim, replace(claim.preprocessing, interpolation=other))


def _shorter(claim: Claim) -> Iterator[Claim]:
    images = claim.preprocessing
    sides: set[int | None] = {round(side * images.size / SHORTER[-1]) for side in SHORTER} | {None}
    for side in sorted(sides - {images.resize}, key=lambda side: -(side or 0)):
        yield _with(claim, replace(images, resize=side))


def _orders_of_colours(claim: Claim) -> Iterator[Claim]:
    """The other order of the colours, with the mean of each colour kept, and with the mean as it is written."""
    images = claim.preprocessing
    if images.channels != "L":
        other: Literal["RGB", "BGR"] = "BGR" if images.channels == "RGB" else "RGB"
        turned = replace(images, channels=other, mean=_reversed(images.mean), std=_reversed(images.std))
        for one in (turned, replace(images, channels=other)):
            if one is turned or not _alike(one, turned):
                yield _with(claim, one)


def _means_and_scales(claim: Claim) -> Iterator[Claim]:
    """What people subtract and divide by, in this order of the colours."""
    for one in _colourings(claim):
        if one.preprocessing.channels == claim.preprocessing.channels:
            yield one


def _colourings(claim: Claim) -> Iterator[Claim]:
    """Either order of the colours, with what people subtract and divide by; the claim itself is not among them."""
    images = claim.preprocessing
    if images.channels == "L":
        pairs = [((0.0,), (255.0,)), ((127.5,), (127.5,)), ((0.0,), (1.0,)), (images.mean, (1.0,))]
        tried = [replace(images, mean=mean, std=std) for mean, std in pairs]
    else:
        tried = []
        for channels in ("RGB", "BGR"):
            usual = (MEAN, STD) if channels == "RGB" else (MEAN[::-1], STD[::-1])
            for mean, std in (
                (images.mean, images.std),
                (_reversed(images.mean), _reversed(images.std)),
                usual,
                (usual[0], (1.0,) * 3),
                (usual[0], (255.0,) * 3),
                ((127.5,) * 3, (127.5,) * 3),
                ((0.0,) * 3, (255.0,) * 3),
                ((0.0,) * 3, (1.0,) * 3),
                (images.mean, (1.0,) * 3),
                ((0.0,) * 3, images.std),
            ):
                tried.append(replace(images, channels=channels, mean=mean, std=std))
    different: list[Preprocessing] = [images]
    for one in tried:
        if not any(_alike(one, other) for other in different):
            different.append(one)
    for one in different[1:]:
        yield _with(claim, one)


def _reversed(values: tuple[float, ...]) -> tuple[float, ...]:
    """The values of three channels, or of their pixels, for the other order of the channels."""
    third = len(values) // 3
    return values[2 * third :] + values[third : 2 * third] + values[:third]


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether no image would look different enough to matter: 2 of 255 in the mean, 2 % of the standard deviation."""
    if one.channels != other.channels:
        return False
    count = 1 if one.channels == "L" else 3
    means, scales = (
        [torch.tensor(values, dtype=torch.float64).view(count, -1) for values in pair]
        for pair in ((one.mean, other.mean), (one.std, other.std))
    )
    return bool(((means[0] - means[1]).abs() < 2).all() and ((scales[0] / scales[1]).log().abs() < 0.02).all())


RIVALS: dict[str, Callable[[Claim], Iterator[Claim]]] = {
    "channels": _orders_of_colours,
    "mean and scale": _means_and_scales,
    "stride": _strides,
    "stem pooling": _pools,
    "resize filter": _filters,
}


# --- judging -------------------------------------------------------------------------------------------------


def _correct(bench: "_Bench", claim: Claim) -> Claim:
    """The claim with everything changed that the norms contradict, one setting after the other until all agree."""
    found = claim
    for rival in sorted(_colourings(claim), key=lambda one: misfit(bench.stem(one)))[:CLOSE]:
        if (said := lean(bench.stem(found), bench.stem(rival))) is not None and said.convinces:
            found = rival  # mean and scale first: with them wrong, nothing deeper makes sense
    if misfit(bench.stem(found)) > FITS:
        return claim
    for _ in range(ROUNDS):
        before = found
        for rivals in (_strides, _orders_of_colours, _pools, _filters):
            for rival in rivals(found):
                if (said := _between(bench, found, rival)) is not None and said.convinces:
                    found = rival
        if found == before:
            break
    return found


def _between(bench: "_Bench", first: Claim, second: Claim) -> Lean | None:
    """Where the stored statistics lie between two claims: of the stem alone, which costs little, if that tells."""
    one, other = first.preprocessing, second.preprocessing
    if first.model == second.model and (one.resize, one.interpolation) == (other.resize, other.interpolation):
        said = lean(bench.stem(first), bench.stem(second))
        if said is not None and (said.convinces or said.excludes):
            return said
    return lean(bench.whole(first), bench.whole(second))


def _finding(bench: "_Bench", setting: str, claim: Claim, found: Claim, rivals: Iterable[Claim]) -> Finding | None:
    """How surely the found value is better than every other; None where the network does not have the setting."""
    others = list(rivals)
    if not others:
        return None
    claimed, value = (told(setting, one) for one in (claim, found))
    if setting == "mean and scale" and _only_turned(claim.preprocessing, found.preprocessing):
        claimed = value
    if misfit(bench.stem(found)) > FITS:
        because = "no mean and scale that was tried brings the first norm near what it stored: are these other images?"
        return Finding(setting=setting, claimed=claimed, found=value, verdict="cannot tell", margin=0, because=because)
    leans = {one: _between(bench, found, one) for one in others}
    different = {one: said for one, said in leans.items() if said is not None}
    if len(different) < len(leans):
        because = "these images come out the same either way"
        return Finding(setting=setting, claimed=claimed, found=value, verdict="cannot tell", margin=0, because=because)
    rival, nearest = max(different.items(), key=lambda one: one[1].margin)
    because = (
        f"what the norms stored lies at {nearest.place:.2f} ± {nearest.spread:.2f} on the way from {value} (0) to "
        f"{told(setting, rival)} (1)"
    )
    verdict: Verdict = "faulty" if claimed != value else "sound" if nearest.excludes else "cannot tell"
    needed = None
    if verdict == "cannot tell":
        enough = math.ceil(len(bench.images) * (nearest.spread / SHARP) ** 2)
        needed = enough if enough > len(bench.images) else None
    return Finding(
        setting=setting, claimed=claimed, found=value, verdict=verdict, margin=-nearest.margin, because=because,
        needed=needed,
    )  # fmt: skip


def _only_turned(claimed: Preprocessing, found: Preprocessing) -> bool:
    """Whether mean and scale are as claimed but for the order of the colours, which is a setting of its own."""
    if claimed.channels == found.channels:
        return False
    written = (claimed.mean, claimed.std)
    return (found.mean, found.std) in (written, (_reversed(claimed.mean), _reversed(claimed.std)))


def told(setting: str, claim: Claim) -> str:
    """The value of a setting, in words."""
    images, model = claim.preprocessing, claim.model
    match setting:
        case "channels":
            return images.channels
        case "mean and scale":
            return f"mean {_numbers(images.mean)}; std {_numbers(images.std)}"
        case "stride":
            return "first 1x1" if model.stride_in == "first" else "3x3"
        case "stem pooling":
            return model.stem_pool
        case "resize filter":
            return images.interpolation
        case "shorter side":
            return "squeezed" if images.resize is None else str(images.resize)
    raise AssertionError(setting)


def _numbers(values: tuple[float, ...]) -> str:
    if len(values) > 3:
        return "of every pixel"
    return " ".join(f"{value:g}" for value in (values if len(set(values)) > 1 else values[:1]))


# --- labels --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Order:
    """The output for each class (K,), in words, and how well each image (N,) is answered so."""

    words: str
    outputs: Tensor
    scores: Tensor


def judge_order(logits: Tensor, labels: Tensor, classes: Sequence[str] = ()) -> tuple[Finding, tuple[int, ...] | None]:
    """Whether the network's outputs stand in the order of the labels; if not, the output for each class.

    logits: (N, K).  labels: (N,), in the claimed order.  Tried are all rotations (a background class in front), the
    reverse and the names sorted; then, where there are two images of each class, the best assignment of outputs to
    classes, which is chosen on half of the images and judged on the others.
    """
    guesses = _guesses(logits)
    claimed = _order("as claimed", torch.arange(guesses.shape[1]), guesses, labels)
    named = list(_named_orders(guesses, labels, classes))
    bar = max(SURE, NormalDist().inv_cdf(1 - BY_CHANCE / (len(named) + 1)))  # the more are tried, the higher
    found = claimed
    likeliest = max(named, key=lambda one: float(one.scores.mean()), default=None)
    for order in (likeliest, _assigned_order(guesses, labels)):
        if order is not None and _paired(order.scores - found.scores) >= bar:
            found = order
    rivals = [_paired(one.scores - claimed.scores) for one in named]
    margin = -max(rivals, default=0.0) if found is claimed else _paired(found.scores - claimed.scores)
    then, now = (100 * float((logits.argmax(1) == one.outputs[labels]).double().mean()) for one in (claimed, found))
    verdict: Verdict = "faulty" if found is not claimed else "sound" if margin >= SURE else "cannot tell"
    because = {
        "faulty": f"{now:.0f} % of the answers are right in this order, {then:.0f} % in the claimed one",
        "sound": f"{then:.0f} % of the answers are right, fewer in any other order",
        "cannot tell": f"{then:.0f} % of the answers are right, about as many as in another order",
    }[verdict]
    finding = Finding(
        setting="class order", claimed=claimed.words, found=found.words, verdict=verdict, margin=margin, because=because
    )
    return finding, None if found is claimed else tuple(found.outputs.tolist())


def _order(words: str, outputs: Tensor, guesses: Tensor, labels: Tensor) -> _Order:
    return _Order(words=words, outputs=outputs, scores=guesses[torch.arange(len(labels)), outputs[labels]])


def _named_orders(guesses: Tensor, labels: Tensor, classes: Sequence[str]) -> Iterator[_Order]:
    """Orders other than the claimed one that people have used."""
    straight = torch.arange(guesses.shape[1])
    named = {f"shifted by {places}": straight.roll(-places) for places in range(1, len(straight))}
    named["reversed"] = straight.flip(0)
    if len(classes) == len(straight):
        for words, key in (("sorted by name", str), ("sorted by name, whatever the case", str.casefold)):
            named[words] = torch.tensor(sorted(straight.tolist(), key=lambda place: key(classes[place]))).argsort()
    for words, outputs in named.items():
        if not torch.equal(outputs, straight):
            yield _order(words, outputs, guesses, labels)


def _assigned_order(guesses: Tensor, labels: Tensor) -> _Order | None:
    """The best assignment of outputs to classes; each image is scored by the one that the other half chose."""
    counts = torch.bincount(labels, minlength=guesses.shape[1])
    if int(counts.min()) < 2:
        return None
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(counts)):
        second[(labels == label).nonzero().flatten()[1::2]] = True
    scores = torch.empty(len(labels), dtype=guesses.dtype)
    for half in (second, ~second):
        chosen = _assigned(guesses[~half], labels[~half])
        scores[half] = _order("", chosen, guesses[half], labels[half]).scores
    return _Order(words="another order", outputs=_assigned(guesses, labels), scores=scores)


def _assigned(guesses: Tensor, labels: Tensor) -> Tensor:
    """The output for each class with which these images are answered best: (K,)."""
    from scipy.optimize import linear_sum_assignment

    table = torch.zeros(guesses.shape[1], guesses.shape[1], dtype=guesses.dtype).index_add(0, labels, guesses)
    return torch.from_numpy(linear_sum_assignment(table.numpy(), maximize=True)[1])


def _judge_shorter(bench: "_Bench", claim: Claim, labels: Tensor) -> tuple[list[Finding], Claim]:
    """The shorter side with which labelled images are answered best."""
    image = torch.arange(len(labels))
    own = _guesses(bench.whole(claim).logits)[image, labels]
    margins = {one: _paired(_guesses(bench.whole(one).logits)[image, labels] - own) for one in _shorter(claim)}
    best = max(margins, key=margins.__getitem__)
    better = margins[best] >= SURE
    found = best if better else claim
    verdict: Verdict = "faulty" if better else "sound" if margins[best] <= -SURE else "cannot tell"
    claimed, rival = told("shorter side", claim), told("shorter side", best)
    because = {
        "faulty": f"labelled images are answered surely better with {rival}",
        "sound": f"labelled images are answered surely worse with every other, the nearest being {rival}",
        "cannot tell": f"labelled images are answered about as well with {rival}",
    }[verdict]
    margin = margins[best] if better else -margins[best]
    finding = Finding(
        setting="shorter side", claimed=claimed, found=told("shorter side", found), verdict=verdict, margin=margin,
        because=because,
    )  # fmt: skip
    return [finding], found


def _unlabelled(claim: Claim) -> list[Finding]:
    """What is not asked of images without labels."""
    without = {
        "shorter side": (told("shorter side", claim), "training cuts at random, so only labelled images tell"),
        "class order": ("as claimed", "only labelled images tell"),
    }
    return [
        Finding(setting=setting, claimed=value, found=value, verdict="cannot tell", margin=0.0, because=because)
        for setting, (value, because) in without.items()
    ]


def _guesses(logits: Tensor) -> Tensor:
    """(N, K) logarithms of the probabilities, as of one who guesses blindly in FLOOR of all cases."""
    return ((1 - FLOOR) * logits.softmax(1) + FLOOR / logits.shape[1]).log()


def _paired(difference: Tensor) -> float:
    """A mean difference over images, in its standard deviations over images."""
    spread = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / max(spread, 1e-12)


def _confidence(logits: Tensor) -> float:
    return float(logits.softmax(1).amax(1).mean())


def _error(logits: Tensor, labels: Tensor) -> float:
    return 100 * float((logits.argmax(1) != labels).double().mean())


# --- the bench ----------------------------------------------------------------------------------------------


class _Bench:
    """The weights on the bench: what their norms see under any claim, each looked at once."""

    def __init__(
        self, tensors: Mapping[str, Tensor], images: Sequence[Pixels], device: torch.device, progress: Progress | None
    ) -> None:
        self.tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.images, self.device, self.progress = images, device, progress
        self.models: dict[Description, ResNet] = {}
        self.cut: dict[tuple[object, ...], Tensor] = {}
        self.seen: dict[tuple[Claim, bool], Seen] = {}

    def whole(self, claim: Claim) -> Seen:
        """Every norm, and the answers."""
        return self._look(claim, stem_only=False)

    def stem(self, claim: Claim) -> Seen:
        """The first norm, which is all that colours need and costs little."""
        return self._look(claim, stem_only=True)

    def _look(self, claim: Claim, *, stem_only: bool) -> Seen:
        known = (claim, stem_only)
        if known not in self.seen:
            if claim.model not in self.models:
                self.models[claim.model] = _build(self.tensors, claim.model)
            shown = Normalize(claim.preprocessing, self.device)(self._pixels(claim.preprocessing).to(self.device))
            self.seen[known] = observe(self.models[claim.model], shown, stem_only=stem_only)
            if self.progress is not None:
                self.progress(len(self.seen), max(len(self.seen), EXPECTED))
        return self.seen[known]

    def _pixels(self, images: Preprocessing) -> Tensor:
        """All images as `images` resizes and cuts them: (N, size, size, C) uint8."""
        known = (images.size, images.resize, images.interpolation)
        if known not in self.cut:
            self.cut[known] = torch.from_numpy(np.stack([prepare(image, images) for image in self.images]))
        return self.cut[known]


def _build(tensors: Mapping[str, Tensor], description: Description) -> ResNet:
    """The described network with these very tensors, in eval mode."""
    with torch.device("meta"):
        model = ResNet(description)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()
