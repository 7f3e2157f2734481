"""Table 13: localization error on the ImageNet validation set, from the crop to the ensemble.

    residual reproduce table13 --data imagenet-loc=DIR --data resnet101-imagenet=FILE

The classifier that names five classes is the network that the localizer began with.
"""

from residual.recipes.detection import localization
from residual.reproduce.detectors import LOCALIZED, TOP5, TRUE, localizes, narrows
from residual.reproduce.experiment import DetectionSetting, Experiment, Printed, Row

ERRORS = {  # method, network, test protocol: its error
    "VGG's, VGG-16, one crop": (TRUE, 33.1),
    "region proposals, ResNet-101, one crop": (TRUE, 13.3),
    "region proposals, ResNet-101, dense": (TRUE, 11.7),
    "region proposals, ResNet-101, dense, classes of ResNet-101": (TOP5, 14.4),
    "region proposals and R-CNN, ResNet-101, dense, classes of ResNet-101": (TOP5, 10.6),
    "region proposals and R-CNN, ensemble, dense, classes of the ensemble": (TOP5, 8.9),
}

SETTING = DetectionSetting(
    model="localizer_resnet101", recipe=localization(), data="imagenet-loc", trunk="resnet101-imagenet"
)
METHODS = dict(zip(list(ERRORS)[1:], LOCALIZED, strict=False))  # its row: what is measured
CITED = {
    "VGG's, VGG-16, one crop": "a network of others",
    "region proposals and R-CNN, ensemble, dense, classes of the ensemble": "its networks are not told",
}


def row(name: str, unit: str, error: float) -> Row:
    """A number of the table."""
    if name in CITED:
        return Row(name=name, unit=unit, paper=Printed(value=error), note=CITED[name])
    return localizes(name, METHODS[name], (SETTING,), seeds=2, paper=Printed(value=error))


experiment = Experiment(
    name="table13",
    title="Localization on the ImageNet validation set",
    source="table 13 of arXiv 1512.03385",
    claim="Proposals per class more than halve VGG's error, and R-CNN on them takes another quarter away.",
    rows=tuple(row(name, unit, error) for name, (unit, error) in ERRORS.items()),
    claims=narrows({method: name for name, method in METHODS.items()}),
    data=("imagenet-loc", "resnet101-imagenet"),
)
