"""Why does my number differ?  One thing at a time is measured otherwise, on the same images.

Nothing is loaded or decoded here: `explain` calls a function that scores a `Setting`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from residual.data.transforms import Preprocessing
from residual.evaluate.error import mcnemar, paired_interval, ranks, top_k_error
from residual.evaluate.look import per_channel
from residual.evaluate.protocol import Protocol, multi_scale, single, ten_crop
from residual.evaluate.rivals import SHORTER
from residual.evaluate.score import Scores, refuse_not_finite


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that a number depends on besides the images: whose weights, how prepared, how tested."""

    protocol: Protocol
    preprocessing: Preprocessing
    weights: str = "last"
    statistics: Literal["stored", "exact"] = "stored"  # batch norm's; exact ones are measured on training images


@dataclass(frozen=True, kw_only=True)
class Variation:
    """The stated setting with one thing changed."""

    what: str
    setting: Setting


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one change does.  Errors and effects in percent and points of top-1 error; a positive effect is harm.

    interval: of the effect, over other images of the same kind (95 %, paired bootstrap).
    p: of McNemar's exact test that as many images become wrong as become right.
    """

    what: str
    error: float
    effect: float
    interval: tuple[float, float]
    p: float
    became_wrong: int
    became_right: int


def explain(
    stated: Setting, variations: Sequence[Variation], score: Callable[[Setting], Scores], *, seed: int = 0
) -> Iterator[Row]:
    """Score the stated setting and every variation of it; yield a row for each as it comes, the stated one first.

    score: the scores of one setting, always of the same images in the same order.
    """
    reference = score(stated)
    refuse_not_finite(reference)
    before = ranks(reference) > 0
    yield Row(
        what="as stated",
        error=top_k_error(reference),
        effect=0.0,
        interval=(0.0, 0.0),
        p=1.0,
        became_wrong=0,
        became_right=0,
    )
    for variation in variations:
        scores = score(variation.setting)
        after = ranks(scores) > 0
        became_wrong, became_right = int((after & ~before).sum()), int((before & ~after).sum())
        yield Row(
            what=variation.what,
            error=top_k_error(scores),
            effect=100 * (became_wrong - became_right) / len(after),
            interval=paired_interval(before, after, seed=seed),
            p=mcnemar(became_wrong, became_right),
            became_wrong=became_wrong,
            became_right=became_right,
        )


def by_effect(rows: Sequence[Row]) -> list[Row]:
    """The largest effect first, whichever its direction; the stated setting, which has none, on top."""
    return [rows[0], *sorted(rows[1:], key=lambda row: -abs(row.effect))]


def best_guess(rows: Sequence[Row], claimed: float) -> str:
    """In one sentence, which single change comes nearest to the error that somebody claimed, percent.

    rows: the stated setting first.
    """
    if not 0 <= claimed <= 100:
        raise ValueError(f"an error is 0 to 100 percent, so nobody can have claimed {claimed}")
    stated = rows[0]
    gap = abs(stated.error - claimed)
    nearest = min(rows[1:], key=lambda row: abs(row.error - claimed), default=stated)
    left = abs(nearest.error - claimed)
    if left >= gap:
        return (
            f"No single change measured here comes nearer to the claimed {claimed:.2f} % than the stated protocol, "
            f"with {stated.error:.2f} % ({gap:.2f} points away)."
        )
    alike = [row.what for row in rows[1:] if row.error == nearest.error and row is not nearest]
    ties = f" (and so does: {', '.join(alike)})" if alike else ""
    doubt = "" if nearest.p < 0.05 else "; its effect is within the noise of these images, so this is a weak guess"
    return (
        f"Best guess for the claimed {claimed:.2f} %: {nearest.what}{ties}, which gives {nearest.error:.2f} %, "
        f"{left:.2f} points away where the stated protocol is {gap:.2f} points away{doubt}."
    )


def variations(
    stated: Setting,
    *,
    weights: Sequence[str] = (),
    exact: int = 0,
    mean_image: tuple[float, ...] | None = None,
    originals: bool = True,
) -> tuple[list[Variation], dict[str, str]]:
    """What can be measured otherwise, the cheap things first; and what cannot, with the reason.

    weights: names of other weights of the run.  exact: how many training images there are for batch norm.
    mean_image: the training images' mean per pixel, in the layout of `Preprocessing.mean`, where it is known.
    originals: whether the images are larger than the network sees, so that resizing is a choice.
    """
    found: list[Variation] = []
    without: dict[str, str] = {}
    protocol, preprocessing = stated.protocol, stated.preprocessing

    def also(what: str, setting: Setting) -> None:
        if setting != stated:
            found.append(Variation(what=what, setting=setting))

    for name in weights:
        also(f"weights: {name}", replace(stated, weights=name))
    if not weights:
        without["other weights"] = "there are no others; a run folder may hold several"
    if exact:
        also(f"batch-norm statistics of {exact:,} training images", replace(stated, statistics="exact"))
    else:
        without["batch-norm statistics"] = "exact ones need training images: --train-data DIR"
    _of_the_mean(stated, mean_image, also)
    if not any(one.what.startswith("one mean") for one in found):
        without["one mean per pixel"] = (
            "the training images are stored at another size than the network sees, so none has its place"
            if exact
            else "the mean image is measured on training images: --train-data DIR"
        )
    if preprocessing.channels == "L":
        without["RGB against BGR"] = "the images are grey"
    else:
        other: Literal["RGB", "BGR"] = "BGR" if preprocessing.channels == "RGB" else "RGB"
        also(f"channels in the order {other}", replace(stated, preprocessing=replace(preprocessing, channels=other)))
    half: Literal["float32", "bfloat16"] = "float32" if protocol.precision == "bfloat16" else "bfloat16"
    also(f"computed in {half}", replace(stated, protocol=replace(protocol, precision=half)))
    if originals:
        for what, changed in _resized_otherwise(protocol):
            also(what, replace(stated, protocol=changed))
    else:
        without["filter, shorter side and crop"] = "the images are as large as the network sees, nothing is resized"
    for what, changed in _seen_otherwise(protocol, originals):
        also(what, replace(stated, protocol=changed))
    if not originals:
        without["multi-scale"] = "larger scales of images that small would only blur them"
    return found, without


def _of_the_mean(
    stated: Setting,
    mean_image: tuple[float, ...] | None,
    also: Callable[[str, Setting], None],
) -> None:
    preprocessing = stated.preprocessing
    flat = per_channel(preprocessing)
    if len(preprocessing.mean) != len(flat.mean):
        also("one mean per channel", replace(stated, preprocessing=replace(preprocessing, mean=flat.mean)))
    elif mean_image is not None:
        also("one mean per pixel", replace(stated, preprocessing=replace(preprocessing, mean=mean_image)))


def _resized_otherwise(protocol: Protocol) -> Iterator[tuple[str, Protocol]]:
    other: Literal["bilinear", "bicubic"] = "bicubic" if protocol.interpolation == "bilinear" else "bilinear"
    yield f"resized by a {other} filter", replace(protocol, interpolation=other)
    yield "resized without antialiasing", replace(protocol, antialias=not protocol.antialias)
    if protocol.name == "multi-scale" or protocol.pad or protocol.corners == "image":
        return
    for side in SHORTER:
        shorter = round(side * protocol.size / SHORTER[-1])
        if protocol.name == "one-crop" or shorter > protocol.size:
            yield f"shorter side {shorter}", replace(protocol, resize=shorter)
    if protocol.name == "one-crop":
        yield f"the whole image squeezed to {protocol.size} x {protocol.size}", replace(protocol, resize=None)


def _seen_otherwise(protocol: Protocol, originals: bool) -> Iterator[tuple[str, Protocol]]:
    """Other views; each may differ in several fields, but is one protocol that people use."""
    once = single(protocol)
    if protocol.name == "one-crop":
        yield "averaged with its mirror image", replace(protocol, flips=not protocol.flips)
    else:
        yield "one central crop", once
        other: Literal["probabilities", "logits"] = "logits" if protocol.average == "probabilities" else "probabilities"
        yield f"{other} averaged over views", replace(protocol, average=other)
    crops = ten_crop(once)
    if protocol.name != "ten-crop":
        yield "ten crops, probabilities averaged", crops
    if originals and not crops.pad:
        corners = replace(crops, corners="image", average="logits")
        yield "ten crops from the corners of the whole image, logits averaged", corners
    if originals and protocol.name != "multi-scale":
        yield "five scales, fully convolutional", multi_scale(once)
