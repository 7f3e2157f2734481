"""What a described network costs, by arithmetic: layers, parameters and multiply-adds, stage by stage.

Multiply-adds (MACs) count convolutions and the classifier, for one image; BN, ReLU, pooling and additions are
left out, as in the paper's table 1.  No torch here.
"""

from dataclasses import dataclass

from residual.models.description import GATED, PROJECTED, Description, Unit, units


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One row of a network's table."""

    name: str
    side: int  # of its output, pixels
    blocks: int
    channels: int  # of its output
    parameters: int
    macs: int


def parameters(description: Description) -> int:
    """Numbers that are learned: weights, biases, and BN's gamma and beta (not its running statistics)."""
    return sum(stage.parameters for stage in stages(description))


def macs(description: Description, image: int | None = None) -> int:
    """Multiply-adds for one image of `image` pixels a side, or of the side the network was designed for."""
    return sum(stage.macs for stage in stages(description, image))


def stages(description: Description, image: int | None = None) -> list[Stage]:
    """A row for the stem, for each stage and for the classifier; the columns add up to the whole."""
    side = description.image if image is None else image
    if side < 1:
        raise ValueError(f"the image is {side} pixels wide; it must be at least 1")
    dims, width = description.dims, description.stem_width
    large = description.stem == "imagenet"
    weights = description.channels * width * (7 if large else 3) ** dims
    side = half(side) if large else side
    stem_macs = weights * side**dims
    if large:  # max-pooling
        side = side // 2 if description.stem_pool == "ceil" else half(side)
    if not side:
        raise ValueError("the image is too small for this network: pooling without a border leaves no pixel of it")
    rows = [
        Stage(
            name="stem",
            side=side,
            blocks=0,
            channels=width,
            parameters=weights + width * description.stem_bias + 2 * width,
            macs=stem_macs,
        )
    ]
    for number, (blocks, channels) in enumerate(zip(description.depths, description.outputs, strict=True)):
        learned = multiplied = 0
        for unit in units(description):
            if unit.stage != number:
                continue
            unit_parameters, unit_macs = block(description, unit, side)
            learned, multiplied = learned + unit_parameters, multiplied + unit_macs
            side = half(side) if unit.stride == 2 else side
        rows.append(
            Stage(
                name=f"stage {number + 1}",
                side=side,
                blocks=blocks,
                channels=channels,
                parameters=learned,
                macs=multiplied,
            )
        )
    features, classes = description.outputs[-1], description.classes
    final_norm = 2 * features if description.order == "full" else 0
    rows.append(
        Stage(
            name="classifier",
            side=1,
            blocks=0,
            channels=classes,
            parameters=final_norm + features * classes + classes,
            macs=features * classes,
        )
    )
    return rows


def block(description: Description, unit: Unit, side: int) -> tuple[int, int]:
    """Parameters and MACs of one unit whose input is `side` pixels wide."""
    dims = description.dims
    before, after = side**dims, (half(side) if unit.stride == 2 else side) ** dims
    c_in, inner, c_out = unit.c_in, unit.inner, unit.c_out
    if description.block == "basic":
        convolutions = [(c_in * c_out * 3**dims, after), (c_out * c_out * 3**dims, after)]
        norms = [c_out, c_out]
    else:
        first = after if description.stride_in == "first" else before
        convolutions = [(c_in * inner, first), (inner * inner * 3**dims, after), (inner * c_out, after)]
        norms = [inner, inner, c_out]
    if description.order == "full":  # BN stands before each convolution, and the stem holds the net's first
        norms = [0 if unit.lead == "none" else c_in, *norms[:-1]]
    projected = description.shortcut in PROJECTED or (description.shortcut == "B" and not unit.same_shape)
    if projected:
        convolutions.append((c_in * c_out, after))
        norms.append(0 if description.order == "full" else c_out)
    gate_bias = 0
    if description.shortcut in GATED:
        convolutions.append((c_in * c_out, after))
        gate_bias = c_out
    learned = sum(weights for weights, _ in convolutions) + 2 * sum(norms) + gate_bias
    return learned, sum(weights * positions for weights, positions in convolutions)


def layers(description: Description) -> int:
    """Weighted layers on the main path, as the paper counts: convolutions and the classifier, not projections."""
    return (2 if description.block == "basic" else 3) * sum(description.depths) + 2


def half(side: int) -> int:
    """The side after a stride of 2, with the padding that every layer here has."""
    return (side + 1) // 2
