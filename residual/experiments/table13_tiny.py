"""Table 13 in small: localization on Tiny ImageNet, from one scale to R-CNN with the classes of a classifier.

    residual reproduce table13-tiny --data tiny-imagenet=DIR

The localizer is small and begins with random weights; the classifier is the ResNet-18 of table2-tiny.
"""

from dataclasses import replace

from residual.recipes.detection import localization_small
from residual.reproduce.detectors import LOCALIZED, localizes, narrows
from residual.reproduce.experiment import DetectionSetting, Experiment
from residual.reproduce.photographs import on_tiny_imagenet

RECIPE = replace(localization_small(), name="localization-tiny", iterations=None, epochs=5)
SETTINGS = (
    DetectionSetting(model="localizer_small", recipe=RECIPE, data="tiny-imagenet"),
    on_tiny_imagenet("ResNet-18"),
)

experiment = Experiment(
    name="table13-tiny",
    title="Localization on the Tiny ImageNet validation set",
    source="after table 13 of arXiv 1512.03385",
    claim="More scales and a second step on regions place objects better.",
    rows=tuple(localizes(name, name, SETTINGS if "classes" in name else SETTINGS[:1], seeds=3) for name in LOCALIZED),
    claims=narrows({name: name for name in LOCALIZED}),
    data=("tiny-imagenet",),
    twin_of="table13",
)
