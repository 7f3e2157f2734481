"""Table 3: ImageNet, shortcuts A, B and C, and 50 to 152 layers, ten crops.

    residual reproduce table3 --data imagenet=DIR

The networks of 50 layers and more take option B, and stride in the first 1x1 of a bottleneck.
"""

from residual.evaluate.protocol import ten_crop
from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_imagenet

CITED = {"VGG-16": (28.07, 9.33), "GoogLeNet": (None, 9.15), "PReLU-net": (24.27, 7.38)}
NETWORKS = {  # model, shortcut: (top-1, top-5), % error
    "plain-34": ("resnet34", "none", (28.54, 10.02)),
    "ResNet-34 A": ("resnet34", "A", (25.03, 7.76)),
    "ResNet-34 B": ("resnet34", "B", (24.52, 7.46)),
    "ResNet-34 C": ("resnet34", "C", (24.19, 7.40)),
    "ResNet-50": ("resnet50", "B", (22.85, 6.71)),
    "ResNet-101": ("resnet101", "B", (21.75, 6.05)),
    "ResNet-152": ("resnet152", "B", (21.43, 5.71)),
}
TOPS = (1, 5)


def rising(*networks: str, top: int = 1) -> tuple[str, ...]:
    """The rows of one error."""
    return tuple(f"{network}, top-{top}" for network in networks)


experiment = Experiment(
    name="table3",
    title="Error on the ImageNet validation set, ten crops",
    source="table 3 of arXiv 1512.03385",
    claim="B is slightly better than A and C than B, all far better than plain; and depth pays up to 152 layers.",
    rows=(
        *(
            Row(name=f"{name}, top-{top}", unit=f"% top-{top} error", paper=Printed(value=error))
            for name, errors in CITED.items()
            for top, error in zip(TOPS, errors, strict=True)
            if error is not None
        ),
        *(
            Row(
                name=f"{name}, top-{top}",
                unit=f"% top-{top} error",
                paper=Printed(value=error),
                settings=(on_imagenet(model, shortcut),),
                measure=error_under(ten_crop, top=top),
                seeds=2,
                resolution=0.5,
            )
            for name, (model, shortcut, errors) in NETWORKS.items()
            for top, error in zip(TOPS, errors, strict=True)
        ),
    ),
    claims=(
        *(
            Claim(text=f"Option {option} improves 34 layers", rising=rising(f"ResNet-34 {option}", "plain-34"))
            for option in "ABC"
        ),
        Claim(text="Option B is better than A", rising=rising("ResNet-34 B", "ResNet-34 A")),
        Claim(text="Option C is better than B", rising=rising("ResNet-34 C", "ResNet-34 B")),
        Claim(text="50 layers are better than 34", rising=rising("ResNet-50", "ResNet-34 C")),
        Claim(text="Deeper is better", rising=rising("ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 B")),
        Claim(text="Deeper is better in top-5", rising=rising("ResNet-152", "ResNet-101", "ResNet-50", top=5)),
    ),
    data=("imagenet",),
    protocol=ledger.imagenet,
)
