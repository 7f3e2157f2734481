"""Networks of facebookarchive/fb.resnet.torch, saved by Torch7: resnet-18.t7 to resnet-200.t7, and CIFAR's.

A file holds the network itself, module by module, so nothing is guessed: we walk through the modules in the order
of the computation, and refuse any that has no place in one of our networks.  The released files are not quite what
the published code makes: their projections have no BN, their convolutions a bias, and ResNet-50 has each unit's
last BN behind the addition.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import msgspec
import torch
from torch import Tensor

from residual.data.transforms import Preprocessing
from residual.models.blocks import strides
from residual.models.description import PROJECTED, Description, Lead, Order, Unit, units
from residual.weights import akamaster
from residual.weights.architecture import (
    EPSILON,
    catalog_name,
    check_shapes,
    count_batches,
    fixed_norm,
    fold_bias,
    shapes_of,
)
from residual.weights.card import MAX_SIDE, Card
from residual.weights.files import BadWeights
from residual.weights.imagenet import TORCHVISION, classes
from residual.weights.torch7 import MAX_LEVELS, MAX_MODULES, TREE

NAME = "fb.resnet.torch"
SOURCE = "https://github.com/facebookarchive/fb.resnet.torch"
CIFAR = {  # mean and deviation of the training images, by the number of classes
    10: ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    100: ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}

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
MAX_STAGES = 8
NO_CHANGE = ("Identity", "Copy")
LEADS: dict[Lead, str] = {"own": "on F's side only", "shared": "ahead of both paths", "none": "before the unit"}


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


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the tensors of a .t7 file, whose modules are known."""
    return TREE in tensors


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card, from the modules and tensors of a .t7 file."""
    net = parse(layers(modules(tensors[TREE])))
    description = describe(net, tensors)
    made = rename(net, description, tensors)
    count_batches(made)
    check_shapes(shapes_of(made), description)
    small = description.stem == "cifar" and description.classes == 10
    card = Card(
        name=("pre" if description.order == "full" else "") + catalog_name(description),
        model=description,
        classes=akamaster.CLASSES if small else classes(description.classes),
        preprocessing=preprocessing(description),
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": "the file tells neither preprocessing nor classes; they are taken to be fb.resnet.torch's",
        },
    )
    return made, card


def preprocessing(description: Description) -> Preprocessing:
    """As fb.resnet.torch prepares the images of ImageNet and of CIFAR."""
    if description.stem == "imagenet":
        resize = round(description.image * 256 / 224)
        return replace(TORCHVISION, size=description.image, resize=resize, interpolation="bicubic")  # Scale's default
    mean, std = CIFAR.get(description.classes, CIFAR[10])
    return Preprocessing(size=description.image, mean=mean, std=std)


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


# --- from a residual network to ours ------------------------------------------------------------------------


def describe(net: Net, tensors: Mapping[str, Tensor]) -> Description:
    """Our description of a network of theirs; `rename` then compares every unit with it."""
    basic = len(net.blocks[0].convolutions) == 2
    depths: list[int] = []
    widths: list[int] = []
    projected = False  # where the shape does not change
    c_in, stem_width = 0, len(kernel(net.convolution, tensors))
    for block in net.blocks:
        c_in, c_out = c_in or stem_width, len(kernel(block.convolutions[-1], tensors))
        width = c_out if basic else c_out // 4
        stride = max(layer.number("dW", 1) for layer in block.convolutions)
        if not depths or stride > 1 or width != widths[-1]:
            depths.append(0)
            widths.append(width)
        depths[-1] += 1
        projected |= bool(block.around) and stride == 1 and c_in == c_out
        c_in = c_out
    if len(depths) > MAX_STAGES:
        raise BadWeights(f"it has {len(depths)} stages; at most {MAX_STAGES}")
    kinds = {layer.kind for block in net.blocks for layer in block.around}
    first = [block.convolutions[0].number("dW", 1) for block in net.blocks]
    side = net.average.number("kW") * 2 ** (len(depths) - 1) * (4 if net.pool else 1)
    if not 1 <= side <= MAX_SIDE:
        raise BadWeights(f"its last pooling is over {net.average.number('kW')} pixels, so images would have {side}")
    return Description(
        block="basic" if basic else "bottleneck",
        depths=tuple(depths),
        widths=tuple(widths),
        inner=1.0 if basic else len(kernel(net.blocks[0].convolutions[1], tensors)) / max(widths[0], 1),
        stem="imagenet" if net.pool else "cifar",
        stem_width=stem_width,
        stem_pool="ceil" if net.pool and net.pool.number("ceil_mode") else "padded",
        shortcut="A" if "zeros" in kinds else "C" if projected else "B",
        order=net.order,
        stride_in="first" if basic or max(first) > 1 else "middle",
        channels=kernel(net.convolution, tensors).shape[1],
        classes=len(numbers(net.linear, "weight", tensors)),
        image=int(side),
    )


def rename(net: Net, description: Description, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors under our names.  Refuses a unit that is not as described."""
    large = net.pool is not None
    made = convolution(net.convolution, "stem.conv", 7 if large else 3, 2 if large else 1, tensors)
    made |= norm(net.norm, "stem.norm", tensors)
    fold(made, "stem.conv", "stem.norm")
    if net.pool:
        edge = 0 if description.stem_pool == "ceil" else 1
        check_window(net.pool, (3, 3, 2, 2, edge, edge))
    width, height, _, _, *border = net.average.window()
    if width != height or any(border):
        raise BadWeights(f"its last pooling, module {net.average.place}, is not over a square without border")
    wanted = list(units(description))
    assert len(wanted) == len(net.blocks), "described from them"
    number = 0
    for place, (unit, block) in enumerate(zip(wanted, net.blocks, strict=True)):
        number = number + 1 if place and unit.stage == wanted[place - 1].stage else 0
        made |= rename_block(block, description, unit, f"stages.{unit.stage}.{number}.", tensors)
    if net.last_norm:
        made |= norm(net.last_norm, "norm", tensors)
    made["classifier.weight"] = numbers(net.linear, "weight", tensors)
    made["classifier.bias"] = torch.zeros(description.classes)
    if f"{net.linear.place}.bias" in tensors:
        made["classifier.bias"] = numbers(net.linear, "bias", tensors)
    return made


