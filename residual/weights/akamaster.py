"""Weights of akamaster/pytorch_resnet_cifar10, the best-known CIFAR-10 reproduction of section 4.2.

Its option A puts half of the zero channels before the real ones and half behind; ours, like fb.resnet.torch,
puts all behind.  So from the second stage on our channels are theirs in another order, and every tensor that
touches the sum is permuted: then both networks compute the same.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from residual.data.transforms import Preprocessing
from residual.models.catalog import cifar
from residual.models.description import Description
from residual.weights.architecture import check_shapes, count_batches, renamed, shapes_of
from residual.weights.card import Card
from residual.weights.files import BadWeights

NAME = "akamaster"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPROCESSING = Preprocessing(
    size=32,
    mean=tuple(255 * mean for mean in (0.485, 0.456, 0.406)),
    std=tuple(255 * std for std in (0.229, 0.224, 0.225)),
)
SOURCE = "https://github.com/akamaster/pytorch_resnet_cifar10"

FIELD = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
NAMES = (  # theirs -> ours
    (r"conv1\.weight", r"stem.conv.weight"),
    (rf"bn1\.{FIELD}", r"stem.norm.\1"),
    (r"layer1\.(\d+)\.conv([12])\.weight", r"stages.0.\1.conv\2.weight"),
    (r"layer2\.(\d+)\.conv([12])\.weight", r"stages.1.\1.conv\2.weight"),
    (r"layer3\.(\d+)\.conv([12])\.weight", r"stages.2.\1.conv\2.weight"),
    (rf"layer1\.(\d+)\.bn([12])\.{FIELD}", r"stages.0.\1.norm\2.\3"),
    (rf"layer2\.(\d+)\.bn([12])\.{FIELD}", r"stages.1.\1.norm\2.\3"),
    (rf"layer3\.(\d+)\.bn([12])\.{FIELD}", r"stages.2.\1.norm\2.\3"),
    (r"linear\.(weight|bias)", r"classifier.\1"),
)


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the names of an akamaster network (without the "module." of nn.DataParallel)."""
    return {"conv1.weight", "layer1.0.conv1.weight", "layer3.0.bn2.weight", "linear.weight"} <= tensors.keys()


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card from theirs; the depth is counted from the names."""
    made = renamed(tensors, ours, "an akamaster network with option A, of its published CIFAR networks")
    description = describe(made)
    count_batches(made)  # PyTorch 0.4.0 did not count
    check_shapes(shapes_of(made), description)
    count = description.classes
    classes = CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count))
    card = Card(
        name=f"resnet{6 * description.depths[0] + 2}",
        model=description,
        classes=classes,
        preprocessing=PREPROCESSING,
        history={"layout": NAME, "source": SOURCE},
    )
    return reorder(made, description.widths), card


def ours(name: str) -> str | None:
    """Our name for one of theirs; None if it is none of theirs."""
    for theirs, here in NAMES:
        if found := re.fullmatch(theirs, name, re.ASCII):
            return found.expand(here)
    return None


def describe(names: Mapping[str, Tensor]) -> Description:
    """The network whose tensors (under our names) these are."""
    places = {tuple(name.split(".")[1:3]) for name in names if name.startswith("stages.")}
    blocks = [sum(stage == place[0] for place in places) for stage in "012"]
    if len(set(blocks)) != 1 or not blocks[0] or "classifier.weight" not in names:
        raise BadWeights(
            f"its three stages have {blocks} blocks; a CIFAR network has 6n + 2 layers (section 4.2), n blocks in each"
        )
    classes = names["classifier.weight"]
    return replace(cifar(6 * blocks[0] + 2), classes=len(classes) if classes.ndim else 1)


def channel_orders(widths: tuple[int, ...]) -> list[Tensor]:
    """For every stage, which of their channels is each of ours.

    Theirs: c_in channels in the middle of c_out, zeros on both sides.  Ours: c_in channels, then the zeros.
    """
    orders = [torch.arange(widths[0])]
    for c_in, c_out in pairwise(widths):
        before = (c_out - c_in) // 2
        real = orders[-1] + before
        zeros = torch.tensor([c for c in range(c_out) if not before <= c < before + c_in])
        orders.append(torch.cat([real, zeros]))
    return orders


def reorder(tensors: Mapping[str, Tensor], widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Their channels in our order: rows of what writes to a stage's sum, columns of what reads from it."""
    orders = channel_orders(widths)
    made = {}
    for name, tensor in tensors.items():
        match name.split("."):
            case ["stages", stage, block, "conv1", _]:
                made[name] = tensor[:, orders[int(stage) - (block == "0" and stage != "0")]]
            case ["stages", stage, _, "conv2" | "norm2", _] if tensor.ndim:
                made[name] = tensor[orders[int(stage)]]
            case ["classifier", "weight"]:
                made[name] = tensor[:, orders[-1]]
            case _:
                made[name] = tensor
    return made
