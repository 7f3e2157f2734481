"""What several experiments on photographs share: section 3.4 on ImageNet, and in small on Tiny ImageNet.

Experiments never import each other; that equal trainings are one run, and that a twin claims what its original claims,
is because both are told by one function.
"""

from collections.abc import Callable

from residual.recipes.imagenet import paper_photos
from residual.recipes.tiny import SIDE, paper_tiny
from residual.reproduce.experiment import Claim, Line, Row, Setting
from residual.reproduce.measures import curves, early_training_error, test_error, training_error

NETWORKS = {  # as the tables name them: model, shortcut
    "plain-18": ("plain18", "none"),
    "plain-34": ("plain34", "none"),
    "ResNet-18": ("resnet18", "A"),
    "ResNet-34": ("resnet34", "A"),
    "ResNet-34 A": ("resnet34", "A"),
    "ResNet-34 B": ("resnet34", "B"),
    "ResNet-34 C": ("resnet34", "C"),
    "ResNet-50": ("resnet50", "B"),
    "ResNet-101": ("resnet101", "B"),
    "ResNet-152": ("resnet152", "B"),
}
PAIRS = ("plain-18", "plain-34", "ResNet-18", "ResNet-34")  # of table 2 and figure 4
ENSEMBLE = ("ResNet-34 B", "ResNet-34 C", "ResNet-50", "ResNet-101", "ResNet-152")  # of table 4, for table 5


def on_imagenet(network: str) -> Setting:
    """A network trained as in section 3.4."""
    model, shortcut = NETWORKS[network]
    return Setting(model=model, recipe=paper_photos(), data="imagenet", changes={"shortcut": shortcut})


def on_tiny_imagenet(network: str) -> Setting:
    """The same network at a quarter of the size and length."""
    model, shortcut = NETWORKS[network]
    return Setting(model=model, recipe=paper_tiny(), data="tiny-imagenet", changes={"shortcut": shortcut}, size=SIDE)


# --- table 2 and figure 4: plain and residual networks of 18 and 34 layers ---------------------------------------

DEGRADATION = (
    Claim(text="34 plain layers are worse than 18", rising=("plain-18", "plain-34")),
    Claim(text="34 residual layers are better than 18", rising=("ResNet-34", "ResNet-18")),
    Claim(text="Shortcuts improve 34 layers", rising=("ResNet-34", "plain-34")),
)
"""What table 2 says."""

ENDS = {"training error": training_error, "validation error": test_error}
BEGINNING = "early training error"


def ends_of_curves(trained: Callable[[str], Setting], *, seeds: int) -> tuple[Row, ...]:
    """Of figure 4, which prints no numbers: the ends of its curves, and their beginnings."""
    return tuple(
        Row(name=f"{name}, {error}", unit=f"% {error}", settings=(trained(name),), measure=measure, seeds=seeds)
        for error, measure in (ENDS | {BEGINNING: early_training_error}).items()
        for name in PAIRS
    )


def curves_of_pairs(trained: Callable[[str], Setting]) -> tuple[Line, ...]:
    """The two panels of figure 4."""
    return tuple(
        Line(name=name, panel=f"{name.split('-')[0]} networks", setting=trained(name), of=curves) for name in PAIRS
    )


DEGRADATION_THROUGHOUT = (
    *(
        claim
        for error in ENDS
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
        rising=(f"ResNet-18, {BEGINNING}", f"plain-18, {BEGINNING}"),
    ),
)
"""What figure 4 says."""


# --- table 3: options of the shortcut, and depth -----------------------------------------------------------------


def options_and_depth(row: Callable[[str], str]) -> tuple[Claim, ...]:
    """What table 3 says.  row: the name of a network's row."""

    def claim(text: str, *networks: str) -> Claim:
        return Claim(text=text, rising=tuple(map(row, networks)))

    return (
        *(claim(f"Option {option} improves 34 layers", f"ResNet-34 {option}", "plain-34") for option in "ABC"),
        claim("Option B is better than A", "ResNet-34 B", "ResNet-34 A"),
        claim("Option C is better than B", "ResNet-34 C", "ResNet-34 B"),
        claim("50 layers are better than 34", "ResNet-50", "ResNet-34 C"),
        claim("Deeper is better", "ResNet-152", "ResNet-101", "ResNet-50", "ResNet-34 B"),
    )
