"""Training a detector part by part: the four steps of Faster R-CNN, which the paper used (`Learner` takes them).

1 proposals, from a classifier   2 regions, from a classifier, on the proposals of 1
3 proposals, on the stages of 2   4 regions, on the stages of 2 and the proposals of 3      (Ren et al. 2015, 3.2)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from residual.detect.faster_rcnn import FasterRCNN, Size

Part = Literal["shared", "proposer", "head", "masker"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    learns: the parts that are trained; the others keep their weights and their statistics.
    fresh: the parts that begin as they were before all training of the detector.
    proposals: the network's own, or those that the phase before made.
    """

    name: str
    learns: tuple[Part, ...]
    fresh: tuple[Part, ...] = ()
    proposals: Literal["own", "before"] = "own"


ALTERNATING = (
    Phase(name="proposals", learns=("shared", "proposer")),
    Phase(name="regions", learns=("shared", "head", "masker"), fresh=("shared",), proposals="before"),
    Phase(name="proposals on fixed stages", learns=("proposer",)),
    Phase(name="regions on fixed stages", learns=("head", "masker"), proposals="before"),
)


def phase_loss(
    net: FasterRCNN,
    phase: Phase,
    images: Tensor,
    sizes: Sequence[Size],
    objects: Sequence[Tensor],
    labels: Sequence[Tensor],
    masks: Sequence[Tensor] | None = None,
    proposals: Sequence[Tensor] | None = None,
) -> Tensor:
    """The sum of what the phase's parts cost; the rest as `FasterRCNN.losses`.

    proposals: for each image (P, 4), those of the phase before, where the phase wants them.
    """
    if (phase.proposals == "before") != (proposals is not None):
        wanted = "needs the proposals of the phase before" if proposals is None else "makes its own proposals"
        raise ValueError(f"the phase {phase.name!r} {wanted}")
    net.train()
    if "shared" not in phase.learns:
        net.shared.eval()
    with torch.set_grad_enabled("shared" in phase.learns):
        maps = net.shared(images)
    costs: list[Tensor] = []
    if "proposer" in phase.learns or proposals is None:
        look = net.proposer(maps)
    if "proposer" in phase.learns:
        costs += net.proposer.losses(look, objects, sizes)
    if "head" in phase.learns:
        if proposals is None:
            proposals = [net.proposer.propose(look, number, size) for number, size in enumerate(sizes)]
        of_regions = net.region_losses(maps, proposals, sizes, objects, labels, masks)
        costs += [cost for cost in of_regions if cost is not None]
    return torch.stack(costs).sum()
