"""Figure 6: training on CIFAR-10.  Plain networks, residual networks, and residual networks of 110 and 1202 layers.

    residual reproduce figure6 --data cifar10=DIR

Of its numbers the paper prints two bounds; the other rows are the ends of the curves.  Runs are those of table 6.
"""

from residual.models.catalog import describe
from residual.recipes.catalog import recipe_named
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Line, Printed, Row, Setting
from residual.reproduce.measures import curves, test_error, training_error

PANELS = {
    "plain networks": ("plain-20", "plain-32", "plain-44", "plain-56"),  # the paper leaves plain-110 out
    "residual networks": ("ResNet-20", "ResNet-32", "ResNet-44", "ResNet-56", "ResNet-110"),
    "110 and 1202 layers": ("ResNet-110", "ResNet-1202"),
}
NETWORKS = ("plain-20", "plain-32", "plain-44", "plain-56", "plain-110", *PANELS["residual networks"], "ResNet-1202")
BOUNDS = {
    "plain-110, test error": Printed(value=60, kind="above"),
    "ResNet-1202, training error": Printed(value=0.1, kind="below"),
}
MEASURES = {"training error": training_error, "test error": test_error}


def trained(network: str) -> Setting:
    """A network of section 4.2."""
    name = network.lower().replace("-", "")
    return Setting(model=name, recipe=recipe_named("paper", describe(name)), data="cifar10")


def rising(error: str, *networks: str) -> tuple[str, ...]:
    """The rows of one kind of error."""
    return tuple(f"{network}, {error}" for network in networks)


experiment = Experiment(
    name="figure6",
    title="Training and test error on CIFAR-10: plain and residual networks",
    source="figure 6 and section 4.2 of arXiv 1512.03385",
    claim="Plain networks get worse with depth, residual ones better; 1202 layers train to nearly no error.",
    rows=tuple(
        Row(
            name=(name := f"{network}, {error}"),
            unit=f"% {error}",
            paper=BOUNDS.get(name),
            settings=(trained(network),),
            measure=measure,
            seeds=5 if network == "ResNet-110" else 3,
            resolution=0.6,
        )
        for error, measure in MEASURES.items()
        for network in NETWORKS
    ),
    claims=tuple(
        claim
        for error in MEASURES
        for claim in (
            Claim(
                text=f"The {error} of plain networks grows from 20 to 56 layers",
                rising=rising(error, "plain-20", "plain-32", "plain-44", "plain-56"),
            ),
            Claim(
                text=f"The {error} of residual networks falls from 20 to 56 layers",
                rising=rising(error, "ResNet-56", "ResNet-44", "ResNet-32", "ResNet-20"),
            ),
            *(
                Claim(
                    text=f"ResNet-{layers} has a lower {error} than plain-{layers}",
                    rising=rising(error, f"ResNet-{layers}", f"plain-{layers}"),
                )
                for layers in (20, 32, 44, 56, 110)
            ),
        )
    ),
    lines=tuple(
        Line(name=network, panel=panel, setting=trained(network), of=curves)
        for panel, networks in PANELS.items()
        for network in networks
    ),
    data=("cifar10",),
    x="iterations (1e4)",
    y="error (%)",
    protocol=ledger.cifar,
)
