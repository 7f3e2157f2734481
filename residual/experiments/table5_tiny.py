"""Table 5 in small: an ensemble on Tiny ImageNet beside its deepest network, at a quarter of the size.

    residual reproduce table5-tiny --data tiny-imagenet=DIR

Runs are those of table3-tiny.
"""

from residual.reproduce.experiment import Claim, Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import ENSEMBLE, on_tiny_imagenet

NETWORKS = tuple(map(on_tiny_imagenet, ENSEMBLE))

experiment = Experiment(
    name="table5-tiny",
    title="Top-5 error of an ensemble on the Tiny ImageNet validation set",
    source="after table 5 of arXiv 1512.03385",
    claim="An ensemble of networks of different depth is better than the deepest of them.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-5 error",
            settings=settings,
            measure=error_under("multi-scale", top=5),
            seeds=3,
        )
        for name, settings in {"five ResNets": NETWORKS, "ResNet-152": NETWORKS[-1:]}.items()
    ),
    claims=(Claim(text="The ensemble is better than its deepest network", rising=("five ResNets", "ResNet-152")),),
    data=("tiny-imagenet",),
    twin_of="table5",
)
