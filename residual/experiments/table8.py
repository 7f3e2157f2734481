"""Table 8: mean average precision on COCO, Faster R-CNN on VGG-16 and on ResNet-101."""

from residual.reproduce.experiment import Experiment, Printed, Row

PRECISION = {  # % mAP on the validation set, trained on the training set: (at IoU 0.5, over IoU 0.5 to 0.95)
    "VGG-16": (41.5, 21.2),
    "ResNet-101": (48.4, 27.2),
}

experiment = Experiment(
    name="table8",
    title="Object detection on the COCO validation set, baseline Faster R-CNN",
    source="table 8 of arXiv 1512.03385",
    claim="ResNet-101 gains 6 points over VGG-16 in COCO's own metric, 28 % relative, through its features alone.",
    rows=tuple(
        Row(name=f"{network}, {metric}", unit="% mAP", paper=Printed(value=value))
        for network, values in PRECISION.items()
        for metric, value in zip(("mAP@.5", "mAP@[.5, .95]"), values, strict=True)
    ),
    data=("coco",),
    waits_for="training of detectors (residual.detect)",
)
