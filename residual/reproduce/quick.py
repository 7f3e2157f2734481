"""An experiment in miniature: every step of it within seconds, on drawn shapes.  Its numbers mean nothing.

The shallowest network of an experiment gets one block in each stage and all others two, so that "deeper" still
exists; channels, images and training are cut.  Detectors stand on the trunk "small", whatever theirs is, from random
weights, and see sixteen drawn images.  The paper's numbers are taken away: none may stand beside these.
"""

import re
from dataclasses import replace

from residual.models.cost import layers
from residual.models.description import Description
from residual.recipes.detection import at_side
from residual.recipes.recipe import Recipe
from residual.reproduce.experiment import AnySetting, DetectionSetting, Experiment, Setting

ITERATIONS, BATCH, SEEDS = 6, 32, 2
SIDE, STEPS, IMAGES = 48, 4, 2  # of detectors


def quick(experiment: Experiment) -> Experiment:
    """The same rows, claims and lines with tiny trainings, and no paper."""
    depths = {layers(setting.description) for setting in experiment.settings if isinstance(setting, Setting)}
    shallowest = min(depths, default=0)

    def small(setting: Setting) -> Setting:
        return _small(setting, blocks=1 if layers(setting.description) == shallowest else 2)

    def any_small(setting: AnySetting) -> AnySetting:
        return small(setting) if isinstance(setting, Setting) else _small_detector(setting)

    rows = tuple(
        replace(row, paper=None, seeds=min(row.seeds, SEEDS), settings=tuple(map(any_small, row.settings)))
        for row in experiment.rows
    )
    lines = tuple(replace(line, setting=small(line.setting)) for line in experiment.lines)
    found = replace(experiment, rows=rows, lines=lines)
    return replace(found, data=tuple(sorted({setting.data for setting in found.settings})))


def _small(setting: Setting, *, blocks: int) -> Setting:
    network = setting.description
    changes = {
        **setting.changes,
        "depths": (blocks,) * len(network.depths),
        "widths": tuple(8 * 2**stage for stage in range(len(network.widths))),
        "stem_width": 8,
    }
    size = 16 if network.stem == "cifar" else 32
    return replace(setting, changes=changes, data="shapes", size=size, recipe=_short(setting.recipe, network))


def _small_detector(setting: DetectionSetting) -> DetectionSetting:
    told = re.fullmatch(r"([a-z]+_rcnn|mnc5?|localizer)_.+?(_c4)?(_context)?", setting.model)
    assert told is not None, setting.model
    way, _, context = told.groups()
    recipe = setting.recipe
    return replace(
        setting,
        model=f"{way}_small" + ("_c4" if way.endswith("rcnn") else "") + (context or ""),
        data="shapes:16" if way == "localizer" else "scenes:16",
        trunk=None,
        recipe=replace(
            recipe,
            name=f"quick-{recipe.name}",
            iterations=STEPS,
            epochs=None,
            batch=IMAGES,
            augmentation=at_side(recipe.augmentation, SIDE),
        ),
    )


def _short(recipe: Recipe, network: Description) -> Recipe:
    return replace(
        recipe,
        name=f"quick-{recipe.name}",
        iterations=ITERATIONS,
        epochs=None,
        batch=BATCH,
        batch_norm_group=None if recipe.batch_norm_group is None else BATCH // 2,
        exact_statistics=min(recipe.exact_statistics, 4 * BATCH),
    )
