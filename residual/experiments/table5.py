"""Table 5: ImageNet, ensembles on the test set.

    residual reproduce table5 --data imagenet=DIR

The answers to the test images are not public, so the paper's 3.57 % can only be cited.  What can be tested is that
an ensemble is better than its best network, on the validation images.  The paper's has six networks, two of them of
152 layers, and does not name the others; ours has the five of table 4, whose runs these are.
"""

from residual.reproduce import ledger
from residual.reproduce.detectors import SERVER
from residual.reproduce.experiment import Claim, Experiment, Printed, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import ENSEMBLE, on_imagenet

TEST = {  # % top-5 error
    "VGG (ILSVRC 2014)": 7.32,
    "GoogLeNet (ILSVRC 2014)": 6.66,
    "VGG (version 5)": 6.8,
    "PReLU-net": 4.94,
    "BN-inception": 4.82,
    "ResNet (ILSVRC 2015), six networks": 3.57,
}
NETWORKS = tuple(map(on_imagenet, ENSEMBLE))

experiment = Experiment(
    name="table5",
    title="Top-5 error of ensembles on the ImageNet test set",
    source="table 5 of arXiv 1512.03385",
    claim="An ensemble of residual networks won ILSVRC 2015.",
    rows=(
        *(
            Row(name=name, unit="% top-5 error, test set", paper=Printed(value=error), note=SERVER)
            for name, error in TEST.items()
        ),
        *(
            Row(
                name=name,
                unit="% top-5 error, validation set",
                settings=settings,
                measure=error_under("multi-scale", top=5),
                seeds=2,
                resolution=0.5,
            )
            for name, settings in {"five ResNets": NETWORKS, "ResNet-152": NETWORKS[-1:]}.items()
        ),
    ),
    claims=(Claim(text="The ensemble is better than its deepest network", rising=("five ResNets", "ResNet-152")),),
    data=("imagenet",),
    protocol=ledger.imagenet,
)
