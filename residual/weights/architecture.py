"""Which network do these tensors make, and do they belong to it?  Asked before a single one is copied into it.

Also what brings somebody's tensors to the network that we build: other people's convolutions have biases, their
norms another epsilon or no statistics.
"""

import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from residual.models.catalog import catalog
from residual.models.cost import parameters
from residual.models.description import Description, Order
from residual.models.resnet import ResNet
from residual.weights.files import BadWeights

Shape = tuple[int, ...]

EPSILON = 1e-5  # of our norms, which is PyTorch's, Torch7's and Caffe's


def expected(description: Description) -> dict[str, Tensor]:
    """The tensors the network has, by name, without storage."""
    with torch.device("meta"):
        return ResNet(description).state_dict()


def check_shapes(shapes: Mapping[str, Shape], description: Description) -> None:
    """Refuse what is not exactly the network's: another depth, width or number of classes."""
    blocks, numbers = sum(description.depths), sum(_count(shape) for shape in shapes.values())
    if blocks > len(shapes) or parameters(description) > numbers:
        raise BadWeights(
            f"a network of {blocks:,} blocks is described, but there are {numbers:,} numbers in "
            f"{len(shapes):,} tensors, too few: the weights are of another network, or some are missing"
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in expected(description).items()}
    described = f"the network of {description.depths} blocks and {description.widths} channels"
    for names, problem in (
        (shapes.keys() - wanted.keys(), f"{described} does not have"),
        (wanted.keys() - shapes.keys(), f"are missing from {described}"),
    ):
        if names:
            first = min(names)
            shape = shapes.get(first, wanted.get(first))
            raise BadWeights(
                f"{len(names)} tensors {problem}, the first is {first[:200]!r} {shape}; "
                "the weights are of another depth or another kind of network: residual weights inspect FILE"
            )
    different = sorted(name for name in wanted if shapes[name] != wanted[name])
    if different:
        name = different[0]
        raise BadWeights(
            f"{len(different)} tensors have another shape than in {described}, the first is {name!r}: "
            f"{shapes[name]} instead of {wanted[name]}; the weights are of another width or number of classes"
        )


def check_values(tensors: Mapping[str, Tensor], description: Description) -> None:
    """Refuse types the network does not have, numbers that are not finite, and variances below zero."""
    for name, wanted in expected(description).items():
        tensor = tensors[name]
        if tensor.dtype != wanted.dtype:
            raise BadWeights(f"{name!r} holds {tensor.dtype}, the network has {wanted.dtype}")
        if not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise BadWeights(
                f"{name!r} has {count} of {tensor.numel()} values that are not finite; the training that "
                "made these weights diverged, so take an earlier checkpoint"
            )
        if name.endswith("running_var") and (tensor < 0).any():
            raise BadWeights(f"{name!r} has a negative variance; the file is damaged")


