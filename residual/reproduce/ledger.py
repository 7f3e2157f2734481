"""The ledger: how the papers trained, as data; how we did, read off a run; and where the two part.

The differences are derived from the two descriptions, never written by hand.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import msgspec

from residual.data.transforms import Augmentation, Preprocessing
from residual.models.cost import layers
from residual.models.description import Description
from residual.recipes.recipe import Recipe
from residual.reproduce.detection_ledger import DetectionProtocol
from residual.train.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a network was trained.  None: the paper does not say.

    images_per_statistic: behind one mean and variance of batch norm in training.
    drops: iterations at which the rate is multiplied by `drop_factor`, or how else it falls.
    momentum_form: whether the rate stands inside the velocity (Caffe) or outside (PyTorch); the two differ when
        the rate changes.
    border: colour of the pixels that a crop finds outside of the image, where it can.
    statistics_at_test_time: what batch norm uses then.
    selection: whose error is reported, of all the weights that a training goes through.
    test_view: of the error on held-out images in a run's own evaluation; a table may look through more views.
    """

    devices: int | None
    batch: int
    images_per_statistic: int | None
    iterations: int | None
    rate: float
    drops: tuple[int, ...] | str
    drop_factor: float | None
    warm_up: str
    momentum: float
    momentum_form: str | None
    weight_decay: float
    weight_decay_on: str | None
    initialisation: str
    crop: str
    border: str | None
    flips: bool
    colour: str
    normalisation: str
    loss: str
    statistics_at_test_time: str | None
    precision: str
    training_images: int
    selection: str
    test_view: str


P = TypeVar("P", Protocol, DetectionProtocol)

INSIDE, OUTSIDE = "rate inside the velocity", "rate outside the velocity"
EXACT, MOVING = "averages over training images, after training", "moving averages"
PIXEL, CHANNEL = "mean of each pixel subtracted", "mean of each channel subtracted"
BY_STD = ", divided by its standard deviation"
LIGHTING = "noise along the principal components of colour"
SMALL = "one view of 32 pixels"

CIFAR = Protocol(
    devices=2,
    batch=128,
    images_per_statistic=64,  # if each GPU normalised its own half, which the paper does not say
    iterations=64_000,
    rate=0.1,
    drops=(32_000, 48_000),
    drop_factor=0.1,
    warm_up="none",
    momentum=0.9,
    momentum_form=INSIDE,
    weight_decay=1e-4,
    weight_decay_on="convolutions",  # by the account of fb.resnet.torch; the paper does not say
    initialisation="He, normal; fan not said",
    crop="32 pixels of the image in a border of 4",
    border=None,
    flips=True,
    colour="as it is",
    normalisation=PIXEL,
    loss="cross-entropy",
    statistics_at_test_time=EXACT,  # the authors' release notes
    precision="float32",
    training_images=50_000,
    selection="last iteration",
    test_view=SMALL,
)

IMAGENET = replace(
    CIFAR,
    devices=8,
    batch=256,
    images_per_statistic=32,
    iterations=600_000,
    drops="when the error plateaus",
    crop="224 pixels of an image whose shorter side is 256 to 480",
    border=None,
    colour=LIGHTING,
    training_images=1_281_167,
    test_view="central 224 of 256 pixels",
)

IDENTITY = replace(
    CIFAR,
    warm_up="0.01 for 400 iterations",
    momentum_form=None,
    weight_decay_on=None,
    statistics_at_test_time=None,
)

WIDE = replace(
    CIFAR,
    devices=None,
    images_per_statistic=128,
    iterations=78_125,  # 200 passes
    drops=(23_438, 46_875, 62_500),  # 60, 120 and 160 passes
    drop_factor=0.2,
    momentum_form=f"Nesterov, {OUTSIDE}",
    weight_decay=5e-4,
    weight_decay_on="all parameters",
    initialisation="He, normal, fan out",
    border="reflection",
    normalisation=CHANNEL + BY_STD,
    statistics_at_test_time=MOVING,
)

STOCHASTIC = replace(
    WIDE,
    devices=1,
    iterations=175_781,  # 500 passes over 45,000 images
    drops=(87_890, 131_836),
    drop_factor=0.1,
    weight_decay=1e-4,
    initialisation="He, normal; fan not said",
    border=None,
    training_images=45_000,
    selection="lowest validation error",
)


def cifar(network: Description) -> Protocol:
    """Section 4.2 of "Deep Residual Learning"; 110 layers and more warm up (of 1202 it is not said)."""
    warm_up = "0.01 until the training error is below 80 %" if layers(network) >= 110 else "none"
    return replace(CIFAR, warm_up=warm_up)


def imagenet(network: Description) -> Protocol:
    """Section 3.4, whatever the network."""
    return IMAGENET


def identity(network: Description) -> Protocol:
    """CIFAR of "Identity Mappings in Deep Residual Networks", whatever the network."""
    return IDENTITY


def wide(network: Description) -> Protocol:
    """CIFAR of "Wide Residual Networks", whatever the network."""
    return WIDE


def stochastic_depth(network: Description) -> Protocol:
    """CIFAR of "Deep Networks with Stochastic Depth", by its authors' published program, whatever the network."""
    return STOCHASTIC


