"""Do these tensors belong to that network?  Asked before a single one is copied into it."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from residual.models.cost import parameters
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.weights.pickles import BadWeights

Shape = tuple[int, ...]


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


def _count(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
