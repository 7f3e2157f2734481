"""Table 14: localization on ImageNet beside the best of the years before.  All of it is cited.

The row of this paper is the ensemble of table 13, of which one network is measured there.
"""

from residual.reproduce.detectors import SERVER
from residual.reproduce.experiment import Experiment, Printed, Row

ERRORS = {  # % top-5 error: (validation, test)
    "OverFeat (ILSVRC 2013)": (30.0, 29.9),
    "GoogLeNet (ILSVRC 2014)": (None, 26.7),
    "VGG (ILSVRC 2014)": (26.9, 25.3),
    "ResNet (ILSVRC 2015)": (8.9, 9.0),
}

OURS = "ResNet (ILSVRC 2015)"


def note(name: str, split: str) -> str:
    """Why a number is only cited."""
    if name != OURS:
        return "a network of others"
    return SERVER if split == "test" else "an ensemble; one network of it is measured in table 13"


experiment = Experiment(
    name="table14",
    title="Localization error on ImageNet",
    source="table 14 of arXiv 1512.03385",
    claim="Residual networks make 64 % fewer errors than the best of the year before.",
    rows=tuple(
        Row(name=f"{name}, {split}", unit="% top-5 error", paper=Printed(value=value), note=note(name, split))
        for name, values in ERRORS.items()
        for split, value in zip(("validation", "test"), values, strict=True)
        if value is not None
    ),
)
