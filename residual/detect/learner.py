"""A detector as it learns: a batch of images with objects in, what it costs out.

The four steps of Faster R-CNN need what the step before has left: it is part of the learner, and so of checkpoints.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from residual.data.load_objects import ObjectBatch
from residual.data.objects import Objects
from residual.detect.card import DetectorCard
from residual.detect.cascade import Cascade
from residual.detect.detector import Network, normalized_images
from residual.detect.faster_rcnn import FasterRCNN
from residual.detect.localize import Localizers
from residual.detect.phases import ALTERNATING, phase_loss


class Learner(nn.Module):
    """forward(batch) -> the loss and its parts.  in_turn: a Faster R-CNN's four steps, begun by `begin`."""

    def __init__(self, net: Network, card: DetectorCard, *, in_turn: bool = False) -> None:
        super().__init__()
        self.net, self.card = net, card
        self.step: int | None = None  # of the four, counted from 0
        self.first: nn.Module | None = None
        self.before: FasterRCNN | None = None
        if in_turn:
            assert isinstance(net, FasterRCNN)
            self.first = copy.deepcopy(net.shared).requires_grad_(False)
            self.before = copy.deepcopy(net).requires_grad_(False)

    def begin(self, step: int, *, anew: bool = True) -> None:
        """Turn to one of the four steps.  anew: from where the step before has ended, not in its middle."""
        self.step = step
        if not anew:
            return
        assert self.first is not None
        assert self.before is not None
        phase = ALTERNATING[step]
        if phase.proposals == "before":
            self.before.load_state_dict(self.net.state_dict())
        if "shared" in phase.fresh:
            assert isinstance(self.net, FasterRCNN)
            self.net.shared.load_state_dict(self.first.state_dict())

    def forward(self, batch: ObjectBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of what the batch costs, and its parts by name, detached."""
        device = next(self.net.parameters()).device
        images = normalized_images(batch.images, self.card, device)
        told = [on_device(here, device) for here in batch.objects]
        boxes, labels = [each[0] for each in told], [each[1] for each in told]
        if self.step is not None:
            return self.in_turn(images, batch, told)
        match self.net:
            case Cascade() as cascade:
                masks = [given(each[2]) for each in told]
                costs = vars(cascade.losses(images, batch.sizes, boxes, labels, masks))
            case FasterRCNN() as net:
                costs = vars(net.losses(images, batch.sizes, boxes, labels, self.masks(told)))
            case Localizers() as localizers:
                costs = localizer_costs(localizers, images, batch.sizes, boxes, labels)
        parts = {name: cost for name, cost in costs.items() if cost is not None}
        return torch.stack(list(parts.values())).sum(), {name: cost.detach() for name, cost in parts.items()}

    def in_turn(
        self, images: Tensor, batch: ObjectBatch, told: Sequence[tuple[Tensor, Tensor, Tensor | None]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What one of the four steps costs; its parts are not told apart."""
        assert self.step is not None
        assert isinstance(self.net, FasterRCNN)
        phase, proposals = ALTERNATING[self.step], None
        if phase.proposals == "before":
            assert self.before is not None
            self.before.eval()
            self.before.proposer.train()  # as many proposals as training takes
            with torch.no_grad():
                look = self.before.proposer(self.before.shared(images))
                proposals = [self.before.proposer.propose(look, n, size) for n, size in enumerate(batch.sizes)]
        boxes, labels = [each[0] for each in told], [each[1] for each in told]
        loss = phase_loss(self.net, phase, images, batch.sizes, boxes, labels, self.masks(told), proposals)
        return loss, {}

    def masks(self, told: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> list[Tensor] | None:
        """The masks of all images, of a detector that makes some."""
        return [given(each[2]) for each in told] if self.card.masks else None


def localizer_costs(
    localizers: Localizers,
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
) -> dict[str, Tensor]:
    """Of both steps, each image with the class of its first object and the boxes of that class."""
    classes = torch.stack([each[0] if len(each) else each.new_zeros(()) for each in labels])
    mine = [b[each == label] for b, each, label in zip(boxes, labels, classes, strict=True)]
    names = ("scored", "placed", "scored_again", "placed_again")
    return dict(zip(names, localizers.losses(images, sizes, mine, classes), strict=True))


def on_device(here: Objects, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Boxes (M, 4), labels (M,) and masks (M, H, W) of the objects that are to be found."""
    some = here.select(~here.aside) if here.aside.any() else here
    masks = None if some.masks is None else torch.from_numpy(some.masks).to(device)
    boxes = torch.from_numpy(some.boxes).to(device, torch.float32)
    return boxes, torch.from_numpy(some.labels).to(device), masks


def given(masks: Tensor | None) -> Tensor:
    """The masks that batches for a detector of masks have."""
    assert masks is not None, "the batches were asked for masks"
    return masks
