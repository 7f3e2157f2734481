"""Table 1: the networks for ImageNet and what they cost, with the parameters of table 6.  Computed, nothing is trained.

The paper prints 1.8, 3.6, 3.8, 7.6 and 11.3 billion multiply-adds.  Convolutions and classifier alone make
1.81, 3.66, 3.86, 7.57 and 11.28: neither rounding (3.7, 3.9) nor cutting off (7.5, 11.2) gives all five.  All five
follow if batch norm counts too, with two for each value (its normalisation, and its scale and shift, which are two
layers in the authors' networks), and the sum is cut off after one decimal.  That rule is our inference; the exact
counts stand beside it without batch norm.
"""

from collections.abc import Sequence
from math import floor
from pathlib import Path

from residual.models.catalog import describe, varied
from residual.models.cost import half, layers, macs, parameters, stages
from residual.models.description import PROJECTED, Description, units
from residual.reproduce.experiment import Claim, Experiment, Measure, Printed, Row

FLOPS, MILLIONS = "billion multiply-adds", "million parameters"
INFERRED = "counted by a rule that was inferred from the five FLOPs of this table, so this is no independent evidence"
ALIKE = "counted by a rule that was inferred from the five FLOPs of this table, among them that of ResNet-34, its like"
IMAGENET = {18: 1.8, 34: 3.6, 50: 3.8, 101: 7.6, 152: 11.3}  # layers: FLOPS
SIZES = {"conv2_x": 56, "conv3_x": 28, "conv4_x": 14, "conv5_x": 7}  # pixels
CIFAR = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}  # layers: MILLIONS (table 6)
OTHERS = "a network of others, which is not among those here"
CITED = (
    ("VGG-16: FLOPs", FLOPS, 15.3),
    ("VGG-19: FLOPs", FLOPS, 19.6),
    ("FitNet, 19 layers: parameters", MILLIONS, 2.5),
    ("Highway, 19 layers: parameters", MILLIONS, 2.3),
    ("Highway, 32 layers: parameters", MILLIONS, 1.25),
)
COUNTED = {  # exactly, where the paper prints nothing
    **{f"plain-{depth}": describe(f"plain{depth}") for depth in (18, 34)},
    **{
        f"ResNet-{depth}, option {option}": varied(describe(f"resnet{depth}"), {"shortcut": option})
        for depth, options in {18: "ABC", 34: "ABC", 50: "BC", 101: "BC", 152: "BC"}.items()
        for option in options
    },
    "ResNet-50, stride in the 3x3": describe("resnet50_v1_5"),
    **{f"ResNet-{depth}, CIFAR": describe(f"resnet{depth}") for depth in CIFAR},
}


def normalised(network: Description) -> int:
    """Values that batch norm passes on for one image."""
    side = half(network.image)
    count = network.stem_width * side**2
    side = half(side)  # max-pooling
    for unit in units(network):
        before, side = side, half(side) if unit.stride == 2 else side
        if network.block == "basic":
            count += 2 * unit.c_out * side**2
        else:
            first = side if network.stride_in == "first" else before
            count += unit.inner * first**2 + (unit.inner + unit.c_out) * side**2
        if network.shortcut in PROJECTED or (network.shortcut == "B" and not unit.same_shape):
            count += unit.c_out * side**2
    return count


def as_printed(network: Description) -> float:
    """Billion multiply-adds by the rule above, cut off after one decimal."""
    return floor((macs(network) + 2 * normalised(network)) / 1e8) / 10


def computed(value: float) -> Measure:
    """A number that needs no training, as a measure."""

    def measure(runs: Sequence[Path]) -> float:
        return value

    return measure


def exact(
    name: str, unit: str, ours: float, printed: float | None = None, *, planted: bool = False, note: str = ""
) -> Row:
    """A computed row, beside the paper's digits where it prints any."""
    paper = None if printed is None else Printed(value=printed, kind="exact")
    return Row(name=name, unit=unit, paper=paper, measure=computed(ours), planted=planted, note=note)


experiment = Experiment(
    name="table1",
    title="Architectures for ImageNet, their multiply-adds, and the parameters of the CIFAR networks",
    source="table 1, sections 3.3 and 4.1, table 6 (# params) of arXiv 1512.03385",
    claim="Depth is cheap: 152 layers take fewer multiply-adds than the 16 of VGG, and shortcuts cost next to nothing.",
    rows=(
        *(exact(f"ResNet-{n}: layers", "layers", layers(describe(f"resnet{n}")), n) for n in IMAGENET),
        *(
            exact(f"{name}: output", "pixels", stage.side, side)
            for (name, side), stage in zip(SIZES.items(), stages(describe("resnet50"))[1:-1], strict=True)
        ),
        *(
            exact(f"ResNet-{n}: FLOPs", FLOPS, as_printed(describe(f"resnet{n}")), IMAGENET[n], note=INFERRED)
            for n in IMAGENET
        ),
        exact("plain-34: FLOPs", FLOPS, as_printed(describe("plain34")), 3.6, note=ALIKE),
        exact(
            "ResNet-50 with the wrong stride, in the 3x3: FLOPs",
            FLOPS,
            as_printed(describe("resnet50_v1_5")),
            IMAGENET[50],
            planted=True,
        ),
        *(
            Row(name=name, unit=unit, paper=Printed(value=printed, kind="exact"), note=OTHERS)
            for name, unit, printed in CITED
        ),
        exact(
            "projections that option C adds to ResNet-34",
            "projections",
            sum(unit.same_shape for unit in units(describe("resnet34"))),
            13,
        ),
        exact("ResNet-101: convolutions up to conv4_x", "layers", 1 + 3 * sum(describe("resnet101").depths[:3]), 91),
        *(
            exact(f"ResNet-{n}: parameters", MILLIONS, parameters(describe(f"resnet{n}")) / 1e6, CIFAR[n])
            for n in CIFAR
        ),
        *(exact(f"{name}: exact parameters", "parameters", parameters(net)) for name, net in COUNTED.items()),
        *(exact(f"{name}: exact multiply-adds", "multiply-adds", macs(net)) for name, net in COUNTED.items()),
    ),
    claims=(
        Claim(text="Deeper networks cost more", rising=tuple(f"ResNet-{n}: FLOPs" for n in IMAGENET)),
        Claim(
            text="Options A, B and C cost ever more",
            rising=tuple(f"ResNet-34, option {option}: exact multiply-adds" for option in "ABC"),
        ),
    ),
)
