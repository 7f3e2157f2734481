"""What a network of fb.resnet.torch computes: its modules in the order of the computation, each in its place.

A file holds the network itself, module by module, so nothing is guessed: we walk through the modules from first to
last, and refuse any that has no place in a residual network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec
from torch import Tensor

from residual.models.description import Lead, Order
from residual.weights.files import BadWeights
from residual.weights.torch7 import MAX_LEVELS, MAX_MODULES, TREE

Modules: TypeAlias = Mapping[str, Mapping[str, str | float]]
Kind = Literal[
    "convolution", "norm", "relu", "maximum", "average", "fork", "addition", "zeros", "view", "linear", "softmax"
]
KINDS: dict[str, Kind] = {  # by class, of nn, cudnn or fbnn
    "SpatialConvolution": "convolution",
    "SpatialConvolutionMM": "convolution",
    "SpatialBatchNormalization": "norm",
    "ReLU": "relu",
    "SpatialMaxPooling": "maximum",
    "SpatialAveragePooling": "average",
    "CAddTable": "addition",
    "View": "view",
    "Reshape": "view",
    "Linear": "linear",
    "SoftMax": "softmax",
    "LogSoftMax": "softmax",
}
NO_CHANGE = ("Identity", "Copy")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that computes something, or a part of the network where it forks."""

    kind: Kind
    place: str  # in the file, "5.2.1.3"
    settings: Mapping[str, str | float]
    paths: "tuple[tuple[Layer, ...], ...]" = ()

    def number(self, name: str, otherwise: float = 0) -> float:
        value = self.settings.get(name, otherwise)
        return otherwise if isinstance(value, str) else value

    def window(self) -> tuple[float, ...]:
        """Kernel, stride and padding of a convolution or pooling, horizontal and vertical."""
        padding = self.number("padding")
        found = [self.number("kW"), self.number("kH"), self.number("dW", 1), self.number("dH", 1)]
        return (*found, self.number("padW", padding), self.number("padH", padding))


@dataclass(frozen=True, kw_only=True)
class Block:
    """One of their residual units."""

    lead: Lead  # as in our `Unit`
    convolutions: list[Layer]
    norms: list[Layer]  # of the lead, and behind the convolutions; the last may stand behind the addition
    around: tuple[Layer, ...]  # the shortcut


@dataclass(frozen=True, kw_only=True)
class Net:
    """A residual network of theirs, its layers in their places."""

    convolution: Layer
    norm: Layer
    pool: Layer | None
    order: Order
    blocks: list[Block]
    last_norm: Layer | None
    average: Layer
    linear: Layer


def network(text: Tensor) -> Net:
    """The residual network that a .t7 file holds, from its modules as `torch7.read` wrote them."""
    return parse(layers(modules(text)))


# --- from modules to layers in order ------------------------------------------------------------------------


def modules(text: Tensor) -> Modules:
    """The modules by place, as `torch7.read` wrote them."""
    try:
        found = msgspec.json.decode(text.numpy().tobytes(), type=dict[str, dict[str, str | float]])
    except (ValueError, TypeError, RecursionError) as problem:
        raise BadWeights(f"its {TREE} cannot be read: {str(problem)[:200]}") from None
    if "" not in found:
        raise BadWeights(f"its {TREE} has no network")
    if len(found) > MAX_MODULES or any(place.count(".") >= MAX_LEVELS for place in found):
        raise BadWeights(f"its network has more than {MAX_MODULES:,} modules, or {MAX_LEVELS} within each other")
    return found


def layers(modules: Modules) -> tuple[Layer, ...]:
    """What the network computes, in order; containers and modules that change nothing are gone."""
    inner: dict[str, list[str]] = {place: [] for place in modules}
    for place in modules:
        if place:
            inner.setdefault(place.rpartition(".")[0], []).append(place)

    def within(place: str) -> tuple[Layer, ...]:
        settings = modules[place]
        name = str(settings.get("class")).rpartition(".")[2]
        if name == "Concat" and settings.get("dimension") == 2 and _adds_zeros([modules[p] for p in inner[place]]):
            return (Layer(kind="zeros", place=place, settings=settings),)
        paths = tuple(within(child) for child in inner[place])
        if name == "Sequential":
            return tuple(layer for path in paths for layer in path)
        if name in NO_CHANGE:
            return ()
        if name == "ConcatTable" and len(paths) == 2:
            return (Layer(kind="fork", place=place, settings=settings, paths=paths),)
        if name in KINDS:
            return (Layer(kind=KINDS[name], place=place, settings=settings),)
        raise BadWeights(
            f"its module {place or 'itself'} is of class {str(settings.get('class'))[:200]!r}, which has no place in "
            "the ResNets of fb.resnet.torch"
        )

    return within("")