def of_run(run: Mapping[str, Any]) -> Protocol:
    """How a run was trained, by its run.json."""
    recipe = msgspec.convert(run["recipe"], Recipe)
    budgeted = run["plan"].get("budget") is not None  # then only the clock knows how long
    return of_recipe(
        recipe,
        msgspec.convert(run["preprocessing"], Preprocessing),
        images=run["data"]["counts"]["train"],
        devices=run["processes"],
        precision=run["precision"],
        budgeted=budgeted,
    )


def of_recipe(
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    images: int,
    devices: int = 1,
    precision: str = "float32",
    budgeted: bool = False,
) -> Protocol:
    """How a recipe trains.  images: that it learns from.  budgeted: its length is what the time allows."""
    schedule, optimizer, augmentation = recipe.schedule, recipe.optimizer, recipe.augmentation
    iterations = None if budgeted else recipe.length(images)
    decay, everything = (recipe.lamb.decay, False) if recipe.lamb else (optimizer.decay, optimizer.decay_all)
    return Protocol(
        devices=devices,
        batch=recipe.batch,
        images_per_statistic=recipe.batch_norm_group or recipe.batch // recipe.accumulate,  # processes share theirs
        iterations=iterations,
        rate=schedule.rate,
        drops=_drops(schedule, iterations),
        drop_factor=schedule.factor if schedule.shape == "steps" else None,
        warm_up=_warm_up(schedule, iterations),
        momentum=recipe.lamb.mean if recipe.lamb else optimizer.momentum,
        momentum_form="LAMB" if recipe.lamb else f"Nesterov, {OUTSIDE}" if optimizer.nesterov else OUTSIDE,
        weight_decay=decay,
        weight_decay_on="all parameters" if everything else "convolutions and classifier",
        initialisation="He, normal, fan out",  # models/resnet.py: initialize
        crop=_crop(augmentation, preprocessing),
        border="mean colour" if augmentation.crop == "pad" and augmentation.pad else None,
        flips=augmentation.flip,
        colour=_colour(augmentation),
        normalisation=_normalisation(recipe),
        loss=_loss(recipe),
        statistics_at_test_time=EXACT if recipe.exact_statistics else MOVING,
        precision=precision,
        training_images=images,
        selection=_selection(recipe),
        test_view=(
            f"one view of {preprocessing.size} pixels"
            if preprocessing.resize is None
            else f"central {preprocessing.size} of {preprocessing.resize} pixels"
        ),
    )


def _drops(schedule: Schedule, iterations: int | None) -> tuple[int, ...] | str:
    if schedule.shape != "steps":
        return f"{schedule.shape}, to zero"
    if iterations is None:
        return ", ".join(f"after {drop:.0%}" for drop in schedule.drops)
    return tuple(round(drop * iterations) for drop in schedule.drops)


def _warm_up(schedule: Schedule, iterations: int | None) -> str:
    if schedule.warmup_error is not None:
        return f"{schedule.warmup_rate:g} until the training error is below {schedule.warmup_error:g} %"
    if schedule.hold and iterations is not None:
        return f"{schedule.warmup_rate:g} for {round(schedule.hold * iterations):,} iterations"
    share = schedule.hold or schedule.warmup
    return f"a lower rate over the first {share:.0%}" if share else "none"


def _crop(augmentation: Augmentation, preprocessing: Preprocessing) -> str:
    size = preprocessing.size
    match augmentation.crop:
        case "pad":
            return f"{size} pixels of the image in a border of {augmentation.pad}"
        case "scaled":
            least, most = augmentation.shorter
            return f"{size} pixels of an image whose shorter side is {least} to {most}"
        case "resized":
            return f"{size} pixels of a random part, at least {augmentation.least_area:.0%} of the image"
        case _:
            return f"the central {size} pixels"


def _colour(augmentation: Augmentation) -> str:
    named = {
        "jitter": "jitter",
        "lighting": LIGHTING,
        "erase": "erased rectangles",
        "mixup": "mixup",
        "cutmix": "cutmix",
    }
    told = [words for name, words in named.items() if getattr(augmentation, name)]
    if augmentation.policy != "none":
        told.insert(0, augmentation.policy)
    return ", ".join(told) or "as it is"


def _normalisation(recipe: Recipe) -> str:
    return (PIXEL if recipe.mean == "pixel" else CHANNEL) + (BY_STD if recipe.std else "")


def _loss(recipe: Recipe) -> str:
    smoothed = f", {recipe.label_smoothing:g} of the target spread" if recipe.label_smoothing else ""
    return recipe.loss + smoothed


def _selection(recipe: Recipe) -> str:
    last = "last iteration" if recipe.average is None else "moving average of the last iterations"
    return last if not recipe.validation else "lowest validation error"


def differences(paper: P, ours: P) -> list[dict[str, str]]:
    """Where the two part: what, the paper's, and ours."""
    found: list[dict[str, str]] = []
    for field in fields(paper):
        theirs, mine = getattr(paper, field.name), getattr(ours, field.name)
        if theirs != mine:
            found.append({"what": field.name.replace("_", " "), "paper": told(theirs), "ours": told(mine)})
    return found


def ledger(pairs: Iterable[tuple[P, P]]) -> list[dict[str, str]]:
    """The differences of several trainings, (the paper's, ours) each; one that they share is told once."""
    found: list[dict[str, str]] = []
    for paper, ours in pairs:
        found += [difference for difference in differences(paper, ours) if difference not in found]
    return found


def told(value: object) -> str:
    """A value for a reader."""
    match value:
        case None:
            return "not said"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(told(part) for part in value) or "none"
        case _:
            return str(value)
