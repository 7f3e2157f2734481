"""A trained detector with its card: pixels in, answers on these very pixels out."""

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from residual.data.decode import Pixels
from residual.detect.card import Described, DetectorCard
from residual.detect.cascade import Cascade, CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.found import Found
from residual.detect.inference import ready
from residual.detect.localize import LocalizerDescription, Localizers
from residual.detect.procedure import Procedure, detect, resized

Network = FasterRCNN | Cascade | Localizers
GUESSES = 5  # a localizer's answer


class Detector(nn.Module):
    """A network that finds objects, and what it expects of an image.

    Its first answer makes a copy of the network that answers faster (`inference.ready`); a network whose weights have
    changed since is another detector.
    """

    def __init__(self, card: DetectorCard, net: Network | None = None) -> None:
        """net: of the card's description; None: random weights."""
        super().__init__()
        self.card = card
        self.net = network(card.described) if net is None else net
        self._quick: list[Network] = []  # the copy, in a list: it is no part of the state

    @property
    def quick(self) -> Network:
        """The network as it answers."""
        if not self._quick:
            self._quick.append(ready(self.net))
        return self._quick[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._quick.clear()  # it would stay on the device that the weights leave
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found:
        """What is on an image (H, W, 3) uint8, RGB, of any size: on the CPU, in its pixels, the surest first.

        procedure: how it is looked at; None: as the card says.  A localizer answers with its five surest classes.
        """
        return find_together([self], pixels, procedure)

    def prepared(self, pixels: Pixels) -> Tensor:
        """(3, H, W), as the network wants it, where its weights are."""
        device = next(self.net.parameters()).device
        return normalized_images(torch.from_numpy(np.array(pixels))[None], self.card, device)[0]


@torch.inference_mode()
def find_together(detectors: Sequence[Detector], pixels: Pixels, procedure: Procedure | None = None) -> Found:
    """The answer of several detectors of the same classes as one: proposals together, judgements averaged."""
    first = detectors[0]
    told = first.card.procedure if procedure is None else procedure
    image = first.prepared(pixels)
    match first.quick:
        case FasterRCNN():
            found = detect(alike(detectors), image, told)
        case Cascade() as cascade:
            small = resized(image, told.side_of(image.shape[1], image.shape[2]), told.longest)
            (found,) = cascade(small, [(small.shape[2], small.shape[3])], [(image.shape[1], image.shape[2])])
        case Localizers() as localizers:
            found = localizers.guess(image, GUESSES, told.sides or (told.side,))
    return Found(found.boxes.cpu(), found.labels.cpu(), found.scores.cpu(), found.outlines)


def alike(detectors: Sequence[Detector]) -> list[FasterRCNN]:
    """The networks of an ensemble.  Refuses those that see other classes or other values."""
    first, nets = detectors[0].card, []
    for each in detectors:
        net = each.quick
        if not isinstance(net, FasterRCNN):
            raise ValueError(f"{each.card.name} is no Faster R-CNN, and only those are averaged; leave it out")
        if (each.card.classes, each.card.mean, each.card.std) != (first.classes, first.mean, first.std):
            raise ValueError(
                f"{each.card.name} and {first.name} differ in their classes or in what is subtracted from an image; an "
                "ensemble is of detectors that were trained on the same data"
            )
        nets.append(net)
    return nets


def network(described: Described) -> Network:
    """The described network with random weights."""
    match described:
        case DetectorDescription():
            return FasterRCNN(described)
        case CascadeDescription():
            return Cascade(described)
        case LocalizerDescription():
            return Localizers(described)


def normalized_images(images: Tensor, card: DetectorCard, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float on the device, less the mean, by the standard deviation."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (card.mean, card.std))
    return (images.to(device).permute(0, 3, 1, 2).float() / 255 - mean) / std
