"""The ResNets of keras-applications, versions 1 only: ResNet50, ResNet101 and ResNet152 as .h5 files.

They are the authors' Caffe networks in other clothes: BGR images of 0..255 less one mean for each channel, stride in
the first 1x1 of a bottleneck.  Their own are a bias in every convolution, another epsilon, and a pool that sees zeros
at the border, which is ours, for what it pools is never negative.  Kernels are (height, width, in, out).

Source: https://github.com/keras-team/keras-applications, resnet50.py (the older names, as in Caffe) and
resnet_common.py (conv2_block1_1_conv and so on).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from residual.weights.architecture import catalog_name, count_batches, describe, fold_bias, fold_epsilon, shapes_of
from residual.weights.caffe import BRANCHES, MEAN, place
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.imagenet import classes, mean_subtracted

NAME = "keras"
SOURCE = "https://github.com/keras-team/keras-applications"
EPSILON = 1.001e-5  # resnet_common.py
OLDER_EPSILON = 1e-3  # resnet50.py: Keras's own default
ROLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
    "W": "weight",  # these four in files from Keras 1
    "b": "bias",
    "running_mean": "running_mean",
    "running_std": "running_var",  # a variance in spite of its name, and read as one by Keras
}
ROLE = re.compile(rf"(?:.*_)?({'|'.join(sorted(ROLES, key=len, reverse=True))})(?:_\d+)?(?::0)?", re.ASCII)


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether a file has the layers of such a network, with or without a classifier."""
    layers = {part for name in tensors for part in name.split("/")[:-1]}
    return {"conv1_conv", "conv1_bn", "conv5_block1_0_conv"} <= layers or {"bn_conv1", "bn5a_branch2c"} <= layers


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card from the arrays of `hdf5.read`.

    The classifier is the one dense layer, whatever its name.  Refuses a file without it, and other layers.
    """
    for name, tensor in tensors.items():
        if name.endswith("@backend") and bytes(tensor.to(torch.uint8).flatten().tolist()).rstrip(b"\0") == b"theano":
            raise BadWeights(
                "Theano wrote it, whose kernels are mirrored; save it again where Keras runs on TensorFlow"
            )
    made: dict[str, Tensor] = {}
    older = False
    for name, tensor in tensors.items():
        if "@" in name or name.startswith("optimizer_weights/"):
            continue
        ours, from_caffe = rename(name)
        older |= from_caffe
        if ours in made:
            raise BadWeights(f"{name[:200]!r} is there twice, or a second dense layer is; one classifies")
        made[ours] = tensor
    if "classifier.weight" not in made:
        raise BadWeights(
            "it has no classifier (Keras calls such a file notop), so it answers nothing; take the one with it"
        )
    for name in [name for name in made if name.endswith(".weight")]:
        if made[name].ndim == 4:
            made[name] = made[name].permute(3, 2, 0, 1).contiguous()
        elif name == "classifier.weight" and made[name].ndim == 2:
            made[name] = made[name].T.contiguous()
    for norm in [name.removesuffix(".running_var") for name in made if name.endswith(".running_var")]:
        fold_epsilon(made, norm, OLDER_EPSILON if older else EPSILON)
        conv = norm.replace("norm", "conv")
        if f"{conv}.bias" in made and f"{norm}.running_mean" in made:
            fold_bias(made, conv, norm)
    count_batches(made)
    description = describe(shapes_of(made), stride_in="first")
    card = Card(
        name=catalog_name(description),
        model=description,
        classes=classes(description.classes),
        preprocessing=mean_subtracted(MEAN),
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": "Keras's preprocessing of mode caffe, stride in the first 1x1, images resized to 256, "
            "and the usual order of the classes",
        },
    )
    return made, card


def rename(name: str) -> tuple[str, bool]:
    """Our name for one of theirs, and whether it is one of the older names.

    Theirs are paths: the layer stands somewhere in them, the role at their end.  What stands in no layer that we
    know is the classifier.
    """
    *path, leaf = name.split("/")
    role = ROLE.fullmatch(leaf)
    if role:
        for layer in path:
            if found := _place(layer):
                return f"{found[0]}.{ROLES[role[1]]}", found[1]
        if path and role[1] in ("kernel", "bias", "W", "b") and not re.search("conv|bn", path[-1]):
            return f"classifier.{ROLES[role[1]]}", False
    if "preact" in name or "post_bn" in name:
        raise BadWeights("it is one of Keras's ResNets of version 2 (ResNet50V2 and its like), which are not converted")
    raise BadWeights(
        f"{name[:200]!r} is no part of Keras's ResNet50, ResNet101 or ResNet152; only these, and networks fine-tuned "
        "from them, are converted"
    )


def _place(layer: str) -> tuple[str, bool] | None:
    """Our convolution or norm for one of their layers."""
    known = {"conv1_conv": ("stem.conv", False), "conv1_bn": ("stem.norm", False)}
    known |= {"conv1": ("stem.conv", True), "bn_conv1": ("stem.norm", True)}
    if layer in known:
        return known[layer]
    if found := re.fullmatch(r"conv([2-5])_block([1-9]\d{0,2})_([0-3])_(conv|bn)", layer, re.ASCII):
        stage, block, number, kind = found.groups()
        conv, norm = list(BRANCHES.values())[int(number)]
        return f"stages.{int(stage) - 2}.{int(block) - 1}.{conv if kind == 'conv' else norm}", False
    if layer.startswith("res") and (pair := place(layer)):
        return pair[0], True
    if layer.startswith("bn") and (pair := place("res" + layer.removeprefix("bn"))):
        return pair[1], True
    return None
