"""The ledger of detectors: how the paper trained them, as data, and how we did, read off a run (ledger.py compares).

The paper trains as Faster R-CNN does (Ren et al. 2015) unless it says otherwise; what neither says is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from residual.recipes.detection import DetectionRecipe
from residual.records import convert


@dataclass(frozen=True, kw_only=True)
class DetectionProtocol:
    """How a detector was trained.  None: the paper does not say, or of several networks says different things.

    parts: whether proposals and regions are learned at once.  batch: images in an iteration, of all devices.
    drops: iterations at which the rate is multiplied by `drop_factor`.
    longest: pixels that the longer side may not exceed.  anchors: square roots of their areas, pixels.
    regions: of an image that are trained on, at most `share` of them objects; the others overlap one by `least` at
        least.
    proposals: of an image that are judged in testing.  suppressed: overlap from which the weaker of two answers goes.
    pooled: side of the map that is cut out for a region before the last stage of a ResNet.
    """

    devices: int | None
    parts: str
    batch: int | str
    iterations: int | str | None
    rate: float
    drops: tuple[int, ...] | str | None
    drop_factor: float | None
    momentum: float
    weight_decay: float | None
    flips: bool
    side: int
    longest: int
    anchors: tuple[float, ...] | None
    shapes: tuple[float, ...]
    regions: int
    share: float
    least: float
    proposals: int
    suppressed: float
    pooled: int | None
    batch_norm: str
    trunk: str
    training_images: int | None
    precision: str


IN_TURN, AT_ONCE = "proposals, regions, and both again on shared layers", "proposals and regions at once"
FIXED = "a fixed scale and shift, from the trunk's training"
TRAINED, RANDOM = "trained on ImageNet", "random weights"

VOC = DetectionProtocol(
    devices=None,
    parts=IN_TURN,
    batch="1 for proposals, 2 for regions",
    iterations=None,
    rate=0.001,
    drops=None,
    drop_factor=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    flips=True,
    side=600,
    longest=1000,
    anchors=(128.0, 256.0, 512.0),
    shapes=(0.5, 1.0, 2.0),
    regions=64,
    share=0.25,
    least=0.1,
    proposals=300,
    suppressed=0.3,
    pooled=None,
    batch_norm=FIXED,
    trunk=TRAINED,
    training_images=16_551,
    precision="float32",
)
COCO = replace(
    VOC,
    devices=8,
    batch="8 for proposals, 16 for regions",
    iterations="320,000 for each part",
    drops="at 240,000 of each part",
    weight_decay=None,
    anchors=None,
    training_images=82_783,
)


def of_detection_run(run: Mapping[str, Any]) -> DetectionProtocol:
    """How a detector was trained, by its run.json."""
    recipe = convert(run["recipe"], DetectionRecipe)
    model, images = run["model"], run["data"]["counts"]["train"]
    iterations = recipe.length(images)
    proposals, regions = model["proposals"], model["regions"]
    frozen = model["frozen"]
    return DetectionProtocol(
        devices=run["processes"],
        parts=IN_TURN if recipe.in_turn else AT_ONCE,
        batch=recipe.batch,
        iterations=iterations,
        rate=recipe.schedule.rate,
        drops=(
            tuple(round(drop * iterations) for drop in recipe.schedule.drops)
            if recipe.schedule.shape == "steps" and not recipe.in_turn
            else ", ".join(f"after {drop:.0%} of each step" for drop in recipe.schedule.drops)
        ),
        drop_factor=recipe.schedule.factor if recipe.schedule.shape == "steps" else None,
        momentum=recipe.optimizer.momentum,
        weight_decay=recipe.optimizer.decay,
        flips=recipe.augmentation.flip,
        side=recipe.side,
        longest=recipe.augmentation.longer,
        anchors=tuple(size * 600 / recipe.side for size in proposals["sizes"]),
        shapes=tuple(proposals["shapes"]),
        regions=regions["batch"],
        share=regions["share"],
        least=regions["least"],
        proposals=proposals["after"][1],
        suppressed=regions["overlap"],
        pooled=regions["pooled"] or (7 if model["trunk"] == "vgg16" else 14),
        batch_norm=FIXED if frozen else f"{model['norm']} norm, trained",
        trunk=RANDOM if run["plan"].get("trunk") is None else TRAINED,
        training_images=images,
        precision=run["precision"],
    )
