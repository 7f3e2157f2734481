"""Table 7: mean average precision on PASCAL VOC, Faster R-CNN on VGG-16 and on ResNet-101.

    residual reproduce table7 --data voc07+12=DIR --data vgg16-imagenet=FILE --data resnet101-imagenet=FILE

Cost  four steps of 80,000 iterations for each run.  The column of 2012 is cited.
"""

from residual.reproduce.detection_ledger import VOC
from residual.reproduce.detection_measures import precision, voc07
from residual.reproduce.detectors import SERVER, on_voc
from residual.reproduce.experiment import Claim, Experiment, Printed, Row

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
        row
        for network, (seven, twelve) in PRECISION.items()
        for row in (
            Row(
                name=f"{network}, VOC 07 test",
                unit="% mAP",
                paper=Printed(value=seven),
                settings=(on_voc(network),),
                measure=precision(voc07),
                seeds=2,
            ),
            Row(name=f"{network}, VOC 12 test", unit="% mAP", paper=Printed(value=twelve), note=SERVER),
        )
    ),
    claims=(
        Claim(
            text="ResNet-101 finds objects better than VGG-16",
            rising=tuple(f"{network}, VOC 07 test" for network in PRECISION),
        ),
    ),
    data=("voc07+12", "vgg16-imagenet", "resnet101-imagenet"),
    protocol=VOC,
)
