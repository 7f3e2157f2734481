"""torchvision's ResNets, in whose names most of the world writes its weights: timm, fine-tuned files, backbones.

Stride in the 3x3 of a bottleneck, "v1.5".  Every tensor is kept bit for bit, there and back.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from residual.models.description import Description
from residual.weights import imagenet
from residual.weights.architecture import catalog_name, count_batches, describe, renamed, shapes_of
from residual.weights.card import Card
from residual.weights.files import BadWeights

NAME = "torchvision"
SOURCE = "https://github.com/pytorch/vision"

FIELD = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
STAGE = r"layer([1-9])\.(0|[1-9]\d{0,3})"
PARTS = {"conv1": "stem.conv", "bn1": "stem.norm", "fc": "classifier"}
SHORTCUT = {"0": "conv", "1": "norm"}
STAGES = 4
UNTOLD = (  # by names and shapes, and different in files that came from Caffe under these names
    "classes in ImageNet's order, channels red green blue, stride in the 3x3 of a bottleneck; residual weights doctor "
    "measures what fits better"
)


def recognises(tensors: Mapping[str, object]) -> bool:
    """Whether these are the names of torchvision's and timm's ResNets, or of one of their relatives."""
    stem = {"conv1.weight", "conv1.0.weight"} & tensors.keys()
    return bool(stem) and "layer1.0.conv1.weight" in tensors and "linear.weight" not in tensors


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card: the network from the shapes, the preprocessing as torchvision's first weights."""
    _refuse_relatives(tensors)
    _refuse_small_stem(tensors)
    made = renamed(tensors, ours, "torchvision's ResNets")
    count_batches(made)
    description = describe(shapes_of(made))
    card = Card(
        name=catalog_name(description),
        model=description,
        classes=imagenet.classes(description.classes),
        preprocessing=imagenet.TORCHVISION,
        history={
            "layout": NAME,
            "source": SOURCE,
            "assumed": "images as torchvision's first weights saw them (resized to 256 by bilinear interpolation, "
            f"224 cut from the centre, mean and deviation of ImageNet), {UNTOLD}",
        },
    )
    return made, card


def export(tensors: Mapping[str, Tensor], card: Card) -> dict[str, Tensor]:
    """Their tensors from ours.  Refuses a network that torchvision's ResNet class cannot express, and says why."""
    if problem := _not_theirs(card.model):
        raise BadWeights(f"{card.name} cannot be written for torchvision or timm: {problem}")
    return {theirs(name): tensor for name, tensor in tensors.items()}


def ours(name: str) -> str | None:
    """Our name for one of theirs; None if it is none of theirs."""
    if found := re.fullmatch(rf"(conv1|bn1|fc)\.{FIELD}", name, re.ASCII):
        return f"{PARTS[found[1]]}.{found[2]}"
    if found := re.fullmatch(rf"{STAGE}\.(conv|bn)([123])\.{FIELD}", name, re.ASCII):
        kind = "norm" if found[3] == "bn" else "conv"
        return f"stages.{int(found[1]) - 1}.{found[2]}.{kind}{found[4]}.{found[5]}"
    if found := re.fullmatch(rf"{STAGE}\.downsample\.([01])\.{FIELD}", name, re.ASCII):
        return f"stages.{int(found[1]) - 1}.{found[2]}.shortcut.{SHORTCUT[found[3]]}.{found[4]}"
    return None


def theirs(name: str) -> str:
    """Their name for one of ours; `ours` undoes it."""
    match name.split("."):
        case ["stages", stage, block, "shortcut", kind, field]:
            place = "0" if kind == "conv" else "1"
            return f"layer{int(stage) + 1}.{block}.downsample.{place}.{field}"
        case ["stages", stage, block, part, field]:
            return f"layer{int(stage) + 1}.{block}.{part.replace('norm', 'bn')}.{field}"
        case _:
            part, _, field = name.rpartition(".")
            return f"{next(known for known, here in PARTS.items() if here == part)}.{field}"


def _refuse_relatives(tensors: Mapping[str, Tensor]) -> None:
    """Say which relative of a ResNet has these tensors, where a list of names would leave the user guessing."""
    relatives = (
        ("its stem is three 3x3 convolutions (ResNet-C and -D)", r"conv1\.\d\.weight"),
        ("its shortcuts pool before they project (ResNet-D)", r".*\.downsample\.2\.weight"),
        ("its blocks weigh their channels (SE-ResNet)", r".*\.(se|attn)\..*"),
    )
    for what, pattern in relatives:
        if any(re.fullmatch(pattern, name, re.ASCII) for name in tensors):
            raise BadWeights(f"{what}, which is another network than those of the paper and is not converted")
    first, second = tensors.get("layer1.0.conv1.weight"), tensors.get("layer1.0.conv2.weight")
    if second is not None and first is not None and second.ndim == 4 and second.shape[1] < len(first):
        raise BadWeights("its 3x3 convolutions work in groups (ResNeXt), which is another network and is not converted")
    if not any(name.startswith("fc.") for name in tensors):
        raise BadWeights(
            "it has no classifier (fc.weight), so it is a backbone, not a network that answers; "
            "take the file that it was cut from"
        )


def _refuse_small_stem(tensors: Mapping[str, Tensor]) -> None:
    """Names and shapes leave open what follows a 3x3 stem: a guess would be another network, in silence."""
    stem = tensors.get("conv1.weight")
    if stem is not None and tuple(stem.shape[2:]) == (3, 3):
        raise BadWeights(
            "its first convolution is 3x3, as people make it for small images, and the file does not say with which "
            "stride, nor whether pooling follows; if you know that it has stride 1 and no pooling, rename the tensors "
            'by residual.weights.torchvision.ours and save them with a Card whose model has stem="cifar" '
            "(residual.weights.safetensors.save); others are not converted"
        )


def _not_theirs(model: Description) -> str | None:
    """Why torchvision's ResNet class has no such network; None if it has."""
    bottleneck = model.block == "bottleneck"
    reasons = (
        (len(model.depths) != STAGES, f"it has {len(model.depths)} stages, theirs have {STAGES}"),
        (model.widths != (64, 128, 256, 512), f"its widths are {model.widths}, theirs are (64, 128, 256, 512)"),
        (model.stem_width != 64, f"its stem has {model.stem_width} channels, theirs 64"),
        (model.stem != "imagenet", "its stem is one 3x3 convolution, theirs 7x7 with pooling"),
        (model.stem_pool != "padded", "it pools without a border, as Caffe does; theirs pools with one"),
        (model.stem_bias, "its first convolution has a bias, theirs has none"),
        (model.shortcut != "B", f"its shortcuts are {model.shortcut!r}, theirs are 'B'"),
        (model.order != "original", f"its order is {model.order!r}, theirs is 'original'"),
        (model.dims != 2, f"its images have {model.dims} axes, theirs two"),
        (
            bottleneck and model.stride_in != "middle",
            "it strides in the first 1x1 of a bottleneck (the paper's place), theirs in the 3x3; "
            "the same numbers there would compute something else",
        ),
    )
    return next((reason for is_so, reason in reasons if is_so), None)
