"""Figure 7: how strongly the layers respond.  Standard deviations behind batch norm, before ReLU and addition.

    residual reproduce figure7 --data cifar10=DIR

The figure prints no numbers: each row is the mean over the layers of one network.  Runs are those of table 6 and
figure 6.
"""

from residual.models.catalog import describe
from residual.recipes.catalog import recipe_named
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Line, Row, Setting
from residual.reproduce.measures import mean_response, responses_in_order, responses_sorted

NETWORKS = {
    name: Setting(model=model, recipe=recipe_named("paper", describe(model)), data="cifar10")
    for name, model in {
        "plain-20": "plain20",
        "plain-56": "plain56",
        "ResNet-20": "resnet20",
        "ResNet-56": "resnet56",
        "ResNet-110": "resnet110",
    }.items()
}
PANELS = {"layers in their order": responses_in_order, "sorted by their response": responses_sorted}

experiment = Experiment(
    name="figure7",
    title="Standard deviations of layer responses on CIFAR-10",
    source="figure 7 of arXiv 1512.03385",
    claim="Residual functions are closer to zero than plain layers, and the closer the deeper the network.",
    rows=tuple(
        Row(
            name=name,
            unit="mean standard deviation",
            settings=(setting,),
            measure=mean_response,
            seeds=3,
            resolution=0.1,
        )
        for name, setting in NETWORKS.items()
    ),
    claims=(
        Claim(text="ResNet-20 responds less than plain-20", rising=("ResNet-20", "plain-20")),
        Claim(text="ResNet-56 responds less than plain-56", rising=("ResNet-56", "plain-56")),
        Claim(text="A deeper ResNet responds less in each layer", rising=("ResNet-110", "ResNet-56", "ResNet-20")),
    ),
    lines=tuple(
        Line(name=name, panel=panel, setting=setting, of=of)
        for panel, of in PANELS.items()
        for name, setting in NETWORKS.items()
    ),
    data=("cifar10",),
    x="layer",
    y="standard deviation",
    protocol=ledger.cifar,
)
