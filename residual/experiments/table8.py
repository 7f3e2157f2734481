"""Table 8: mean average precision on COCO, Faster R-CNN on VGG-16 and on ResNet-101.

    residual reproduce table8 --data coco=DIR --data vgg16-imagenet=FILE --data resnet101-imagenet=FILE

Cost  320,000 iterations of 8 images for each run
"""

from residual.reproduce.detection_ledger import COCO
from residual.reproduce.detection_measures import coco, precision
from residual.reproduce.detectors import on_coco
from residual.reproduce.experiment import Claim, Experiment, Printed, Row

METRICS = {"mAP@.5": "AP50", "mAP@[.5, .95]": "AP"}
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
        Row(
            name=f"{network}, {metric}",
            unit="% mAP",
            paper=Printed(value=value),
            settings=(on_coco(network),),
            measure=precision(coco(METRICS[metric])),
            seeds=2,
        )
        for network, values in PRECISION.items()
        for metric, value in zip(METRICS, values, strict=True)
    ),
    claims=tuple(
        Claim(
            text=f"ResNet-101 is better than VGG-16 in {metric}",
            rising=tuple(f"{network}, {metric}" for network in PRECISION),
        )
        for metric in METRICS
    ),
    data=("coco", "vgg16-imagenet", "resnet101-imagenet"),
    protocol=COCO,
)
