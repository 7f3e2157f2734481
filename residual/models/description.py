"""What a ResNet is, as frozen data: the same description builds the net, names the run and counts the cost.

No torch here, so that `residual models` answers in a blink.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Shortcut = Literal["A", "B", "C", "none", "constant", "exclusive", "shortcut-only", "conv", "dropout"]
Order = Literal["original", "bn-after-add", "relu-before-add", "relu-only", "full"]
Lead = Literal["own", "shared", "none"]

PRE_ACTIVATION: tuple[Order, ...] = ("relu-only", "full")
PROJECTED: tuple[Shortcut, ...] = ("C", "conv")  # around every block, whatever its shape
GATED: tuple[Shortcut, ...] = ("exclusive", "shortcut-only")


@dataclass(frozen=True, kw_only=True)
class Description:
    """One ResNet, told completely.  A plain net is `shortcut="none"`; vary one with `dataclasses.replace`.

    Shortcuts (section 3.3, and table 1 of "Identity Mappings in Deep Residual Networks"):

    A              identity; where the shape changes, every second pixel and zero channels after the real ones
    B              identity; where the shape changes, a 1x1 convolution
    C, conv        a 1x1 convolution around every block (C in the first paper, conv in the second)
    none           no shortcut: the plain net
    constant       `shortcut_scale` times option A, `residual_scale` times F
    exclusive      1 - g times option A, g times F, with g = sigmoid(1x1 convolution of x + `gate_bias`)
    shortcut-only  1 - g times option A, F untouched
    dropout        half of option A's outputs dropped, in training

    Orders: where BN and ReLU stand around the addition (figure 4 of "Identity Mappings").
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]  # blocks in each stage
    widths: tuple[int, ...]  # channels inside each stage's blocks; a bottleneck hands on four times that
    inner: float = 1.0  # a wide bottleneck's 3x3 has this many times `widths` channels
    stem: Literal["imagenet", "cifar"]  # 7x7 stride 2 and max-pooling, or 3x3 stride 1
    stem_width: int
    stem_bias: bool = False  # the released Caffe ResNet-50 has one
    stem_pool: Literal["padded", "ceil"] = "padded"  # one pixel of border, or none and a window over the edge (Caffe)
    shortcut: Shortcut = "B"
    order: Order = "original"
    stride_in: Literal["first", "middle"] = "first"  # of a bottleneck: first 1x1 (the paper), or 3x3 ("v1.5")
    dims: int = 2  # spatial axes: 1, 2 or 3
    channels: int = 3  # of the images
    classes: int = 1000
    image: int = 224  # side of the images it was designed for, pixels
    stochastic_depth: float = 0.0  # chance that a step drops the last block's F; grows linearly from 0
    dropout: float = 0.0  # between the two convolutions of a basic block, as in wide ResNets
    shortcut_scale: float = 1.0  # of shortcut="constant"
    residual_scale: float = 1.0  # of shortcut="constant"
    gate_bias: float = 0.0  # of the gated shortcuts
    checkpoint: bool = False  # recompute each block's activations in the backward pass: memory, not maths

    def __post_init__(self) -> None:
        choices = {
            "block": ("basic", "bottleneck"),
            "stem": ("imagenet", "cifar"),
            "stem_pool": ("padded", "ceil"),
            "shortcut": get_args(Shortcut),
            "order": get_args(Order),
            "stride_in": ("first", "middle"),
            "dims": (1, 2, 3),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"{field} is {value!r}; it must be one of: {', '.join(map(str, allowed))}")
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError(
                f"depths {self.depths} and widths {self.widths} must name the same stages, at least one; "
                "give one number of blocks and one width for each stage"
            )
        for field in ("depths", "widths", "stem_width", "channels", "classes", "image"):
            value = getattr(self, field)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ValueError(f"{field} is {value}; it counts things, so it must be at least 1")
        if self.inner * min(self.widths) < 1:
            raise ValueError(
                f"inner is {self.inner}, which leaves a bottleneck without channels; "
                "it multiplies `widths`: 1 is the paper's, 2 is wide"
            )
        for field in ("stochastic_depth", "dropout"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise ValueError(f"{field} is {value}; it is a probability, at least 0 and below 1")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        basic = self.block == "basic"
        if basic and self.inner != 1:
            raise ValueError(
                f"inner is {self.inner}, but only a bottleneck has an inner width; "
                "set inner=1 and widen basic blocks by `widths`"
            )
        if self.stem_pool == "ceil" and self.stem != "imagenet":
            raise ValueError(
                f'stem_pool="ceil" is Caffe\'s way of pooling, but stem {self.stem!r} does not pool; '
                'set stem_pool="padded" or stem="imagenet"'
            )
        if basic and self.stride_in == "middle":
            raise ValueError(
                'stride_in="middle" is the 3x3 of a bottleneck, and these blocks are basic: '
                'they stride in their first 3x3, so use stride_in="first"'
            )
        if self.dropout and not basic:
            raise ValueError(
                f"dropout is {self.dropout}, but it sits between the two convolutions of a basic block, "
                "and these are bottlenecks; set dropout=0"
            )
        channels = (self.stem_width, *self.outputs)
        if self.shortcut not in ("B", "none", *PROJECTED) and list(channels) != sorted(channels):
            raise ValueError(
                f"the channels go {' -> '.join(map(str, channels))}, but shortcut {self.shortcut!r} pads "
                "with zeros and cannot take any away; let the widths grow, or use shortcut B, which projects"
            )
        if self.stochastic_depth and self.shortcut in ("none", *GATED):
            raise ValueError(
                f"stochastic_depth is {self.stochastic_depth}, but a block that drops F must hand on x, "
                f"and shortcut {self.shortcut!r} cannot; set stochastic_depth=0 or use shortcut A, B or C"
            )
        if (self.shortcut_scale, self.residual_scale) != (1, 1) and self.shortcut != "constant":
            raise ValueError(
                f"shortcut_scale {self.shortcut_scale} and residual_scale {self.residual_scale} belong to "
                f'shortcut="constant", not to {self.shortcut!r}; set both to 1 or change the shortcut'
            )
        if self.gate_bias and self.shortcut not in GATED:
            raise ValueError(
                f"gate_bias is {self.gate_bias}, but shortcut {self.shortcut!r} has no gate; set it to 0, "
                f"or choose one of: {', '.join(GATED)}"
            )

    @property
    def draws(self) -> bool:
        """Whether a training step draws random numbers inside the network."""
        return bool(self.stochastic_depth or self.dropout or self.shortcut == "dropout")

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels that each stage hands on."""
        growth = 1 if self.block == "basic" else 4
        return tuple(growth * width for width in self.widths)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One block of a described net, with its place."""

    stage: int  # 0 is the first
    c_in: int
    inner: int  # channels of the convolutions inside a bottleneck; of a basic block, c_out
    c_out: int
    stride: int
    lead: Lead  # a pre-activation unit's first BN-ReLU: its own, shared by both paths, or already in the stem
    survival: float  # p_l, the probability that F is kept in a training step

    @property
    def same_shape(self) -> bool:
        return self.c_in == self.c_out and self.stride == 1


def units(description: Description) -> Iterator[Unit]:
    """Every block in order: what the net builds and what the cost counts."""
    c_in, number, total = description.stem_width, 0, sum(description.depths)
    for stage, (blocks, width, c_out) in enumerate(
        zip(description.depths, description.widths, description.outputs, strict=True)
    ):
        for index in range(blocks):
            number += 1
            stride = 2 if stage > 0 and index == 0 else 1
            changes = stride != 1 or c_in != c_out
            # "Identity Mappings", appendix: the first unit's activation comes before the paths split
            lead: Lead = "none" if number == 1 else "shared" if changes else "own"
            yield Unit(
                stage=stage,
                c_in=c_in,
                inner=int(width * description.inner),
                c_out=c_out,
                stride=stride,
                lead=lead if description.order in PRE_ACTIVATION else "none",
                survival=1 - number / total * description.stochastic_depth,
            )
            c_in = c_out