def _adds_zeros(parts: list[Mapping[str, str | float]]) -> bool:
    """Whether what is put one behind the other is x and 0 times x."""
    names = [str(part.get("class")).rpartition(".")[2] for part in parts]
    return names == ["Identity", "MulConstant"] and parts[1].get("constant_scalar") == 0


# --- from layers to a residual network ----------------------------------------------------------------------


class Walk:
    """Through layers, from first to last."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers, self.at = layers, 0

    def ahead(self, *kinds: Kind) -> bool:
        """Whether the next layers are of these kinds."""
        return tuple(layer.kind for layer in self.layers[self.at : self.at + len(kinds)]) == kinds

    def take(self, kind: Kind) -> Layer:
        """The next layer, which must be of this kind."""
        if not self.ahead(kind):
            found = self.layers[self.at] if self.at < len(self.layers) else None
            where = f"its module {found.place} is a {found.kind}" if found else "its layers end"
            raise BadWeights(f"{where} where the ResNets of fb.resnet.torch have a {kind}")
        self.at += 1
        return self.layers[self.at - 1]

    def end(self) -> None:
        """There must be no further layer."""
        if self.at < len(self.layers):
            left = self.layers[self.at]
            raise BadWeights(
                f"its module {left.place} is a {left.kind} where the ResNets of fb.resnet.torch go no further"
            )


def parse(found: tuple[Layer, ...]) -> Net:
    """The layers of a network in their places."""
    walk, order = Walk(found), order_of(found)
    convolution, norm, _ = walk.take("convolution"), walk.take("norm"), walk.take("relu")
    pool = walk.take("maximum") if walk.ahead("maximum") else None
    blocks = [parse_block(walk, order)]
    while walk.ahead("fork") or walk.ahead("norm", "relu", "fork"):
        blocks.append(parse_block(walk, order))
    counts = {len(block.convolutions) for block in blocks}
    if counts not in ({2}, {3}):
        raise BadWeights(f"its residual units have {sorted(counts)} convolutions; ours have two each, or three each")
    last_norm = walk.take("norm") if order == "full" else None
    if last_norm:
        walk.take("relu")
    average, _, linear = walk.take("average"), walk.take("view"), walk.take("linear")
    if walk.ahead("softmax"):  # we hand on logits
        walk.take("softmax")
    walk.end()
    return Net(
        convolution=convolution,
        norm=norm,
        pool=pool,
        order=order,
        blocks=blocks,
        last_norm=last_norm,
        average=average,
        linear=linear,
    )


def order_of(found: tuple[Layer, ...]) -> Order:
    """Where BN stands: ahead of a convolution, behind the last one, or behind the addition."""
    residuals = [path for layer in found for path, _ in [two_paths(layer)] if path]
    if any(path[0].kind == "norm" for path in residuals):
        return "full"
    return "original" if all(path[-1].kind == "norm" for path in residuals) else "bn-after-add"


def two_paths(fork: Layer) -> tuple[tuple[Layer, ...], tuple[Layer, ...]]:
    """F and the shortcut: whichever has more convolutions is F."""
    if fork.kind != "fork":
        return (), ()
    one, other = fork.paths
    counts = [sum(layer.kind == "convolution" for layer in path) for path in (one, other)]
    return (one, other) if counts[0] >= counts[1] else (other, one)


def parse_block(walk: Walk, order: Order) -> Block:
    """The next residual unit."""
    lead: Lead = "none"
    norms = []
    if order == "full" and walk.ahead("norm", "relu"):
        lead = "shared"
        norms.append(walk.take("norm"))
        walk.take("relu")
    residual, around = two_paths(walk.take("fork"))
    path = Walk(residual)
    if lead == "none" and path.ahead("norm"):
        lead = "own"
        norms.append(path.take("norm"))
        path.take("relu")
    convolutions = [path.take("convolution")]
    while path.ahead("norm", "relu"):
        norms.append(path.take("norm"))
        path.take("relu")
        convolutions.append(path.take("convolution"))
    if order == "original":
        norms.append(path.take("norm"))
    path.end()
    walk.take("addition")
    if order == "bn-after-add":
        norms.append(walk.take("norm"))
    if order != "full":
        walk.take("relu")
    return Block(lead=lead, convolutions=convolutions, norms=norms, around=around)
