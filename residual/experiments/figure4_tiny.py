"""Figure 4 in small: plain and residual networks of 18 and 34 layers on Tiny ImageNet, at a quarter of the size.

    residual reproduce figure4-tiny --data tiny-imagenet=DIR

Runs are those of table2-tiny.
"""

from residual.reproduce.experiment import Experiment
from residual.reproduce.photographs import DEGRADATION_THROUGHOUT, curves_of_pairs, ends_of_curves, on_tiny_imagenet

experiment = Experiment(
    name="figure4-tiny",
    title="Training on Tiny ImageNet, plain and residual networks of 18 and 34 layers",
    source="after figure 4 of arXiv 1512.03385",
    claim="The deeper plain network is worse throughout, in training too; with shortcuts it is better.",
    rows=ends_of_curves(on_tiny_imagenet, seeds=3),
    claims=DEGRADATION_THROUGHOUT,
    lines=curves_of_pairs(on_tiny_imagenet),
    data=("tiny-imagenet",),
    x="iterations (1e4)",
    y="error (%)",
    twin_of="figure4",
)
