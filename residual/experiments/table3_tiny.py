"""Table 3 in small: shortcuts A, B and C, and 50 to 152 layers on Tiny ImageNet, ten crops, at a quarter of the size.

    residual reproduce table3-tiny --data tiny-imagenet=DIR

The networks are those of the table; the numbers are not like its numbers.
"""

from residual.reproduce.experiment import Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import ENSEMBLE, on_tiny_imagenet, options_and_depth

NETWORKS = ("plain-34", "ResNet-34 A", *ENSEMBLE)

experiment = Experiment(
    name="table3-tiny",
    title="Top-1 error on the Tiny ImageNet validation set, ten crops",
    source="after table 3 of arXiv 1512.03385",
    claim="B is slightly better than A and C than B, all far better than plain; and depth pays up to 152 layers.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            settings=(on_tiny_imagenet(name),),
            measure=error_under("ten-crop"),
            seeds=3,
        )
        for name in NETWORKS
    ),
    claims=options_and_depth(lambda network: network),
    data=("tiny-imagenet",),
    twin_of="table3",
)
