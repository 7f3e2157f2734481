"""Table 2 in small: plain and residual networks on Tiny ImageNet, ten crops, at a quarter of the size.

    residual reproduce table2-tiny --data tiny-imagenet=DIR

The networks are those of the table; the numbers are not like its numbers.
"""

from residual.reproduce.experiment import Experiment, Row
from residual.reproduce.measures import error_under
from residual.reproduce.photographs import DEGRADATION, PAIRS, on_tiny_imagenet

experiment = Experiment(
    name="table2-tiny",
    title="Top-1 error on the Tiny ImageNet validation set, ten crops",
    source="after table 2 of arXiv 1512.03385",
    claim="34 plain layers are worse than 18; with shortcuts they are better.",
    rows=tuple(
        Row(
            name=name,
            unit="% top-1 error",
            settings=(on_tiny_imagenet(name),),
            measure=error_under("ten-crop"),
            seeds=3,
        )
        for name in PAIRS
    ),
    claims=DEGRADATION,
    data=("tiny-imagenet",),
    twin_of="table2",
)
