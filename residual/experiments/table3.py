"""Table 3: ImageNet, shortcuts A, B and C, and 50 to 152 layers, ten crops.

    residual reproduce table3 --data imagenet=DIR

The networks of 50 layers and more take option B, and stride in the first 1x1 of a bottleneck.
"""

from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_imagenet, options_and_depth

CITED = {"VGG-16": (28.07, 9.33), "GoogLeNet": (None, 9.15), "PReLU-net": (24.27, 7.38)}
ERRORS = {  # (top-1, top-5), % error
    "plain-34": (28.54, 10.02),
    "ResNet-34 A": (25.03, 7.76),
    "ResNet-34 B": (24.52, 7.46),
    "ResNet-34 C": (24.19, 7.40),
    "ResNet-50": (22.85, 6.71),
    "ResNet-101": (21.75, 6.05),
    "ResNet-152": (21.43, 5.71),
}
TOPS = (1, 5)
OTHERS = "a network of others"

experiment = Experiment(
    name="table3",
    title="Error on the ImageNet validation set, ten crops",
    source="table 3 of arXiv 1512.03385",
    claim="B is slightly better than A and C than B, all far better than plain; and depth pays up to 152 layers.",
    rows=(
        *(
            Row(name=f"{name}, top-{top}", unit=f"% top-{top} error", paper=Printed(value=error), note=OTHERS)
            for name, errors in CITED.items()
            for top, error in zip(TOPS, errors, strict=True)
            if error is not None
        ),
        *(
            Row(
                name=f"{name}, top-{top}",
                unit=f"% top-{top} error",
                paper=Printed(value=error),
                settings=(on_imagenet(name),),
                measure=error_under("ten-crop", top=top),
                seeds=2,
                resolution=0.5,
            )
            for name, errors in ERRORS.items()
            for top, error in zip(TOPS, errors, strict=True)
        ),
    ),
    claims=(
        *options_and_depth(lambda network: f"{network}, top-1"),
        Claim(
            text="Deeper is better in top-5",
            rising=tuple(f"{network}, top-5" for network in ("ResNet-152", "ResNet-101", "ResNet-50")),
        ),
    ),
    data=("imagenet",),
    protocol=ledger.imagenet,
)
