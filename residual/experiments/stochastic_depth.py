"""CIFAR of "Deep Networks with Stochastic Depth": whole blocks are left out at random while training.

    residual reproduce stochastic-depth --data cifar10=DIR --data cifar100=DIR

The last block is kept half of the time, the others more often the earlier they are; testing uses them all.  Trained on
45,000 images; the error is that of the weights with the lowest error on the other 5,000.  What differs for 1202
layers is not in the authors' published program: they are trained as 110 are.
"""

from dataclasses import replace

from residual.recipes.stochastic_depth import stochastic_depth
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import chosen_test_error

ERRORS = {  # (data, layers, chance that the last block is left out): % test error
    ("CIFAR-10", 110, 0.0): Printed(value=6.41),
    ("CIFAR-10", 110, 0.5): Printed(value=5.23),
    ("CIFAR-10", 1202, 0.0): None,
    ("CIFAR-10", 1202, 0.5): Printed(value=4.91),
    ("CIFAR-100", 110, 0.0): None,
    ("CIFAR-100", 110, 0.5): Printed(value=24.58),
}


def name(data: str, layers: int, left_out: float) -> str:
    """Of a row."""
    return f"{data}: ResNet-{layers}, {'stochastic' if left_out else 'constant'} depth"


experiment = Experiment(
    name="stochastic-depth",
    title="Test error on CIFAR-10 and CIFAR-100 with stochastic depth",
    source="arXiv 1603.09382 and its authors' program",
    claim="Leaving out blocks in training improves a deep residual network, so that even 1202 layers pay.",
    rows=tuple(
        Row(
            name=name(data, layers, left_out),
            unit=f"% test error, {data}",
            paper=printed,
            settings=(
                Setting(
                    model=f"resnet{layers}",
                    recipe=replace(stochastic_depth(), stochastic_depth=left_out or None),
                    data=data.lower().replace("-", ""),
                ),
            ),
            measure=chosen_test_error,
            seeds=3,
            resolution=0.6 if data == "CIFAR-10" else 1.0,
        )
        for (data, layers, left_out), printed in ERRORS.items()
    ),
    claims=(
        *(
            Claim(
                text=f"{data}: stochastic depth improves ResNet-{layers}",
                rising=(name(data, layers, 0.5), name(data, layers, 0.0)),
            )
            for data, layers in (("CIFAR-10", 110), ("CIFAR-10", 1202), ("CIFAR-100", 110))
        ),
        Claim(
            text="CIFAR-10: with stochastic depth 1202 layers are better than 110",
            rising=(name("CIFAR-10", 1202, 0.5), name("CIFAR-10", 110, 0.5)),
        ),
    ),
    data=("cifar10", "cifar100"),
    protocol=ledger.stochastic_depth,
)
