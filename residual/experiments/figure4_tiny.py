"""Figure 4 in small: plain and residual networks of 18 and 34 layers on Tiny ImageNet, at a quarter of the size.

    residual reproduce figure4-tiny --data tiny-imagenet=DIR

Runs are those of table2-tiny.
"""

from residual.reproduce.experiment import Claim, Experiment, Line, Row
from residual.reproduce.measures import curves, early_training_error, test_error, training_error
from residual.reproduce.photographs import on_tiny_imagenet

NETWORKS = {
    name: on_tiny_imagenet(model, shortcut)
    for name, model, shortcut in (
        ("plain-18", "plain18", "none"),
        ("plain-34", "plain34", "none"),
        ("ResNet-18", "resnet18", "A"),
        ("ResNet-34", "resnet34", "A"),
    )
}
MEASURES = {
    "training error": training_error,
    "validation error": test_error,
    "early training error": early_training_error,
}

experiment = Experiment(
    name="figure4-tiny",
    title="Training on Tiny ImageNet, plain and residual networks of 18 and 34 layers",
    source="after figure 4 of arXiv 1512.03385",
    claim="The deeper plain network is worse throughout, in training too; with shortcuts it is better.",
    rows=tuple(
        Row(name=f"{name}, {error}", unit=f"% {error}", settings=(setting,), measure=measure, seeds=3)
        for error, measure in MEASURES.items()
        for name, setting in NETWORKS.items()
    ),
    claims=(
        *(
            claim
            for error in ("training error", "validation error")
            for claim in (
                Claim(
                    text=f"34 plain layers have a higher {error} than 18",
                    rising=(f"plain-18, {error}", f"plain-34, {error}"),
                ),
                Claim(
                    text=f"34 residual layers have a lower {error} than 18",
                    rising=(f"ResNet-34, {error}", f"ResNet-18, {error}"),
                ),
            )
        ),
        Claim(
            text="ResNet-18 learns faster at first than plain-18",
            rising=("ResNet-18, early training error", "plain-18, early training error"),
        ),
    ),
    lines=tuple(
        Line(name=name, panel=f"{name.split('-')[0]} networks", setting=setting, of=curves)
        for name, setting in NETWORKS.items()
    ),
    data=("tiny-imagenet",),
    x="iterations (1e4)",
    y="error (%)",
    twin_of="figure4",
)
