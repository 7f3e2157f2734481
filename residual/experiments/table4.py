"""Table 4: ImageNet, single networks at their best: fully convolutional at five scales.

    residual reproduce table4 --data imagenet=DIR

Runs are those of table 3.  VGG's number of 2014 is of the test set.
"""

from residual.reproduce import ledger
from residual.reproduce.experiment import Claim, Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import on_imagenet

CITED = {  # (top-1, top-5), % error
    "VGG (ILSVRC 2014), test set": (None, 8.43),
    "GoogLeNet (ILSVRC 2014)": (None, 7.89),
    "VGG (version 5)": (24.4, 7.1),
    "PReLU-net": (21.59, 5.71),
    "BN-inception": (21.99, 5.81),
}
ERRORS = {  # (top-1, top-5), % error
    "ResNet-34 B": (21.84, 5.71),
    "ResNet-34 C": (21.53, 5.60),
    "ResNet-50": (20.74, 5.25),
    "ResNet-101": (19.87, 4.60),
    "ResNet-152": (19.38, 4.49),
}
TOPS = (1, 5)
OTHERS = "a network of others"

experiment = Experiment(
    name="table4",
    title="Error of single networks on the ImageNet validation set, five scales",
    source="table 4 of arXiv 1512.03385",
    claim="Depth pays: one ResNet-152 is better than every ensemble before it.",
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
                measure=error_under("multi-scale", top=top),
                seeds=2,
                resolution=0.5,
            )
            for name, errors in ERRORS.items()
            for top, error in zip(TOPS, errors, strict=True)
        ),
    ),
    claims=tuple(
        Claim(
            text=f"Deeper is better in top-{top}",
            rising=tuple(f"{name}, top-{top}" for name in ("ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 C")),
        )
        for top in TOPS
    ),
    data=("imagenet",),
    protocol=ledger.imagenet,
)
