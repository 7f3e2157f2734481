"""The CIFAR table of "Wide Residual Networks": fewer layers, more channels.

    residual reproduce wide --data cifar10=DIR --data cifar100=DIR

Medians of five runs, on images of which mean and standard deviation of each channel are taken out.
"""

from residual.recipes.wide import wide
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import test_error

NETWORKS = {  # depth and width, here: (CIFAR-10, CIFAR-100), % test error
    "WRN-40-4": ("wide_resnet40_4", 0.0, (4.53, 21.18)),
    "WRN-16-8": ("wide_resnet16_8", 0.0, (4.27, 20.43)),
    "WRN-28-10": ("wide_resnet28_10", 0.0, (4.00, 19.25)),
    "WRN-28-10, dropout": ("wide_resnet28_10", 0.3, (3.89, 18.85)),
}

experiment = Experiment(
    name="wide",
    title="Test error on CIFAR-10 and CIFAR-100 of wide residual networks",
    source="arXiv 1605.07146 and its authors' program",
    claim="Wide networks of 16 to 40 layers are as good as thin ones of a thousand, and the wider the better.",
    rows=tuple(
        Row(
            name=f"{data}: {name}",
            unit=f"% test error, {data}",
            paper=Printed(value=errors[place], kind="median", n=5),
            settings=(
                Setting(model=model, recipe=wide(), data=data.lower().replace("-", ""), changes={"dropout": dropout}),
            ),
            measure=test_error,
            seeds=3,
            resolution=(0.5, 0.8)[place],
        )
        for place, data in enumerate(("CIFAR-10", "CIFAR-100"))
        for name, (model, dropout, errors) in NETWORKS.items()
    ),
    claims=tuple(
        Claim(
            text=f"{data}: wider is better, WRN-28-10 before WRN-16-8 before WRN-40-4",
            rising=(f"{data}: WRN-28-10", f"{data}: WRN-16-8", f"{data}: WRN-40-4"),
        )
        for data in ("CIFAR-10", "CIFAR-100")
    ),
    data=("cifar10", "cifar100"),
    protocol=ledger.wide,
)
