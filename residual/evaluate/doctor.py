"""What shapes cannot tell about somebody's weights, asked of what their batch norms remember.

Where a bottleneck strides, how the stem pools, which colour comes first, what was subtracted and divided by, which
filter resized: a network with any of these wrong still loads and still answers.  But every batch norm keeps the mean
and the variance of what it was shown in training, and only with the right settings do images of the same kind show
it that again.  How that is measured, and when it is a verdict: `norms`.  What else a setting could be: `rivals`.

Its limits.  The images must be of the kind that the network was trained on.  Where training cut its windows at random,
the statistics do not know the shorter side, so labels judge it, as they do the order of the classes (`labelled`).  A
norm's epsilon leaves too faint a trace.  Where no mean and scale that people use brings the first norm near what it
stored, nothing is judged.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from residual.data.decode import Pixels
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.evaluate.error import top_k_error
from residual.evaluate.finding import SURE, Finding, Verdict
from residual.evaluate.labelled import judge_order, log_probabilities, paired
from residual.evaluate.norms import SHARP, Lean, Seen, lean, misfit, observe
from residual.evaluate.rivals import OF_IMAGES, OF_NETWORKS, backwards, colourings
from residual.evaluate.score import Scores
from residual.models.description import Description
from residual.models.resnet import ResNet

Progress = Callable[[int, int], None]

LEAST = 16  # images
ROUNDS = 3
FITS = 0.4  # misfit of the first norm up to which what is deeper makes sense
CLOSE = 4  # rivals that are looked at closely
EXPECTED = 24  # looks at the images, as a network in colour takes
ASKED_OF_NORMS = ("channels", "mean and scale", "stride", "stem pooling", "resize filter")  # in the order of findings


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a file of weights is said to be: a network, and how images are prepared for it."""

    model: Description
    preprocessing: Preprocessing


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
    findings = [one for setting in ASKED_OF_NORMS if (one := _judge(bench, setting, claim, found)) is not None]
    before = bench.whole(claim)
    order, error = None, None
    if labels is None:
        findings += _untold(found)
    else:
        said, order = judge_order(bench.whole(found).logits, labels, classes)
        outputs = labels if order is None else torch.tensor(order)[labels]
        shorter, found = _judge_shorter(bench, found, outputs)
        findings += [shorter, said]
        error = top_k_error(Scores(before.logits, labels)), top_k_error(Scores(bench.whole(found).logits, outputs))
    after = bench.whole(found)
    return Examination(
        images=len(images),
        findings=tuple(findings),
        corrected=found,
        order=order,
        misfit=(misfit(before), misfit(after)),
        confidence=(_confidence(before), _confidence(after)),
        error=error,
    )


# --- what the norms tell -------------------------------------------------------------------------------------


def _correct(bench: "_Bench", claim: Claim) -> Claim:
    """The claim with everything changed that the norms contradict, one setting after the other until all agree."""
    found = claim
    coloured = [replace(claim, preprocessing=images) for images in colourings(claim.preprocessing)]
    for rival in sorted(coloured, key=lambda one: misfit(bench.stem(one)))[:CLOSE]:
        if (said := lean(bench.stem(found), bench.stem(rival))) is not None and said.convinces:
            found = rival  # mean and scale first: with them wrong, nothing deeper makes sense
    if misfit(bench.stem(found)) > FITS:
        return claim
    for _ in range(ROUNDS):
        before = found
        for setting in ("stride", "channels", "stem pooling", "resize filter"):
            for rival in _rivals(setting, found):
                if (said := _between(bench, found, rival)) is not None and said.convinces:
                    found = rival
        if found == before:
            break
    return found


def _rivals(setting: str, claim: Claim) -> list[Claim]:
    """The claim with another value of one setting; none where the network does not have the setting."""
    if setting in OF_NETWORKS:
        return [replace(claim, model=model) for model in OF_NETWORKS[setting](claim.model)]
    return [replace(claim, preprocessing=images) for images in OF_IMAGES[setting](claim.preprocessing)]