def rename_block(
    block: Block, description: Description, unit: Unit, start: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """One unit's tensors under our names, which begin with `start`."""
    fork = block.convolutions[0].place
    if block.lead != unit.lead:
        raise BadWeights(
            f"around its module {fork} the first BN and ReLU are {LEADS[block.lead]}, where a pre-activation unit "
            f'of "Identity Mappings" has them {LEADS[unit.lead]}; an earlier version of fb.resnet.torch was like that'
        )
    made: dict[str, Tensor] = {}
    if description.block == "basic":
        shapes = [(3, unit.stride), (3, 1)]
    else:
        first, middle = strides(description, unit)
        shapes = [(1, first), (3, middle), (1, 1)]
    full = description.order == "full"
    skipped = full and unit.lead == "none"  # then our first norm is not there
    for place, layer in enumerate(block.norms, 2 if skipped else 1):
        made |= norm(layer, f"{start}norm{place}", tensors)
    for place, (layer, (side, stride)) in enumerate(zip(block.convolutions, shapes, strict=True), 1):
        made |= convolution(layer, f"{start}conv{place}", side, stride, tensors)
        fold(made, f"{start}conv{place}", f"{start}norm{place + full}")
    kinds = [layer.kind for layer in block.around]
    if description.shortcut in PROJECTED or (description.shortcut == "B" and not unit.same_shape):
        allowed: list[list[Kind]] = [["convolution"], ["convolution", "norm"]]
        wanted = allowed[:1] if full else allowed
    else:
        wanted = [[]] if unit.same_shape else [["average", "zeros"]]
    if kinds not in wanted:
        raise BadWeights(f"the shortcut beside its module {fork} is {kinds}, where a ResNet has {wanted[-1]}")
    if "average" in kinds:
        check_window(block.around[0], (1, 1, unit.stride, unit.stride, 0, 0))
        if unit.c_out != 2 * unit.c_in:
            raise BadWeights(f"its module {block.around[1].place} doubles {unit.c_in} channels to {unit.c_out}")
    if "convolution" in kinds:
        made |= convolution(block.around[0], f"{start}shortcut.conv", 1, unit.stride, tensors)
        if "norm" in kinds:
            made |= norm(block.around[1], f"{start}shortcut.norm", tensors)
        elif not full:  # as in the released files
            shift = made.pop(f"{start}shortcut.conv.bias", torch.zeros(unit.c_out))
            still = fixed_norm(torch.ones(unit.c_out), shift)
            made |= {f"{start}shortcut.norm.{name}": tensor for name, tensor in still.items()}
        fold(made, f"{start}shortcut.conv", f"{start}shortcut.norm")
    return made


def convolution(layer: Layer, name: str, side: int, stride: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Its tensors, of a square kernel that keeps the extent at stride 1, without groups."""
    check_window(layer, (side, side, stride, stride, side // 2, side // 2))
    if layer.number("groups", 1) != 1:
        raise BadWeights(f"its module {layer.place} is a convolution in groups, which none of our networks has")
    made = {f"{name}.weight": kernel(layer, tensors)}
    if f"{layer.place}.bias" in tensors:
        made[f"{name}.bias"] = numbers(layer, "bias", tensors)
    return made


def kernel(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """A convolution's weights (c_out, c_in, side, side), which some versions kept as a matrix or with a group axis."""
    weight = numbers(layer, "weight", tensors)
    if weight.ndim == 5 and len(weight) == 1:
        weight = weight[0]
    side = int(layer.number("kW"))
    if weight.ndim == 2 and side > 0 and weight.shape[1] % side**2 == 0:
        weight = weight.reshape(len(weight), -1, side, side)
    if weight.ndim != 4 or not weight.numel():
        raise BadWeights(f"the weights of its convolution {layer.place} have shape {tuple(weight.shape)}")
    return weight


def norm(layer: Layer, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A norm's tensors, with our epsilon.  Files from before 2016 keep 1 / sqrt(variance + epsilon)."""
    mean = numbers(layer, "running_mean", tensors)
    if f"{layer.place}.running_var" in tensors:
        spread = numbers(layer, "running_var", tensors).double() + layer.number("eps", EPSILON)
    else:
        spread = numbers(layer, "running_std", tensors).double() ** -2
    if (spread <= 0).any():
        raise BadWeights(f"its norm {layer.place} has a negative variance; the file is damaged")
    variance = (spread - EPSILON).clamp(min=0)
    affine = f"{layer.place}.weight" in tensors
    weight = numbers(layer, "weight", tensors) if affine else torch.ones_like(mean)
    bias = numbers(layer, "bias", tensors) if affine else torch.zeros_like(mean)
    if len({len(mean), len(spread), len(weight), len(bias)}) != 1:
        raise BadWeights(f"the tensors of its norm {layer.place} are not of one length")
    return {
        f"{name}.weight": (weight * ((variance + EPSILON) / spread).sqrt()).float(),  # by 1, but for clamped ones
        f"{name}.bias": bias,
        f"{name}.running_mean": mean,
        f"{name}.running_var": variance.float(),
    }


def fold(made: dict[str, Tensor], conv: str, norm: str) -> None:
    """A convolution's bias goes into the norm behind it; without one it must be zero."""
    if f"{conv}.bias" not in made:
        return
    if f"{norm}.running_mean" in made:
        fold_bias(made, conv, norm)
    elif made.pop(f"{conv}.bias").any():
        raise BadWeights(f"the convolution that we call {conv!r} has a bias and no norm behind it, which ours have not")


def numbers(layer: Layer, name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A module's tensor in float32: a vector, a matrix, or a kernel."""
    tensor = tensors.get(f"{layer.place}.{name}")
    if tensor is None or not tensor.ndim:
        raise BadWeights(f"its module {layer.place}, a {layer.kind}, has no tensor {name!r}")
    if not tensor.is_floating_point():
        raise BadWeights(f"{name!r} of its module {layer.place} holds {tensor.dtype}, not fractions")
    return tensor.float()


def check_window(layer: Layer, wanted: tuple[float, ...]) -> None:
    """Refuse another kernel, stride or padding than a ResNet has here."""
    if layer.window() != wanted:
        raise BadWeights(
            f"its module {layer.place}, a {layer.kind}, has kernel, stride and padding {layer.window()} (each across "
            f"and down), where a ResNet has {wanted}"
        )
