"""Table 2 of "Identity Mappings in Deep Residual Networks": where batch norm and ReLU stand, CIFAR-10.

    residual reproduce identity-activations --data cifar10=DIR

Medians of five runs.
"""

from residual.recipes.identity import identity
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row, Setting
from residual.reproduce.measures import test_error

MODELS = {110: "preresnet110", 164: "preresnet164"}  # of basic blocks, of bottlenecks
ORDERS = {  # the order's name here: (ResNet-110, ResNet-164), % test error
    "original": (6.61, 5.93),
    "bn-after-add": (8.17, 6.50),
    "relu-before-add": (7.84, 6.14),
    "relu-only": (6.71, 5.91),
    "full": (6.37, 5.46),
}

experiment = Experiment(
    name="identity-activations",
    title="Test error on CIFAR-10 with different orders of batch norm, ReLU and addition",
    source="table 2 of arXiv 1603.05027",
    claim="Batch norm and ReLU ahead of every convolution (full pre-activation) is the best of five orders.",
    rows=tuple(
        Row(
            name=f"ResNet-{layers}, {order}",
            unit="% test error",
            paper=Printed(value=error, kind="median", n=5),
            settings=(Setting(model=model, recipe=identity(), data="cifar10", changes={"order": order}),),
            measure=test_error,
            seeds=3,
            resolution=0.6,
        )
        for order, errors in ORDERS.items()
        for (layers, model), error in zip(MODELS.items(), errors, strict=True)
    ),
    claims=tuple(
        Claim(
            text=f"ResNet-{layers} is better with full pre-activation than with order {order}",
            rising=(f"ResNet-{layers}, full", f"ResNet-{layers}, {order}"),
        )
        for layers in MODELS
        for order in ORDERS
        if order != "full"
    ),
    data=("cifar10",),
    protocol=ledger.identity,
)
