"""Table 2: ImageNet, plain and residual networks of 18 and 34 layers, ten crops.

    residual reproduce table2 --data imagenet=DIR

Shortcuts are of option A and add no parameters.
"""

from residual.evaluate.protocol import ten_crop
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_imagenet

NETWORKS = {  # model, shortcut: % top-1 error
    "plain-18": ("plain18", "none", 27.94),
    "plain-34": ("plain34", "none", 28.54),
    "ResNet-18": ("resnet18", "A", 27.88),
    "ResNet-34": ("resnet34", "A", 25.03),
}

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
            settings=(on_imagenet(model, shortcut),),
            measure=error_under(ten_crop),
            seeds=2,
            resolution=0.5,
        )
        for name, (model, shortcut, error) in NETWORKS.items()
    ),
    claims=(
        Claim(text="34 plain layers are worse than 18", rising=("plain-18", "plain-34")),
        Claim(text="34 residual layers are better than 18", rising=("ResNet-34", "ResNet-18")),
        Claim(text="Shortcuts improve 34 layers", rising=("ResNet-34", "plain-34")),
    ),
    data=("imagenet",),
    protocol=ledger.imagenet,
)
