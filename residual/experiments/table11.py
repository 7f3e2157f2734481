"""Table 11: average precision on the PASCAL VOC 2012 test set, class by class.

"+++" adds box refinement, context, testing at several scales, and training on COCO.  All of it is cited.
"""

from residual.reproduce.detectors import SERVER
from residual.reproduce.experiment import Experiment, Printed, Row

SYSTEMS = ("VGG-16, 07++12", "ResNet-101, 07++12", "ResNet-101+++, COCO+07++12")  # network, trained on
PRECISION = {  # % AP
    "mean": (70.4, 73.8, 83.8),
    "aero": (84.9, 86.5, 92.1),
    "bike": (79.8, 81.6, 88.4),
    "bird": (74.3, 77.2, 84.8),
    "boat": (53.9, 58.0, 75.9),
    "bottle": (49.8, 51.0, 71.4),
    "bus": (77.5, 78.6, 86.3),
    "car": (75.9, 76.6, 87.8),
    "cat": (88.5, 93.2, 94.2),
    "chair": (45.6, 48.6, 66.8),
    "cow": (77.1, 80.4, 89.4),
    "table": (55.3, 59.0, 69.2),
    "dog": (86.9, 92.1, 93.9),
    "horse": (81.7, 85.3, 91.9),
    "mbike": (80.9, 84.8, 90.9),
    "person": (79.6, 80.7, 89.6),
    "plant": (40.1, 48.1, 67.9),
    "sheep": (72.6, 77.3, 88.2),
    "sofa": (60.9, 66.5, 76.8),
    "train": (81.2, 84.7, 90.3),
    "tv": (61.5, 65.6, 80.0),
}

experiment = Experiment(
    name="table11",
    title="Object detection on the PASCAL VOC 2012 test set by class",
    source="table 11 of arXiv 1512.03385",
    claim="ResNet-101 is better than VGG-16 in every class, and with the improvements better still.",
    rows=tuple(
        Row(name=f"{system}: {what}", unit="% AP", paper=Printed(value=value), note=SERVER)
        for what, values in PRECISION.items()
        for system, value in zip(SYSTEMS, values, strict=True)
    ),
)
