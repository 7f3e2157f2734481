"""timm's ResNets: torchvision's names and network, other training, other images.

Most of its files are safetensors; its defaults resize by bicubic interpolation and cut out 95 %.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from residual.weights import imagenet, torchvision
from residual.weights.card import Card

NAME = "timm"
SOURCE = "https://github.com/huggingface/pytorch-image-models"


def recognises(tensors: Mapping[str, object]) -> bool:
    """Never by names alone, which are torchvision's: a safetensors file with these names is taken for timm's."""
    return False


def convert(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Card]:
    """Our tensors and their card: as torchvision's, with the images that most of timm's weights expect."""
    made, card = torchvision.convert(tensors)
    assumed = (
        "images as most of timm's ResNets see them (resized to 235 by bicubic interpolation, 224 cut from the "
        f"centre, mean and deviation of ImageNet; some differ: see its pretrained_cfg), {torchvision.UNTOLD}"
    )
    history = {"layout": NAME, "source": SOURCE, "assumed": assumed}
    return made, replace(card, preprocessing=imagenet.TIMM, history=history)


def export(tensors: Mapping[str, Tensor], card: Card) -> dict[str, Tensor]:
    """Their tensors from ours; the names are torchvision's."""
    return torchvision.export(tensors, card)
