"""What an image costs in arithmetic: in learning from it and in looking at it, of a classifier and of a detector.

A detector takes the image through all stages but the last, and each region through that one (VGG-16: through its fully
connected layers).  A localizer's second step takes each region through the whole network.
"""

from dataclasses import dataclass
from functools import cache

from residual.detect.card import Described
from residual.detect.cascade import CascadeDescription
from residual.detect.catalog import describe_detector
from residual.detect.localize import LocalizerDescription
from residual.models.cost import layers, macs, stages
from residual.models.description import Description
from residual.recipes.detection import DetectionRecipe
from residual.reproduce.data import source
from residual.reproduce.experiment import AnySetting, Setting

PHOTOGRAPH = 4 / 3  # of a longer side to the shorter one, in most sets
VGG16 = 15_346_630_656  # multiply-adds of its convolutions at 224 pixels
VGG16_REGION = 7 * 7 * 512 * 4096 + 4096 * 4096  # of fc6 and fc7
POOLED = 14  # side of a region's map before the last stage, where its description does not say
LABELS = 6  # classes that a localizer is asked for on an image: five guesses and the true one


@dataclass(frozen=True)
class Load:
    """Multiply-adds of an image on its way forward, and layers that it passes: of a detector 1, for all that stands
    around the arithmetic (anchors, overlaps, regions).
    """

    macs: float
    layers: int


def learned(setting: AnySetting) -> Load:
    """Of learning from an image."""
    if isinstance(setting, Setting):
        return looked(setting)
    described = _described(setting.model, setting.recipe)
    regions = described.roi_batch if isinstance(described, LocalizerDescription) else described.regions.batch
    return Load(_multiplied(described, setting.recipe, regions), 1)


def looked(setting: AnySetting) -> Load:
    """Of looking at one."""
    if isinstance(setting, Setting):
        size = setting.size or source(setting.data).size
        return Load(macs(setting.description, size), layers(setting.description))
    described = _described(setting.model, setting.recipe)
    if isinstance(described, LocalizerDescription):
        regions = LABELS * described.candidates
    else:
        regions = described.proposals.after[1]
    return Load(_multiplied(described, setting.recipe, regions), 1)


@cache
def _described(model: str, recipe: DetectionRecipe) -> Described:
    """With one class: how many there are changes little."""
    return describe_detector(model, ("object",), side=recipe.side, anchors=recipe.anchors, norm=recipe.norm)


def _multiplied(described: Described, recipe: DetectionRecipe, regions: int) -> float:
    """Of one image at the recipe's side and so many regions of it."""
    longer = min(recipe.augmentation.longer, PHOTOGRAPH * recipe.side)
    area = recipe.side * longer
    trunk = described.trunk
    if isinstance(described, LocalizerDescription):
        whole = macs(described.trunk)
        return whole * (area + regions * described.side**2) / described.trunk.image**2
    if trunk == "vgg16":
        image, region = VGG16 * area / 224**2, float(VGG16_REGION)
    else:
        assert isinstance(trunk, Description)
        rows = stages(trunk)
        last, before = rows[-2], rows[-3]
        pooled = described.regions.pooled or POOLED
        image = sum(row.macs for row in rows[:-2]) * area / trunk.image**2
        region = last.macs * (pooled / before.side) ** 2
    passes = described.stages - 1 if isinstance(described, CascadeDescription) else 1  # its box and its mask, each time
    return image + passes * regions * region
