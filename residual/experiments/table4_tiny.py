"""Table 4 in small: single networks on Tiny ImageNet, fully convolutional at five scales, at a quarter of the size.

    residual reproduce table4-tiny --data tiny-imagenet=DIR

Runs are those of table3-tiny.
"""

from residual.reproduce.experiment import Claim, Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import ENSEMBLE, on_tiny_imagenet

experiment = Experiment(
    name="table4-tiny",
    title="Top-1 error of single networks on the Tiny ImageNet validation set, five scales",
    source="after table 4 of arXiv 1512.03385",
    claim="Depth pays up to 152 layers.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            settings=(on_tiny_imagenet(name),),
            measure=error_under("multi-scale"),
            seeds=3,
        )
        for name in ENSEMBLE
    ),
    claims=(Claim(text="Deeper is better", rising=("ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 C")),),
    data=("tiny-imagenet",),
    twin_of="table4",
)
