"""Table 12: ImageNet detection (DET, 200 classes), trained as for table 9, with its improvements.

    residual reproduce table12 --data imagenet-det=DIR --data resnet101-imagenet=FILE

Trained on the training images and val1, tested on val2; the column of the test images is cited.  On real images of DET
it has not been run.
"""

from residual.reproduce.detection_measures import det, precision
from residual.reproduce.detectors import SERVER, ensemble, on_det
from residual.reproduce.experiment import Claim, Experiment, Printed, Row

PRECISION = {  # % mAP at IoU 0.5: (val2, test)
    "GoogLeNet (ILSVRC 2014)": (None, 43.9),
    "one ResNet-101": (60.5, 58.8),
    "ensemble of 3 networks": (63.6, 62.1),
}

TRAINED = {"one ResNet-101": (on_det(),), "ensemble of 3 networks": ensemble(on_det())}
OTHERS = "others' number, on test images"


def row(name: str, split: str, value: float) -> Row:
    """A number of the table."""
    told, printed = f"{name}, {split}", Printed(value=value)
    if split == "test":
        return Row(name=told, unit="% mAP", paper=printed, note=SERVER if name in TRAINED else OTHERS)
    return Row(
        name=told,
        unit="% mAP",
        paper=printed,
        settings=TRAINED[name],
        measure=precision(det, "improved"),
        seeds=2,
    )


experiment = Experiment(
    name="table12",
    title="Object detection on ImageNet DET",
    source="table 12 of arXiv 1512.03385",
    claim="One network is better than the ensemble that won the year before, and three are better still.",
    rows=tuple(
        row(name, split, value)
        for name, values in PRECISION.items()
        for split, value in zip(("val2", "test"), values, strict=True)
        if value is not None
    ),
    claims=(Claim(text="Three networks are better than one", rising=tuple(f"{name}, val2" for name in TRAINED)),),
    data=("imagenet-det", "resnet101-imagenet"),
)
