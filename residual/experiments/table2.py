"""Table 2: ImageNet, plain and residual networks of 18 and 34 layers, ten crops.

    residual reproduce table2 --data imagenet=DIR

Shortcuts are of option A and add no parameters.
"""

from residual.reproduce import ledger
from residual.reproduce.experiment import Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import DEGRADATION, on_imagenet

ERRORS = {"plain-18": 27.94, "plain-34": 28.54, "ResNet-18": 27.88, "ResNet-34": 25.03}  # % top-1

experiment = Experiment(
    name="table2",
    title="Top-1 error on the ImageNet validation set, ten crops",
    source="table 2 of arXiv 1512.03385",
    claim="34 plain layers are worse than 18; with shortcuts they are better, by 2.8 points.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            paper=Printed(value=error),
            settings=(on_imagenet(name),),
            measure=error_under("ten-crop"),
            seeds=2,
            resolution=0.5,
        )
        for name, error in ERRORS.items()
    ),
    claims=DEGRADATION,
    data=("imagenet",),
    protocol=ledger.imagenet,
)
