"""Table 2 in small: plain and residual networks on Tiny ImageNet, ten crops, at a quarter of the size.

    residual reproduce table2-tiny --data tiny-imagenet=DIR

The networks are those of the table; the numbers are not like its numbers.
"""

from residual.evaluate.protocol import ten_crop
from residual.reproduce.experiment import Claim, Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_tiny_imagenet

NETWORKS = {  # model, shortcut
    "plain-18": ("plain18", "none"),
    "plain-34": ("plain34", "none"),
    "ResNet-18": ("resnet18", "A"),
    "ResNet-34": ("resnet34", "A"),
}

experiment = Experiment(
    name="table2-tiny",
    title="Top-1 error on the Tiny ImageNet validation set, ten crops",
    source="after table 2 of arXiv 1512.03385",
    claim="34 plain layers are worse than 18; with shortcuts they are better.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            settings=(on_tiny_imagenet(model, shortcut),),
            measure=error_under(ten_crop),
            seeds=3,
        )
        for name, (model, shortcut) in NETWORKS.items()
    ),
    claims=(
        Claim(text="34 plain layers are worse than 18", rising=("plain-18", "plain-34")),
        Claim(text="34 residual layers are better than 18", rising=("ResNet-34", "ResNet-18")),
        Claim(text="Shortcuts improve 34 layers", rising=("ResNet-34", "plain-34")),
    ),
    data=("tiny-imagenet",),
    twin_of="table2",
)
