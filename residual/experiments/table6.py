"""Table 6: CIFAR-10 test error of residual networks of 20 to 1202 layers, beside other methods.  Parameters: table 1.

    residual reproduce table6 --data cifar10=DIR

Cost  64,000 iterations of 128 images for each run
"""

from residual.models.catalog import describe
from residual.recipes.catalog import recipe_named
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import test_error

ERROR = "% test error"


def cited(method: str, error: Printed) -> Row:
    """A number of others."""
    return Row(name=method, unit=ERROR, paper=error, note="a network of others")


def trained(layers: int, error: Printed, *, seeds: int = 3) -> Row:
    """A residual network of section 4.2, option A."""
    network = f"resnet{layers}"
    setting = Setting(model=network, recipe=recipe_named("paper", describe(network)), data="cifar10")
    return Row(
        name=f"ResNet-{layers}",
        unit=ERROR,
        paper=error,
        settings=(setting,),
        measure=test_error,
        seeds=seeds,
        resolution=0.6,
    )


experiment = Experiment(
    name="table6",
    title="Classification error on the CIFAR-10 test set",
    source="table 6 of arXiv 1512.03385",
    claim="Residual networks gain from depth up to 110 layers; 1202 layers still train, but generalise worse than 110.",
    rows=(
        cited("Maxout", Printed(value=9.38)),
        cited("NIN", Printed(value=8.81)),
        cited("DSN", Printed(value=8.22)),
        cited("FitNet, 19 layers", Printed(value=8.39)),
        cited("Highway, 19 layers", Printed(value=7.54, mean=7.72, std=0.16)),
        cited("Highway, 32 layers", Printed(value=8.80)),
        trained(20, Printed(value=8.75)),
        trained(32, Printed(value=7.51)),
        trained(44, Printed(value=7.17)),
        trained(56, Printed(value=6.97)),
        trained(110, Printed(value=6.43, kind="best", n=5, mean=6.61, std=0.16), seeds=5),
        trained(1202, Printed(value=7.93)),
    ),
    claims=(
        Claim(
            text="Deeper is better from 20 to 56 layers", rising=("ResNet-56", "ResNet-44", "ResNet-32", "ResNet-20")
        ),
        Claim(text="110 layers are better than 20", rising=("ResNet-110", "ResNet-20")),
        Claim(text="110 layers are better than 56", rising=("ResNet-110", "ResNet-56")),
        Claim(text="1202 layers are worse than 110", rising=("ResNet-110", "ResNet-1202")),
    ),
    data=("cifar10",),
    protocol=ledger.cifar,
)
