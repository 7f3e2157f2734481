"""Table 9 in small: box refinement, context, testing at several scales, and an ensemble, on drawn scenes.

    residual reproduce table9-scenes

A small Faster R-CNN on images of 96 pixels, from random weights; the five scales are in the paper's proportions.
"""

from residual.reproduce.detection_measures import map50, precision
from residual.reproduce.detectors import ENSEMBLE, each_adds, improvements, on_scenes
from residual.reproduce.experiment import Experiment, Row

METRIC = "mAP@.5"
TRAINED = improvements(on_scenes("faster_rcnn_small_c4"))

experiment = Experiment(
    name="table9-scenes",
    title="Object detection on drawn scenes, a small Faster R-CNN with its improvements",
    source="after table 9 of arXiv 1512.03385",
    claim="Each improvement adds to the one before.",
    rows=tuple(
        Row(name=name, unit=f"% {METRIC}", settings=settings, measure=precision(map50, how), seeds=3)
        for name, (settings, how) in TRAINED.items()
    ),
    claims=each_adds({name: name for name in TRAINED}, ENSEMBLE, METRIC),
    data=("scenes:4000",),
    twin_of="table9",
)
