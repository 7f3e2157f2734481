"""Figure 1: degradation.  On CIFAR-10 a plain network of 56 layers trains and tests worse than one of 20.

    residual reproduce figure1 --data cifar10=DIR

The figure prints no numbers: the rows are the ends of its curves.
"""

from residual.recipes.paper import paper
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Line, Row, Setting
from residual.reproduce.measures import curves, test_error, training_error

PLAIN = {layers: Setting(model=f"plain{layers}", recipe=paper(layers), data="cifar10") for layers in (20, 56)}
MEASURES = {"training error": training_error, "test error": test_error}

experiment = Experiment(
    name="figure1",
    title="Training and test error of plain networks on CIFAR-10",
    source="figure 1 of arXiv 1512.03385",
    claim="The deeper plain network has the higher training error, and thus the higher test error.",
    rows=tuple(
        Row(
            name=f"plain-{layers}, {name}",
            unit=f"% {name}",
            settings=(setting,),
            measure=measure,
            seeds=3,
            resolution=0.6,
        )
        for name, measure in MEASURES.items()
        for layers, setting in PLAIN.items()
    ),
    claims=(
        Claim(
            text="56 plain layers have a higher training error than 20",
            rising=("plain-20, training error", "plain-56, training error"),
        ),
        Claim(
            text="56 plain layers have a higher test error than 20",
            rising=("plain-20, test error", "plain-56, test error"),
        ),
    ),
    lines=tuple(
        Line(name=f"plain-{layers}", panel="plain networks", setting=setting, of=curves)
        for layers, setting in PLAIN.items()
    ),
    data=("cifar10",),
    x="iterations (1e4)",
    y="error (%)",
    protocol=ledger.cifar,
)
