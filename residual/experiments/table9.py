"""Table 9: COCO with box refinement, context, testing at several scales, and an ensemble."""

from residual.reproduce.experiment import Experiment, Printed, Row

METRICS = ("val mAP@.5", "val mAP@[.5, .95]", "test-dev mAP@.5", "test-dev mAP@[.5, .95]")
PRECISION = {  # % mAP; validation after training on train, test-dev after training on trainval
    "baseline, VGG-16": (41.5, 21.2, None, None),
    "baseline, ResNet-101": (48.4, 27.2, None, None),
    "+ box refinement": (49.9, 29.9, None, None),
    "+ context": (51.1, 30.0, 53.3, 32.2),
    "+ testing at several scales": (53.8, 32.5, 55.7, 34.9),
    "ensemble of 3 networks": (None, None, 59.0, 37.4),
}

experiment = Experiment(
    name="table9",
    title="Object detection on COCO, Faster R-CNN on ResNet-101 with its improvements",
    source="table 9 of arXiv 1512.03385",
    claim="Each improvement adds to the one before.",
    rows=tuple(
        Row(name=f"{name}, {metric}", unit="% mAP", paper=Printed(value=value))
        for name, values in PRECISION.items()
        for metric, value in zip(METRICS, values, strict=True)
        if value is not None
    ),
    data=("coco",),
    waits_for="training of detectors (residual.detect)",
)
