"""Table 10: average precision on the PASCAL VOC 2007 test set, class by class.

    residual reproduce table10 --data voc07+12=DIR --data vgg16-imagenet=FILE --data resnet101-imagenet=FILE

Runs are those of table 7.  "+++" adds box refinement, context, testing at several scales, and training on COCO before
VOC; a detector that goes on from another one's training is not built, so these numbers are cited.
"""

from residual.data.voc import CLASSES
from residual.reproduce.detection_ledger import VOC
from residual.reproduce.detection_measures import precision, voc07, voc07_of
from residual.reproduce.detectors import on_voc
from residual.reproduce.experiment import Claim, Experiment, Printed, Row

SYSTEMS = ("VGG-16, 07+12", "ResNet-101, 07+12", "ResNet-101+++, COCO+07+12")  # network, trained on
PRECISION = {  # % AP
    "mean": (73.2, 76.4, 85.6),
    "aero": (76.5, 79.8, 90.0),
    "bike": (79.0, 80.7, 89.6),
    "bird": (70.9, 76.2, 87.8),
    "boat": (65.5, 68.3, 80.8),
    "bottle": (52.1, 55.9, 76.1),
    "bus": (83.1, 85.1, 89.9),
    "car": (84.7, 85.3, 89.9),
    "cat": (86.4, 89.8, 89.6),
    "chair": (52.0, 56.7, 75.5),
    "cow": (81.9, 87.8, 90.0),
    "table": (65.7, 69.4, 80.7),
    "dog": (84.8, 88.3, 89.6),
    "horse": (84.6, 88.9, 90.3),
    "mbike": (77.5, 80.9, 89.1),
    "person": (76.7, 78.4, 88.7),
    "plant": (38.8, 41.7, 65.4),
    "sheep": (73.6, 78.6, 88.1),
    "sofa": (73.9, 79.8, 85.6),
    "train": (83.0, 85.3, 89.0),
    "tv": (72.6, 72.0, 86.8),
}

OFFICIAL = dict(zip(PRECISION, ("", *CLASSES), strict=True))  # names of the classes; the table shortens them
NOT_BUILT = "a detector that is trained on COCO first and then on VOC is not built"


def row(system: str, what: str, value: float) -> Row:
    """A number of the table."""
    name, printed = f"{system}: {what}", Printed(value=value)
    if "+++" in system:
        return Row(name=name, unit="% AP", paper=printed, note=NOT_BUILT)
    return Row(
        name=name,
        unit="% AP",
        paper=printed,
        settings=(on_voc(system.partition(",")[0]),),
        measure=precision(voc07 if what == "mean" else voc07_of(OFFICIAL[what])),
        seeds=2,
    )


experiment = Experiment(
    name="table10",
    title="Object detection on the PASCAL VOC 2007 test set by class",
    source="table 10 of arXiv 1512.03385",
    claim="ResNet-101 is better than VGG-16 in every class but one, and far better with the improvements.",
    rows=tuple(
        row(system, what, value)
        for what, values in PRECISION.items()
        for system, value in zip(SYSTEMS, values, strict=True)
    ),
    claims=(Claim(text="ResNet-101 is better than VGG-16", rising=tuple(f"{system}: mean" for system in SYSTEMS[:2])),),
    data=("voc07+12", "vgg16-imagenet", "resnet101-imagenet"),
    protocol=VOC,
)
