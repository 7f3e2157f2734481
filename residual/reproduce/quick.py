"""An experiment in miniature: every step of it within seconds, on drawn shapes.  Its numbers mean nothing.

The shallowest network of an experiment gets one block in each stage and all others two, so that "deeper" still
exists; channels, images and training are cut.  The paper's numbers are taken away: none may stand beside these.
"""

from dataclasses import replace

from residual.models.cost import layers
from residual.models.description import Description
from residual.recipes.recipe import Recipe
from residual.reproduce.experiment import Experiment, Setting

ITERATIONS, BATCH, SEEDS = 6, 32, 2


def quick(experiment: Experiment) -> Experiment:
    """The same rows, claims and lines with tiny trainings, and no paper."""
    depths = {layers(setting.description) for setting in experiment.settings}
    shallowest = min(depths, default=0)

    def small(setting: Setting) -> Setting:
        return _small(setting, blocks=1 if layers(setting.description) == shallowest else 2)

    rows = tuple(
        replace(row, paper=None, seeds=min(row.seeds, SEEDS), settings=tuple(map(small, row.settings)))
        for row in experiment.rows
    )
    lines = tuple(replace(line, setting=small(line.setting)) for line in experiment.lines)
    return replace(experiment, rows=rows, lines=lines, data=("shapes",) if experiment.settings else ())


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


def _short(recipe: Recipe, network: Description) -> Recipe:
    return replace(
        recipe,
        name=f"quick-{recipe.name}",
        iterations=ITERATIONS,
        epochs=None,
        batch=BATCH,
        exact_statistics=min(recipe.exact_statistics, 4 * BATCH),
    )
