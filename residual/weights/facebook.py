"""Networks of facebookarchive/fb.resnet.torch, saved by Torch7: resnet-18.t7 to resnet-200.t7, and CIFAR's.

`facebook_layers` walks through the modules of the file; here they become our description and our tensors, and what has
no place in one of our networks is refused.  The released files are not quite what the published code makes: their
projections have no BN, their convolutions a bias, and ResNet-50 has each unit's last BN behind the addition.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from residual.data.transforms import Preprocessing
from residual.models.blocks import strides
from residual.models.description import PROJECTED, Description, Lead, Unit, units
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
from residual.weights.facebook_layers import Block, Kind, Layer, Net, network
from residual.weights.files import BadWeights
from residual.weights.imagenet import TORCHVISION, classes
from residual.weights.torch7 import TREE

NAME = "fb.resnet.torch"
SOURCE = "https://github.com/facebookarchive/fb.resnet.torch"
CIFAR = {  # mean and deviation of the training images, by the number of classes
    10: ((125.3, 123.0, 113.9), (63.0, 62.1, 66.7)),
    100: ((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
}
MAX_STAGES = 8
LEADS: dict[Lead, str] = {"own": "on F's side only", "shared": "ahead of both paths", "none": "before the unit"}


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the tensors of a .t7 file, whose modules are known."""
    return TREE in tensors


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card, from the modules and tensors of a .t7 file."""
    net = network(tensors[TREE])
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
    return made | rename_shortcut(block, description, unit, start, tensors)


def rename_shortcut(
    block: Block, description: Description, unit: Unit, start: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a unit's shortcut, if it has any."""
    fork, full = block.convolutions[0].place, description.order == "full"
    kinds = [layer.kind for layer in block.around]
    if description.shortcut in PROJECTED or (description.shortcut == "B" and not unit.same_shape):
        allowed: list[list[Kind]] = [["convolution"], ["convolution", "norm"]]
        wanted = allowed[:1] if full else allowed
    else:
        wanted = [[]] if unit.same_shape else [["average", "zeros"]]
    if kinds not in wanted:
        raise BadWeights(f"the shortcut beside its module {fork} is {kinds}, where a ResNet has {wanted[-1]}")
    made: dict[str, Tensor] = {}
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
