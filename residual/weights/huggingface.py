"""Hugging Face transformers' ResNets (ResNetForImageClassification): the network of torchvision by other names."""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from residual.weights import imagenet
from residual.weights.architecture import catalog_name, count_batches, describe, renamed, shapes_of
from residual.weights.card import Card

NAME = "transformers"
SOURCE = "https://github.com/huggingface/transformers"
PREPROCESSING = replace(imagenet.TORCHVISION, interpolation="bicubic")

PART = r"(convolution|normalization)\.(weight|bias|running_mean|running_var|num_batches_tracked)"
PLACE = r"resnet\.encoder\.stages\.(\d)\.layers\.(0|[1-9]\d{0,3})"
PARTS = {"convolution": "conv", "normalization": "norm"}


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the names of a ResNetForImageClassification."""
    return "resnet.embedder.embedder.convolution.weight" in tensors


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card: the network from the shapes, stride in the 3x3."""
    made = renamed(tensors, ours, "transformers' ResNetForImageClassification")
    count_batches(made)
    description = describe(shapes_of(made))
    card = Card(
        name=catalog_name(description),
        model=description,
        classes=imagenet.classes(description.classes),
        preprocessing=PREPROCESSING,
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": "stride in the 3x3 (downsample_in_bottleneck is false), images resized to 256 by bicubic "
            "interpolation, 224 cut from the centre, mean and deviation of ImageNet (see its "
            "preprocessor_config.json), classes in ImageNet's order (see id2label in its config.json)",
        },
    )
    return made, card


def ours(name: str) -> str | None:
    """Our name for one of theirs; None if it is none of theirs."""
    if found := re.fullmatch(rf"resnet\.embedder\.embedder\.{PART}", name, re.ASCII):
        return f"stem.{PARTS[found[1]]}.{found[2]}"
    if found := re.fullmatch(rf"{PLACE}\.layer\.([012])\.{PART}", name, re.ASCII):
        return f"stages.{found[1]}.{found[2]}.{PARTS[found[4]]}{int(found[3]) + 1}.{found[5]}"
    if found := re.fullmatch(rf"{PLACE}\.shortcut\.{PART}", name, re.ASCII):
        return f"stages.{found[1]}.{found[2]}.shortcut.{PARTS[found[3]]}.{found[4]}"
    if found := re.fullmatch(r"classifier\.1\.(weight|bias)", name, re.ASCII):
        return f"classifier.{found[1]}"
    return None
