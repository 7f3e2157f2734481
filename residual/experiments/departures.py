"""What our departures from the paper cost: ResNet-20 under recipe `paper`, and with one thing of it changed at a time.

    residual reproduce departures --data cifar10=DIR --budget 4h

A row is named as the ledger names what was changed (residual/reproduce/ledger.py: `Protocol`), and a ledger quotes the
difference from here wherever the two values stand against each other.  The paper prints none of these numbers.
Cost  as of table 6, six trainings for each seed; a budget shortens all of them alike, and the ledger says to what
"""

from dataclasses import replace
from typing import Any

from residual.recipes.paper import paper
from residual.reproduce.costs import BASELINE
from residual.reproduce.experiment import Claim, Experiment, Row, Setting
from residual.reproduce.measures import test_error

CHANGES: dict[str, dict[str, Any]] = {  # of the recipe
    BASELINE: {},
    "images per statistic: 64": {"batch_norm_group": 64},  # as two GPUs would have it that share nothing
    "weight decay on: convolutions and classifier": {"optimizer": replace(paper().optimizer, decay_all=False)},
    "normalisation: mean of each channel subtracted, divided by its standard deviation": {
        "mean": "channel",
        "std": True,
    },
    "statistics at test time: moving averages": {"exact_statistics": 0},
    "loss: cross-entropy, 0.1 of the target spread": {"label_smoothing": 0.1},
}
MARGIN = 0.5  # points of test error


experiment = Experiment(
    name="departures",
    title="Test error on CIFAR-10 of ResNet-20 with one thing of the recipe changed",
    source="docs/differences.md, after section 4.2 of arXiv 1512.03385",
    claim=f"None of these choices, which the paper leaves open or others made otherwise, costs {MARGIN:g} points.",
    rows=tuple(
        Row(
            name=name,
            unit="% test error",
            settings=(Setting(model="resnet20", recipe=replace(paper(), **changes), data="cifar10"),),
            measure=test_error,
            seeds=5,
        )
        for name, changes in CHANGES.items()
    ),
    claims=tuple(
        Claim(text=f"Costs less than {MARGIN:g} points: {name}", rising=(name, BASELINE), margin=MARGIN)
        for name in CHANGES
        if name != BASELINE
    ),
    data=("cifar10",),
)
