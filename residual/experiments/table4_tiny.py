"""Table 4 in small: single networks on Tiny ImageNet, fully convolutional at five scales, at a quarter of the size.

    residual reproduce table4-tiny --data tiny-imagenet=DIR

Runs are those of table3-tiny.
"""

from residual.evaluate.protocol import multi_scale
from residual.reproduce.experiment import Claim, Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_tiny_imagenet

NETWORKS = {  # model, shortcut
    "ResNet-34 B": ("resnet34", "B"),
    "ResNet-34 C": ("resnet34", "C"),
    "ResNet-50": ("resnet50", "B"),
    "ResNet-101": ("resnet101", "B"),
    "ResNet-152": ("resnet152", "B"),
}

experiment = Experiment(
    name="table4-tiny",
    title="Top-1 error of single networks on the Tiny ImageNet validation set, five scales",
    source="after table 4 of arXiv 1512.03385",
    claim="Depth pays up to 152 layers.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            settings=(on_tiny_imagenet(model, shortcut),),
            measure=error_under(multi_scale),
            seeds=3,
        )
        for name, (model, shortcut) in NETWORKS.items()
    ),
    claims=(Claim(text="Deeper is better", rising=("ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 C")),),
    data=("tiny-imagenet",),
    twin_of="table4",
)
