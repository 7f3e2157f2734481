"""How an image is looked at in testing: at which scales, how often, by how many networks (appendix B).

    proposals of all networks -> judged by all, at two scales each -> their boxes judged again -> suppression and voting

Shapes: one image (3, H, W), P regions, K classes.  Boxes are told in the image's own pixels throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from residual.detect.context import beside, whole
from residual.detect.faster_rcnn import FasterRCNN
from residual.detect.found import Found, factor
from residual.detect.multiscale import maxout
from residual.detect.refine import Judge, refine
from residual.detect.regions import answer, average

SIDE = 8192  # pixels; greatest shorter side of a procedure
LONGEST = 2 * SIDE  # greatest longer side
SCALES = 20  # at which an image is looked at, at most


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """A way to test.  The defaults are the plain one of tables 7 and 8; IMPROVED is table 9's, short of the ensemble.

    side, longest: shorter side, pixels, to which the image is brought for proposals, unless the longer would exceed
        `longest`.
    shrink: False: an image whose shorter side is longer than `side` stays as it is, as far as `longest` allows.
    sides: shorter sides at which regions are judged, growing; none: at `side`.  Of an image that is not shrunk they are
        in proportion, as many times its own shorter side as they are of `side`.
    widest: what the longer side may not exceed at any of `sides`.
    refined: the boxes of the first judgement are judged once more.
    voters: overlap from which suppressed boxes vote on the place of the one that stays; None: no voting.
    """

    side: int = 600
    longest: int = 1000
    sides: tuple[int, ...] = ()
    widest: int = 2000
    refined: bool = False
    voters: float | None = None
    shrink: bool = True

    def __post_init__(self) -> None:
        if list(self.sides) != sorted(set(self.sides)):
            raise ValueError(f"sides are {self.sides}; each is another scale, so they must grow: sort them")
        if min((self.side, self.longest, self.widest, *self.sides)) < 1:
            raise ValueError("side, longest, widest and sides are pixels, so they must be at least 1")
        if (greatest := max(self.side, *self.sides, 0)) > SIDE:
            raise ValueError(f"an image is looked at with a shorter side of {SIDE:,} pixels at most, not {greatest:,}")
        if (greatest := max(self.longest, self.widest)) > LONGEST:
            raise ValueError(f"longest and widest are at most {LONGEST:,} pixels, not {greatest:,}")
        if len(self.sides) > SCALES:
            raise ValueError(f"sides are {SCALES} scales at most, not {len(self.sides):,}")

    def side_of(self, height: int, width: int) -> int:
        """The shorter side to which an image is brought for proposals."""
        return self.side if self.shrink else max(self.side, min(height, width))

    def sides_of(self, height: int, width: int) -> tuple[int, ...]:
        """The shorter sides at which regions of an image are judged; none: as for proposals."""
        return tuple(max(1, round(side * self.side_of(height, width) / self.side)) for side in self.sides)


IMPROVED = Procedure(sides=(200, 400, 600, 800, 1000), refined=True, voters=0.5)


@dataclass(frozen=True)
class View:
    """One network's maps of the image at one scale; by: (4,) from the image's pixels to the view's."""

    net: FasterRCNN
    maps: list[Tensor]
    size: tuple[int, int]
    by: Tensor

    @property
    def scale(self) -> float:
        return float(self.by.prod() ** 0.25)

    def see(self, regions: Tensor) -> Tensor:
        """(P, 4) -> (P, W)."""
        return average(self.net.head.see(self.maps, [regions * self.by]))


@torch.no_grad()
def detect(nets: Sequence[FasterRCNN], image: Tensor, procedure: Procedure) -> Found:
    """What the networks together find on an image (3, H, W), made ready as in their training but at its own size.

    The networks have the same classes, and are in evaluation mode; answers and masks are told as the first one's
    description says, masks by the first alone.
    """
    size = (image.shape[1], image.shape[2])
    fronts = [view(net, image, procedure.side_of(*size), procedure.longest) for net in nets]
    judges = [judge(front, image, size, procedure) for front in fronts]
    regions = torch.cat([proposals(front) for front in fronts])
    together = mean(judges)
    probabilities, boxes = together(regions)
    if procedure.refined:
        probabilities, boxes = refine(together, probabilities, boxes)
    found = answer(probabilities, boxes, nets[0].description.regions, voters=procedure.voters)
    if nets[0].masker is None:
        return found
    small = Found(found.boxes * fronts[0].by, found.labels, found.scores)
    return nets[0].outlined(fronts[0].maps, small, 1 / fronts[0].by, size)


def proposals(front: View) -> Tensor:
    """The proposals of one network: (P, 4)."""
    look = front.net.proposer(front.maps)
    return front.net.proposer.propose(look, 0, front.size) / front.by


def judge(front: View, image: Tensor, size: tuple[int, int], procedure: Procedure) -> Judge:
    """One network's judgement of regions, at the scales of the procedure."""
    net = front.net
    views = [view(net, image, side, procedure.widest) for side in procedure.sides_of(*size)] or [front]
    sees, scales = [each.see for each in views], [each.scale for each in views]

    def judged(regions: Tensor) -> tuple[Tensor, Tensor]:
        seen = maxout(sees, scales, regions)
        if net.description.regions.context:
            seen = beside(seen, maxout(sees, scales, whole([size], regions)[0]), [len(regions)])
        return net.head.judged(*net.head.tell(seen), regions, size)

    return judged


def mean(judges: Sequence[Judge]) -> Judge:
    """The judgement of an ensemble: the means of probabilities and of boxes."""

    def judged(regions: Tensor) -> tuple[Tensor, Tensor]:
        each = [one(regions) for one in judges]
        return torch.stack([p for p, _ in each]).mean(0), torch.stack([b for _, b in each]).mean(0)

    return judged


def view(net: FasterRCNN, image: Tensor, side: int, longest: int) -> View:
    """The image, resized, through the network."""
    small = resized(image, side, longest)
    size = (small.shape[2], small.shape[3])
    return View(net, net.shared(small), size, factor(image.shape[1:], size, small))


def resized(image: Tensor, side: int, longest: int) -> Tensor:
    """(3, H, W) -> (1, 3, *, *) with a shorter side of `side` pixels, unless the longer one would exceed `longest`."""
    height, width = image.shape[1:]
    scale = min(side / min(height, width), longest / max(height, width))
    size = (max(round(scale * height), 1), max(round(scale * width), 1))
    return functional.interpolate(image[None], size, mode="bilinear", antialias=True)
