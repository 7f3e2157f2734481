"""Table 7: mean average precision on PASCAL VOC, Faster R-CNN on VGG-16 and on ResNet-101."""

from residual.reproduce.experiment import Experiment, Printed, Row

PRECISION = {  # % mAP: (VOC 07 test, trained on 07+12; VOC 12 test, trained on 07++12)
    "VGG-16": (73.2, 70.4),
    "ResNet-101": (76.4, 73.8),
}

experiment = Experiment(
    name="table7",
    title="Object detection on PASCAL VOC 2007 and 2012, baseline Faster R-CNN",
    source="table 7 of arXiv 1512.03385",
    claim="Under the same detector ResNet-101 finds objects better than VGG-16, by more than 3 points.",
    rows=tuple(
        Row(name=f"{network}, {test} test", unit="% mAP", paper=Printed(value=value))
        for network, values in PRECISION.items()
        for test, value in zip(("VOC 07", "VOC 12"), values, strict=True)
    ),
    data=("voc07+12",),
    waits_for="training of detectors (residual.detect)",
)
