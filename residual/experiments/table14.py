"""Table 14: localization on ImageNet beside the best of the years before."""

from residual.reproduce.experiment import Experiment, Printed, Row

ERRORS = {  # % top-5 error: (validation, test)
    "OverFeat (ILSVRC 2013)": (30.0, 29.9),
    "GoogLeNet (ILSVRC 2014)": (None, 26.7),
    "VGG (ILSVRC 2014)": (26.9, 25.3),
    "ResNet (ILSVRC 2015)": (8.9, 9.0),
}

experiment = Experiment(
    name="table14",
    title="Localization error on ImageNet",
    source="table 14 of arXiv 1512.03385",
    claim="Residual networks make 64 % fewer errors than the best of the year before.",
    rows=tuple(
        Row(name=f"{name}, {split}", unit="% top-5 error", paper=Printed(value=value))
        for name, values in ERRORS.items()
        for split, value in zip(("validation", "test"), values, strict=True)
        if value is not None
    ),
    data=("imagenet-loc",),
    waits_for="training of localizers (residual.detect)",
)