def as_float32(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Floating tensors in float32, and the other types that were there."""
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()})
    converted = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return converted, [kind for kind in kinds if kind != "float32"]


# --- from tensors to a description ----------------------------------------------------------------------------


def describe(
    shapes: Mapping[str, Shape],
    *,
    stride_in: Literal["first", "middle"] = "middle",
    stem_pool: Literal["padded", "ceil"] = "padded",
    order: Order = "original",
) -> Description:
    """The network with option B whose tensors (by our names) have these shapes.

    What shapes cannot tell is an argument: where a bottleneck strides (asked of bottlenecks only), how the stem
    pools, the order.  Refuses what no such network has; `check_shapes` then compares every shape.
    """
    blocks = [set[int]() for _ in range(1 + max((place[0] for place in map(_place, shapes) if place), default=0))]
    for place in map(_place, shapes):
        if place:
            blocks[place[0]].add(place[1])
    depths = tuple(len(found) for found in blocks)
    if any(found != set(range(len(found))) or not found for found in blocks):
        raise BadWeights(f"its stages have {depths} blocks, but they are not numbered from 0 without a gap")
    stem, classifier = _sides(shapes, "stem.conv.weight", 4), _sides(shapes, "classifier.weight", 2)
    if stem[2:] not in ((7, 7), (3, 3)):
        raise BadWeights(f"its first convolution is {stem[2]}x{stem[3]}; a ResNet's is 7x7, or 3x3 for small images")
    large, bottleneck = stem[2] == 7, "stages.0.0.conv3.weight" in shapes
    middle = [_sides(shapes, f"stages.{stage}.0.conv2.weight", 4)[0] for stage in range(len(depths))]
    if bottleneck:
        out = [_sides(shapes, f"stages.{stage}.0.conv3.weight", 4)[0] for stage in range(len(depths))]
        if any(side % 4 for side in out):
            raise BadWeights(f"its stages hand on {out} channels; a bottleneck hands on a multiple of four")
        widths, inner = tuple(side // 4 for side in out), middle[0] / (out[0] // 4)
    else:
        widths, inner = tuple(middle), 1.0
    return Description(
        block="bottleneck" if bottleneck else "basic",
        depths=depths,
        widths=widths,
        inner=inner,
        stem="imagenet" if large else "cifar",
        stem_width=stem[0],
        stem_bias="stem.conv.bias" in shapes,
        stem_pool=stem_pool if large else "padded",
        order=order,
        stride_in=stride_in if bottleneck else "first",
        channels=stem[1],
        classes=classifier[0],
        image=224 if large else 32,
    )


def catalog_name(description: Description) -> str:
    """What the network is called: as in the catalog, or by the layers it has."""
    plain = replace(
        description, classes=1000, channels=3, stem_pool="padded", stem_bias=False, order="original", image=224
    )
    for name, known in catalog.items():
        if plain == known:
            return name
    per_block = 2 if description.block == "basic" else 3
    return f"resnet{2 + per_block * sum(description.depths)}"


def _place(name: str) -> tuple[int, int] | None:
    """Stage and block of a tensor."""
    if found := re.match(r"stages\.(\d{1,4})\.(\d{1,4})\.", name, re.ASCII):
        return int(found[1]), int(found[2])
    return None


def _sides(shapes: Mapping[str, Shape], name: str, axes: int) -> Shape:
    shape = shapes.get(name)
    if shape is None or len(shape) != axes or 0 in shape:
        found = "is missing" if shape is None else f"has shape {shape}"
        raise BadWeights(f"{name!r} (by our names) {found}; a ResNet for images has one of {axes} axes")
    return shape


# --- to the network that we build -----------------------------------------------------------------------------


def renamed(tensors: Mapping[str, Tensor], ours: Callable[[str], str | None], whose: str) -> dict[str, Tensor]:
    """The tensors by our names; refuses one for which `ours` knows none, and two that would get the same.

    whose: what they are said not to be, as in "torchvision's ResNets".
    """
    names = {name: ours(name) for name in tensors}
    unknown = [name for name, known in names.items() if known is None]
    if unknown:
        raise BadWeights(
            f"{len(unknown)} tensors are not of {whose}, the first is "
            f"{unknown[0][:200]!r} {tuple(tensors[unknown[0]].shape)}; only those are converted"
        )
    made = {known: tensors[name] for name, known in names.items() if known is not None}
    if len(made) < len(tensors):
        raise BadWeights(f"two of its tensors have the same place in {whose}; the file is damaged or made up")
    return made


def fold_bias(tensors: MutableMapping[str, Tensor], conv: str, norm: str) -> None:
    """Take a convolution's bias away, and as much from the mean that the norm behind it subtracts: the same network."""
    bias, mean = tensors.pop(f"{conv}.bias"), tensors[f"{norm}.running_mean"]
    if bias.shape != mean.shape:
        raise BadWeights(f"{conv!r} has {bias.numel():,} biases, the norm behind it {mean.numel():,} means")
    tensors[f"{norm}.running_mean"] = (mean.double() - bias.double()).to(mean.dtype)


def fold_epsilon(tensors: MutableMapping[str, Tensor], norm: str, epsilon: float) -> None:
    """Bring a norm to our epsilon: what it adds to the variance goes into the variance."""
    variance = tensors[f"{norm}.running_var"]
    tensors[f"{norm}.running_var"] = (variance.double() + (epsilon - EPSILON)).to(variance.dtype)


def fixed_norm(scale: Tensor, shift: Tensor) -> dict[str, Tensor]:
    """The norm that multiplies and adds, and has no statistics: mean 0, and a variance that with epsilon is 1."""
    variance = torch.full_like(scale, 1 - EPSILON)
    return {"weight": scale, "bias": shift, "running_mean": torch.zeros_like(scale), "running_var": variance}


def count_batches(tensors: MutableMapping[str, Tensor]) -> None:
    """Give every norm its number of batches, 0, where there is none: only PyTorch since 0.4.1 counts."""
    for name in [name for name in tensors if name.endswith(".running_mean")]:
        tensors.setdefault(f"{name.removesuffix('running_mean')}num_batches_tracked", torch.tensor(0))


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _count(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