def _between(bench: "_Bench", first: Claim, second: Claim) -> Lean | None:
    """Where the stored statistics lie between two claims: of the stem alone, which costs little, if that tells."""
    one, other = first.preprocessing, second.preprocessing
    if first.model == second.model and (one.resize, one.interpolation) == (other.resize, other.interpolation):
        said = lean(bench.stem(first), bench.stem(second))
        if said is not None and (said.convinces or said.excludes):
            return said
    return lean(bench.whole(first), bench.whole(second))


def _judge(bench: "_Bench", setting: str, claim: Claim, found: Claim) -> Finding | None:
    """How surely the found value is better than every other; None where the network does not have the setting."""
    rivals = _rivals(setting, found)
    if not rivals:
        return None
    claimed, value = told(setting, claim), told(setting, found)
    if setting == "mean and scale" and _only_turned(claim.preprocessing, found.preprocessing):
        claimed = value
    if misfit(bench.stem(found)) > FITS:
        because = "no mean and scale that was tried brings the first norm near what it stored: are these other images?"
        return Finding(setting=setting, claimed=claimed, found=value, verdict="cannot tell", margin=0, because=because)
    leans = [(said, one) for one in rivals if (said := _between(bench, found, one)) is not None]
    if len(leans) < len(rivals):
        because = "these images come out the same either way"
        return Finding(setting=setting, claimed=claimed, found=value, verdict="cannot tell", margin=0, because=because)
    nearest, rival = max(leans, key=lambda pair: pair[0].margin)
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
        setting=setting,
        claimed=claimed,
        found=value,
        verdict=verdict,
        margin=-nearest.margin,
        because=because,
        needed=needed,
    )


def _only_turned(claimed: Preprocessing, found: Preprocessing) -> bool:
    """Whether mean and scale are as claimed but for the order of the colours, which is a setting of its own."""
    if claimed.channels == found.channels:
        return False
    written = (claimed.mean, claimed.std)
    return (found.mean, found.std) in (written, (backwards(claimed.mean), backwards(claimed.std)))


# --- what labels tell ----------------------------------------------------------------------------------------


def _judge_shorter(bench: "_Bench", claim: Claim, outputs: Tensor) -> tuple[Finding, Claim]:
    """Whether labelled images are answered best with this shorter side; and the claim with the best one.

    outputs: (N,), the right output for each image.
    """

    def answered(one: Claim) -> Tensor:
        return log_probabilities(bench.whole(one).logits)[torch.arange(len(outputs)), outputs]

    own = answered(claim)
    margins = {one: paired(answered(one) - own) for one in _rivals("shorter side", claim)}
    best = max(margins, key=margins.__getitem__)
    better = margins[best] >= SURE
    found = best if better else claim
    verdict: Verdict = "faulty" if better else "sound" if margins[best] <= -SURE else "cannot tell"
    rival = told("shorter side", best)
    because = {
        "faulty": f"labelled images are answered surely better with {rival}",
        "sound": f"labelled images are answered surely worse with every other, the nearest being {rival}",
        "cannot tell": f"labelled images are answered about as well with {rival}",
    }[verdict]
    finding = Finding(
        setting="shorter side",
        claimed=told("shorter side", claim),
        found=told("shorter side", found),
        verdict=verdict,
        margin=margins[best] if better else -margins[best],
        because=because,
    )
    return finding, found


def _untold(claim: Claim) -> list[Finding]:
    """What is not asked of images without labels."""
    without = {
        "shorter side": (told("shorter side", claim), "training cuts at random, so only labelled images tell"),
        "class order": ("as claimed", "only labelled images tell"),
    }
    return [
        Finding(setting=setting, claimed=value, found=value, verdict="cannot tell", margin=0.0, because=because)
        for setting, (value, because) in without.items()
    ]


def _confidence(seen: Seen) -> float:
    return float(seen.logits.softmax(1).amax(1).mean())


# --- in words ------------------------------------------------------------------------------------------------


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
