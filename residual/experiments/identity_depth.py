"""Table 3 of "Identity Mappings in Deep Residual Networks": original and pre-activation units up to 1001 layers.

    residual reproduce identity-depth --data cifar10=DIR --data cifar100=DIR

Medians of five runs; of some the paper prints mean and deviation too.  Units of one layer are only cited: they are not
among the networks here.
"""

from residual.recipes.identity import identity, identity_64
from residual.recipes.recipe import Recipe
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import test_error

ORDERS = {"original": "original", "pre-activation": "full"}  # of layers, as the table and as descriptions name them
ERRORS = {  # % test error: (original, pre-activation)
    ("CIFAR-10", 110): (6.61, 6.37),
    ("CIFAR-10", 164): (5.93, 5.46),
    ("CIFAR-10", 1001): (7.61, 4.92),
    ("CIFAR-100", 164): (25.16, 24.33),
    ("CIFAR-100", 1001): (27.82, 22.71),
}
MEANS = {  # mean and standard deviation, where printed
    ("CIFAR-10", 1001, "pre-activation"): (4.89, 0.14),
    ("CIFAR-100", 1001, "pre-activation"): (22.68, 0.22),
}


def named(data: str, layers: int, units: str) -> str:
    """A row's name."""
    return f"{data}: ResNet-{layers}, {units}"


def trained(data: str, layers: int, units: str, printed: Printed, recipe: Recipe) -> Row:
    """A row.  The activations of 1001 layers are computed twice, which spares memory and changes no number."""
    setting = Setting(
        model=f"preresnet{layers}",
        recipe=recipe,
        data=data.lower().replace("-", ""),
        changes={"order": ORDERS[units], "checkpoint": layers > 1000},
    )
    return Row(
        name=named(data, layers, units) + (", 64 images at a time" if recipe.batch == 64 else ""),
        unit=f"% test error, {data}",
        paper=printed,
        settings=(setting,),
        measure=test_error,
        seeds=3,
        resolution=0.6 if data == "CIFAR-10" else 1.0,
    )


def median(error: float, mean: float | None = None, std: float | None = None) -> Printed:
    """Of five runs."""
    return Printed(value=error, kind="median", n=5, mean=mean, std=std)


def better(data: str, lower: tuple[int, str], higher: tuple[int, str], text: str) -> Claim:
    """One network before another."""
    return Claim(text=f"{data}: {text}", rising=(named(data, *lower), named(data, *higher)))


experiment = Experiment(
    name="identity-depth",
    title="Test error on CIFAR-10 and CIFAR-100 of original and pre-activation units, 110 to 1001 layers",
    source="tables 3 and 4 of arXiv 1603.05027",
    claim="With pre-activation depth pays up to 1001 layers; with the original units 1001 are worse than 164.",
    rows=(
        *(
            Row(
                name=f"CIFAR-10: ResNet-110 of one-layer units, {units}",
                unit="% test error, CIFAR-10",
                paper=median(error),
                note="units of one layer are not among the networks here",
            )
            for units, error in (("original", 9.90), ("pre-activation", 8.91))
        ),
        *(
            trained(data, layers, units, median(error, *MEANS.get((data, layers, units), ())), identity())
            for (data, layers), errors in ERRORS.items()
            for units, error in zip(ORDERS, errors, strict=True)
        ),
        trained("CIFAR-10", 1001, "pre-activation", median(4.62, 4.69, 0.20), identity_64()),
    ),
    claims=(
        *(
            better(data, (layers, "pre-activation"), (layers, "original"), f"pre-activation improves {layers} layers")
            for data, layers in ERRORS
        ),
        *(
            claim
            for data in ("CIFAR-10", "CIFAR-100")
            for claim in (
                better(
                    data,
                    (1001, "pre-activation"),
                    (164, "pre-activation"),
                    "with pre-activation 1001 layers are better than 164",
                ),
                better(
                    data, (164, "original"), (1001, "original"), "with original units 1001 layers are worse than 164"
                ),
            )
        ),
    ),
    data=("cifar10", "cifar100"),
    protocol=ledger.identity,
)
