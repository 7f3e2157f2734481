"""ImageNet localization, where the class is told by another network and the place by these two (appendix C).

    image -> Localizer: for each class its own score and box at every anchor, over the whole image, at several scales
    its 200 best boxes of a class -> RegionLocalizer: each cut out, brought to one size, its score and box told anew

Shapes: N images (N, 3, H, W), K classes, A anchors at each place, R of them on an image, P regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import nms, roi_align

from residual.detect import boxes
from residual.detect.anchors import anchors
from residual.detect.cutting import rows
from residual.detect.found import Found
from residual.detect.procedure import resized
from residual.detect.regions import average
from residual.detect.sampling import NOTHING, assign, sample
from residual.detect.trunk import Norm, Stages, freeze, normalized, strides
from residual.models.description import Description
from residual.models.resnet import ResNet

LONGEST = 2000  # pixels, the longer side of an image in testing
BEFORE = 6000  # boxes among which overlaps are looked for, as in testing Faster R-CNN


@dataclass(frozen=True, kw_only=True)
class LocalizerDescription:
    """A localizer, told completely; its classes are the trunk's.

    sizes, shapes: of the anchors (square root of the area in pixels; height / width).
    width: channels between the last stage's map and the answers.
    positive, negative: overlap from which an anchor is trained as the object, under which as nothing.
    batch: anchors trained on per image, at most half of them objects.
    side, roi_batch, roi_positive: of the second step: side to which a region is brought, pixels; regions trained on per
        image; overlap from which one is the object.
    candidates, overlap: boxes of a class handed to it, after those went that overlap a surer one by more.
    norm, frozen: see `DetectorDescription`.
    """

    trunk: Description
    sizes: tuple[float, ...] = (64.0, 128.0, 256.0)
    shapes: tuple[float, ...] = (0.5, 1.0, 2.0)
    width: int = 512
    positive: float = 0.7
    negative: float = 0.3
    batch: int = 8
    side: int = 224
    roi_batch: int = 8
    roi_positive: float = 0.5
    candidates: int = 200
    overlap: float = 0.7
    norm: Norm = "batch"
    frozen: bool = False

    @property
    def anchors(self) -> int:
        return len(self.sizes) * len(self.shapes)


class Localizer(nn.Module):
    """A region proposal network of which every class has its own: K scores and K boxes at every anchor.

    The scores are independent logistic regressions, "is this an object of class k".
    """

    def __init__(self, description: LocalizerDescription, trunk: ResNet | None = None) -> None:
        """trunk: trained, of the description's network; its classifier is left behind.  None: random weights."""
        super().__init__()
        self.description = description
        net = ResNet(description.trunk) if trunk is None else trunk
        self.body = Stages(net, len(net.stages), handed=1)
        self.stride = strides(description.trunk)[-1]
        classes, width = description.trunk.classes, description.width
        self.conv = nn.Conv2d(description.trunk.outputs[-1], width, 3, padding=1)
        self.score = nn.Linear(width, description.anchors * classes)
        self.box = nn.Linear(width, description.anchors * classes * 4)
        for layer in (self.conv, self.score, self.box):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        normalized(self, description.norm)
        if description.frozen:
            freeze(self, (self.body.stem, self.body.stages[0]))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images of any size -> features (N, h, w, width), from which a class's answers are made; anchors (R, 4)."""
        x = torch.relu(self.conv(self.body(images)[0]))
        height, width = x.shape[2:]
        told = self.description
        references = anchors(height, width, stride=self.stride, sizes=told.sizes, shapes=told.shapes, device=x.device)
        return x.permute(0, 2, 3, 1), references

    def losses(self, images: Tensor, objects: Sequence[Tensor], labels: Tensor) -> tuple[Tensor, Tensor]:
        """What scores and codes cost.  objects: for each crop the boxes (M, 4) of its class; labels: (N,) that class.

        A score of every class is trained on every sampled anchor: 1 for the image's class where the anchor holds an
        object, else 0.  1000 x 9 scores at every place would not fit; only those of sampled anchors are computed.
        """
        features, references = self(images)
        return self.losses_of(features, references, objects, labels)

    def losses_of(
        self, features: Tensor, references: Tensor, objects: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same, of what `forward` gave."""
        told, classes = self.description, self.description.trunk.classes
        picked, kinds, held, wanted = [], [], [], []
        for number, here in enumerate(objects):
            assigned = assign(references, here, positive=told.positive, negative=told.negative, best=True)
            positive, negative = sample(assigned, told.batch, share=0.5)
            used = torch.cat([positive, negative])
            picked.append(features[number].flatten(0, 1)[used // told.anchors])
            kinds.append(used % told.anchors)
            held.append(assigned[used] != NOTHING)
            wanted.append(boxes.encode(here[assigned[positive]], references[positive]))
        x, kind = torch.cat(picked), torch.cat(kinds)
        one = torch.arange(len(kind), device=kind.device)
        logits = self.score(x).view(len(kind), told.anchors, classes)[one, kind]
        codes = self.box(x).view(len(kind), told.anchors, classes, 4)[one, kind]
        of = labels.repeat_interleave(torch.tensor([len(each) for each in held], device=labels.device))
        return per_class_losses(logits, codes, of, torch.cat(held), torch.cat(wanted))

    def answers(self, features: Tensor, references: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """What one image's features (h, w, width) say of one class: probabilities (R,) and boxes (R, 4)."""
        told, classes = self.description, self.description.trunk.classes
        mine = torch.arange(told.anchors, device=features.device) * classes + label
        logits = functional.linear(features, self.score.weight[mine], self.score.bias[mine]).flatten()
        four = (4 * mine[:, None] + torch.arange(4, device=features.device)).flatten()
        codes = functional.linear(features, self.box.weight[four], self.box.bias[four]).reshape(-1, 4)
        return logits.sigmoid(), boxes.decode(codes, references)

    @torch.no_grad()
    def candidates(
        self, image: Tensor, labels: Sequence[int], sides: Sequence[int] = (), *, longest: int = LONGEST
    ) -> list[tuple[Tensor, Tensor]]:
        """For each asked class its surest boxes on an image (3, H, W): (C, 4) and their probabilities (C,).

        sides: shorter sides, pixels, at which the image is looked at whole; none: as it is.
        """
        height, width = image.shape[1:]
        views = [resized(image, side, longest) for side in sides] or [image[None]]
        looks = [(view, *self(view)) for view in views]
        found = []
        for label in labels:
            each = []
            for view, features, references in looks:
                down, across = height / view.shape[2], width / view.shape[3]
                sure, places = self.answers(features[0], references, label)
                each.append((sure, places * places.new_tensor([across, down, across, down])))
            sure, places = torch.cat([s for s, _ in each]), torch.cat([p for _, p in each])
            found.append(self.surest(sure, boxes.clip(places, height, width)))
        return found

    def surest(self, sure: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of a class's boxes (R, 4) and their probabilities (R,) those without many equals: (C, 4) and (C,)."""
        sure, order = sure.topk(min(BEFORE, len(sure)))
        kept = nms(places[order], sure, self.description.overlap)[: self.description.candidates]
        return places[order][kept], sure[kept]


class RegionLocalizer(nn.Module):
    """The second step, centred on regions (R-CNN): the whole network on each, K scores and K boxes."""

    def __init__(self, description: LocalizerDescription, trunk: ResNet | None = None) -> None:
        """trunk: trained, of the description's network; its classifier is left behind.  None: random weights."""
        super().__init__()
        self.description = description
        net = ResNet(description.trunk) if trunk is None else trunk
        self.body = Stages(net, len(net.stages), handed=1)
        width, classes = description.trunk.outputs[-1], description.trunk.classes
        self.score, self.box = nn.Linear(width, classes), nn.Linear(width, 4 * classes)
        for layer, std in ((self.score, 0.01), (self.box, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        normalized(self, description.norm)
        if description.frozen:
            freeze(self, (self.body.stem, self.body.stages[0]))

    def forward(self, images: Tensor, regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """For each image its regions (P_n, 4) -> logits (P, K), codes (P, K, 4), image by image."""
        side = self.description.side
        cuts = roi_align(images, rows(regions), side, 1.0, sampling_ratio=0, aligned=True)  # means, where it shrinks
        seen = average(self.body(cuts)[0])
        return self.score(seen), self.box(seen).view(len(seen), -1, 4)

    def choose(self, candidates: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Regions of one image to train on, (B, 4), and the object each stands for or NOTHING, (B,)."""
        told = self.description
        every = torch.cat([objects, candidates])
        assigned = assign(every, objects, positive=told.roi_positive, negative=told.roi_positive)
        used = torch.cat(sample(assigned, told.roi_batch, share=0.5))
        return every[used], assigned[used]

    def losses(
        self, images: Tensor, candidates: Sequence[Tensor], objects: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What scores and codes cost.  candidates: of each image's class; objects, labels: as for `Localizer`."""
        chosen = [self.choose(found, here) for found, here in zip(candidates, objects, strict=True)]
        logits, codes = self(images, [regions for regions, _ in chosen])
        held = torch.cat([which != NOTHING for _, which in chosen])
        of = labels.repeat_interleave(torch.tensor([len(which) for _, which in chosen], device=labels.device))
        wanted = [
            boxes.encode(here[which[which != NOTHING]], regions[which != NOTHING])
            for (regions, which), here in zip(chosen, objects, strict=True)
        ]
        return per_class_losses(logits, codes, of, held, torch.cat(wanted))

    @torch.no_grad()
    def again(self, image: Tensor, candidates: Tensor, label: int) -> tuple[Tensor, Tensor]:
        """Candidates of one class on an image (3, H, W), told anew: (C, 4) and probabilities (C,), the surest first."""
        logits, codes = self(image[None], [candidates])
        sure, order = logits[:, label].sigmoid().sort(descending=True, stable=True)
        return boxes.clip(boxes.decode(codes[order, label], candidates[order]), *image.shape[1:]), sure


class Localizers(nn.Module):
    """Both steps.  The second learns from what the first proposes at that moment; the paper trained them in turn."""

    def __init__(self, description: LocalizerDescription, trunks: tuple[ResNet, ResNet] | None = None) -> None:
        """trunks: trained, one for each step, of the description's network; None: random weights."""
        super().__init__()
        one, other = (None, None) if trunks is None else trunks
        self.first, self.second = Localizer(description, one), RegionLocalizer(description, other)

    def losses(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], objects: Sequence[Tensor], labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What scores and codes of both steps cost, as for each; sizes: of the images without padding."""
        features, references = self.first(images)
        costs = self.first.losses_of(features, references, objects, labels)
        candidates = []
        with torch.no_grad():
            for number, (label, size) in enumerate(zip(labels.tolist(), sizes, strict=True)):
                sure, places = self.first.answers(features[number], references, label)
                candidates.append(self.first.surest(sure, boxes.clip(places, *size))[0])
        return *costs, *self.second.losses(images, candidates, objects, labels)

    @torch.no_grad()
    def place(self, image: Tensor, label: int, side: int) -> Tensor:
        """(4,) where an object of a given class is, on an image (3, H, W) looked at with a shorter side of `side`."""
        return locate(self.first, image, [label], (side,), second=self.second).boxes[0]

    @torch.no_grad()
    def guess(self, image: Tensor, many: int, sides: Sequence[int] = ()) -> Found:
        """The classes that the first step is surest of on an image (3, H, W), a box for each, the surest first."""
        told = self.first.description
        view = resized(image, sides[0], LONGEST) if sides else image[None]
        logits = self.first.score(self.first(view)[0][0]).view(-1, told.trunk.classes)
        labels = logits.amax(dim=0).topk(min(many, told.trunk.classes)).indices.tolist()
        found = locate(self.first, image, labels, sides, second=self.second)
        order = found.scores.argsort(descending=True, stable=True)
        return Found(found.boxes[order], found.labels[order], found.scores[order])


def locate(
    first: Localizer,
    image: Tensor,
    labels: Sequence[int],
    sides: Sequence[int] = (),
    *,
    second: RegionLocalizer | None = None,
) -> Found:
    """One box for each of the asked classes, in their order: the surest of the first step, or of the second after it.

    image: (3, H, W).  labels: the true class, or the first five of a classifier.  sides: as for `candidates`.
    """
    found = first.candidates(image, labels, sides)
    if second is not None:
        found = [second.again(image, places, label) for (places, _), label in zip(found, labels, strict=True)]
    return Found(
        torch.stack([places[0] for places, _ in found]),
        torch.tensor(labels, device=image.device),
        torch.stack([sure[0] for _, sure in found]),
    )


def per_class_losses(
    logits: Tensor, codes: Tensor, labels: Tensor, held: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor]:
    """Logistic losses of all classes and smooth L1 of the true class's codes, each a mean over the references.

    logits (P, K), codes (P, K, 4), labels (P,) of the image, held (P,) whether the object is there, wanted: the codes
    of those that hold it.
    """
    truth = functional.one_hot(labels, logits.shape[1]) * held[:, None]
    count = max(len(labels), 1)
    scored = functional.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype), reduction="sum") / count
    told = codes[held, labels[held]]
    return scored, functional.smooth_l1_loss(told, wanted, beta=1 / 9, reduction="sum") / count
