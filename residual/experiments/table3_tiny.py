"""Table 3 in small: shortcuts A, B and C, and 50 to 152 layers on Tiny ImageNet, ten crops, at a quarter of the size.

    residual reproduce table3-tiny --data tiny-imagenet=DIR

The networks are those of the table; the numbers are not like its numbers.
"""

from residual.evaluate.protocol import ten_crop
from residual.reproduce.experiment import Claim, Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_tiny_imagenet

NETWORKS = {  # model, shortcut
    "plain-34": ("resnet34", "none"),
    "ResNet-34 A": ("resnet34", "A"),
    "ResNet-34 B": ("resnet34", "B"),
    "ResNet-34 C": ("resnet34", "C"),
    "ResNet-50": ("resnet50", "B"),
    "ResNet-101": ("resnet101", "B"),
    "ResNet-152": ("resnet152", "B"),
}

experiment = Experiment(
    name="table3-tiny",
    title="Top-1 error on the Tiny ImageNet validation set, ten crops",
    source="after table 3 of arXiv 1512.03385",
    claim="B is slightly better than A and C than B, all far better than plain; and depth pays up to 152 layers.",
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
        *(
            Claim(text=f"Option {option} improves 34 layers", rising=(f"ResNet-34 {option}", "plain-34"))
            for option in "ABC"
        ),
        Claim(text="Option B is better than A", rising=("ResNet-34 B", "ResNet-34 A")),
        Claim(text="Option C is better than B", rising=("ResNet-34 C", "ResNet-34 B")),
        Claim(text="50 layers are better than 34", rising=("ResNet-50", "ResNet-34 C")),
        Claim(text="Deeper is better", rising=("ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 B")),
    ),
    data=("tiny-imagenet",),
    twin_of="table3",
)
