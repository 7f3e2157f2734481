"""What an image costs in arithmetic: in learning from it and in looking at it, of a classifier and of a detector.

A detector takes the image through all stages but the last, and each region through that one (VGG-16: through its fully
connected layers).  A localizer's second step takes each region through the whole network.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from residual.detect.card import Described
from residual.detect.cascade import CascadeDescription
from residual.detect.catalog import describe_detector
from residual.detect.localize import LocalizerDescription
from residual.detect.procedure import IMPROVED
from residual.evaluate.protocol import SCALES
from residual.models.cost import layers, macs, stages
from residual.models.description import Description
from residual.recipes.detection import DetectionRecipe
from residual.reproduce.data import source
from residual.reproduce.experiment import AnySetting, DetectionSetting, Setting

PHOTOGRAPH = 4 / 3  # of a longer side to the shorter one, in most sets
VGG16 = 15_346_630_656  # multiply-adds of its convolutions at 224 pixels
VGG16_REGION = 7 * 7 * 512 * 4096 + 4096 * 4096  # of fc6 and fc7
POOLED = 14  # side of a region's map before the last stage, where its description does not say
LABELS = 6  # classes that a localizer is asked for on an image: five guesses and the true one


@dataclass(frozen=True)
class Load:
    """Multiply-adds of an image on its way forward, and layers that it passes: of a detector 1 for each time that
    regions are judged, for all that stands around the arithmetic (anchors, overlaps, regions).
    """

    macs: float
    layers: float

    def times(self, count: float) -> "Load":
        """Of so many views like this."""
        return Load(count * self.macs, count * self.layers)


def together(loads: Iterable[Load]) -> Load:
    """Of one after the other."""
    each = list(loads)
    return Load(sum(load.macs for load in each), sum(load.layers for load in each))


def learned(setting: AnySetting) -> Load:
    """Of learning from an image."""
    if isinstance(setting, Setting):
        return looked(setting)
    described = _described(setting.model, setting.recipe)
    regions = described.roi_batch if isinstance(described, LocalizerDescription) else described.regions.batch
    return _passed(setting, regions=regions)


def looked(setting: AnySetting) -> Load:
    """Of looking at one."""
    if isinstance(setting, Setting):
        size = setting.size or source(setting.data).size
        return Load(macs(setting.description, size), layers(setting.description))
    localizes = isinstance(_described(setting.model, setting.recipe), LocalizerDescription)
    return placed(setting) if localizes else searched(setting)


def at_scales(setting: AnySetting) -> float:
    """How many times a classifier's arithmetic of one view the five scales of section 3.4 take; photographs, uncut."""
    assert isinstance(setting, Setting), "a classifier"
    uncut = PHOTOGRAPH if (setting.size or source(setting.data).size) >= SCALES[0] else 1.0
    return uncut * sum((side / SCALES[0]) ** 2 for side in SCALES)


def searched(setting: DetectionSetting, *, refined: bool = False, scales: bool = False, networks: int = 1) -> Load:
    """Of what one of so many detectors does to find objects; all judge the proposals of each.

    refined: boxes are judged once more.  scales: regions are judged at two of five more views of the image.
    """
    described = _described(setting.model, setting.recipe)
    assert not isinstance(described, LocalizerDescription), setting.model
    judged = (1 + refined) * (1 + scales)
    area = 1 + scales * sum((side / IMPROVED.side) ** 2 for side in IMPROVED.sides)
    return _passed(setting, area=area, regions=judged * networks * described.proposals.after[1], judged=judged)


def placed(setting: DetectionSetting, *, dense: bool = False, second: bool = True, named: bool = False) -> Load:
    """Of placing an object.  dense: the image is seen at five scales.  second: with the second step.

    named: by another network.  Without it and without the second step, the image is looked at once for its classes
    and once to place them.
    """
    described = _described(setting.model, setting.recipe)
    assert isinstance(described, LocalizerDescription), setting.model
    area = sum((side / SCALES[0]) ** 2 for side in SCALES) if dense else 1.0
    return _passed(setting, area=area if second or named else 2 * area, regions=second * LABELS * described.candidates)


@cache
def _described(model: str, recipe: DetectionRecipe) -> Described:
    """With one class: how many there are changes little."""
    return describe_detector(model, ("object",), side=recipe.side, anchors=recipe.anchors, norm=recipe.norm)


def _passed(setting: DetectionSetting, *, regions: float, area: float = 1.0, judged: float = 1.0) -> Load:
    """Of so many images at the recipe's side and so many regions."""
    described, recipe = _described(setting.model, setting.recipe), setting.recipe
    pixels = area * recipe.side * min(recipe.augmentation.longer, PHOTOGRAPH * recipe.side)
    trunk = described.trunk
    if isinstance(described, LocalizerDescription):
        return Load(macs(described.trunk) * (pixels + regions * described.side**2) / described.trunk.image**2, judged)
    if trunk == "vgg16":
        image, region = VGG16 * pixels / 224**2, float(VGG16_REGION)
    else:
        assert isinstance(trunk, Description)
        rows = stages(trunk)
        last, before = rows[-2], rows[-3]
        pooled = described.regions.pooled or POOLED
        image = sum(row.macs for row in rows[:-2]) * pixels / trunk.image**2
        region = last.macs * (pooled / before.side) ** 2
    passes = described.stages - 1 if isinstance(described, CascadeDescription) else 1  # its box and its mask, each time
    return Load(image + passes * regions * region, judged)
