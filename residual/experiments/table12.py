"""Table 12: ImageNet detection (DET, 200 classes)."""

from residual.reproduce.experiment import Experiment, Printed, Row

PRECISION = {  # % mAP at IoU 0.5: (val2, test)
    "GoogLeNet (ILSVRC 2014)": (None, 43.9),
    "one ResNet-101": (60.5, 58.8),
    "ensemble of 3 networks": (63.6, 62.1),
}

experiment = Experiment(
    name="table12",
    title="Object detection on ImageNet DET",
    source="table 12 of arXiv 1512.03385",
    claim="One network is better than the ensemble that won the year before, and three are better still.",
    rows=tuple(
        Row(name=f"{name}, {split}", unit="% mAP", paper=Printed(value=value))
        for name, values in PRECISION.items()
        for split, value in zip(("val2", "test"), values, strict=True)
        if value is not None
    ),
    data=("imagenet-det",),
    waits_for="training of detectors (residual.detect)",
)
