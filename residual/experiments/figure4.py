"""Figure 4: training on ImageNet, plain and residual networks of 18 and 34 layers; validation of centre crops.

    residual reproduce figure4 --data imagenet=DIR

The figure prints no numbers: the rows are the ends of its curves, and their beginnings.  Runs are those of table 2.
"""

from residual.reproduce import ledger
from residual.reproduce.experiment import Experiment
from residual.reproduce.photographs import DEGRADATION_THROUGHOUT, curves_of_pairs, ends_of_curves, on_imagenet

experiment = Experiment(
    name="figure4",
    title="Training on ImageNet, plain and residual networks of 18 and 34 layers",
    source="figure 4 of arXiv 1512.03385",
    claim="The deeper plain network is worse throughout, in training too; with shortcuts it is better.",
    rows=ends_of_curves(on_imagenet, seeds=2),
    claims=DEGRADATION_THROUGHOUT,
    lines=curves_of_pairs(on_imagenet),
    data=("imagenet",),
    x="iterations (1e4)",
    y="error (%)",
    protocol=ledger.imagenet,
)
