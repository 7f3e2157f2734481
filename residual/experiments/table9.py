"""Table 9: COCO with box refinement, context, testing at several scales, and an ensemble.

    residual reproduce table9 --data coco=DIR --data vgg16-imagenet=FILE --data resnet101-imagenet=FILE

The baselines are the runs of table 8.  The columns of test-dev are cited, and with them the ensemble.
"""

from residual.reproduce.detection_ledger import COCO
from residual.reproduce.detection_measures import coco, precision
from residual.reproduce.detectors import PLAIN, SCALES, SERVER, each_adds, improvements, on_coco
from residual.reproduce.experiment import Experiment, Printed, Row

METRICS = {"val mAP@.5": "AP50", "val mAP@[.5, .95]": "AP"}
CITED = ("test-dev mAP@.5", "test-dev mAP@[.5, .95]")
PRECISION = {  # % mAP; validation after training on train, test-dev after training on trainval
    "baseline, VGG-16": (41.5, 21.2, None, None),
    "baseline, ResNet-101": (48.4, 27.2, None, None),
    "+ box refinement": (49.9, 29.9, None, None),
    "+ context": (51.1, 30.0, 53.3, 32.2),
    "+ testing at several scales": (53.8, 32.5, 55.7, 34.9),
    "ensemble of 3 networks": (None, None, 59.0, 37.4),
}
TRAINED = improvements(on_coco("ResNet-101"))
MADE = TRAINED | {
    "baseline, VGG-16": ((on_coco("VGG-16"),), "as trained"),
    "baseline, ResNet-101": TRAINED[PLAIN],
}


def measured(name: str, metric: str, value: float) -> Row:
    """A number of the validation set."""
    settings, how = MADE[name]
    return Row(
        name=f"{name}, {metric}",
        unit="% mAP",
        paper=Printed(value=value),
        settings=settings,
        measure=precision(coco(METRICS[metric]), how),
        seeds=2,
    )


def cited(name: str, metric: str, value: float) -> Row:
    """A number of the test server."""
    return Row(name=f"{name}, {metric}", unit="% mAP", paper=Printed(value=value), note=SERVER)


experiment = Experiment(
    name="table9",
    title="Object detection on COCO, Faster R-CNN on ResNet-101 with its improvements",
    source="table 9 of arXiv 1512.03385",
    claim="Each improvement adds to the one before.",
    rows=tuple(
        measured(name, metric, value) if metric in METRICS else cited(name, metric, value)
        for name, values in PRECISION.items()
        for metric, value in zip((*METRICS, *CITED), values, strict=True)
        if value is not None
    ),
    claims=tuple(
        claim
        for metric in METRICS
        for claim in each_adds(
            {name: f"{'baseline, ResNet-101' if name == PLAIN else name}, {metric}" for name in TRAINED}, SCALES, metric
        )
    ),
    data=("coco", "vgg16-imagenet", "resnet101-imagenet"),
    protocol=COCO,
)
