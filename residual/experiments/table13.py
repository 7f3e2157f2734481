"""Table 13: localization error on the ImageNet validation set, from the crop to the ensemble."""

from residual.reproduce.experiment import Experiment, Printed, Row

TRUE, TOP5 = "% error, class given", "% top-5 error"  # of the box of a class that is given, or of five predicted ones
ERRORS = {  # method, network, test protocol: its error
    "VGG's, VGG-16, one crop": (TRUE, 33.1),
    "region proposals, ResNet-101, one crop": (TRUE, 13.3),
    "region proposals, ResNet-101, dense": (TRUE, 11.7),
    "region proposals, ResNet-101, dense, classes of ResNet-101": (TOP5, 14.4),
    "region proposals and R-CNN, ResNet-101, dense, classes of ResNet-101": (TOP5, 10.6),
    "region proposals and R-CNN, ensemble, dense, classes of the ensemble": (TOP5, 8.9),
}

experiment = Experiment(
    name="table13",
    title="Localization on the ImageNet validation set",
    source="table 13 of arXiv 1512.03385",
    claim="Proposals per class more than halve VGG's error, and R-CNN on them takes another quarter away.",
    rows=tuple(Row(name=name, unit=unit, paper=Printed(value=error)) for name, (unit, error) in ERRORS.items()),
    data=("imagenet-loc",),
    waits_for="training of localizers (residual.detect)",
)
