"""Networks look at images under their protocols: every image is decoded once, whatever number of views it gives.

Shapes: N images, B of them at a time, V views of each, K classes.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from residual.data.decode import Pixels
from residual.data.images import ImageFiles, Images
from residual.data.transforms import Normalize, Preprocessing
from residual.evaluate.originals import stored, whole
from residual.evaluate.protocol import Average, Protocol, keeps_square
from residual.evaluate.score import PIXELS_AT_ONCE, Scores, refuse_other_channels
from residual.evaluate.views import cut, names, varied
from residual.models.resnet import ResNet
from residual.train.precision import Precision

HELD = 64 << 20  # bytes of views that wait for others of their shape: bounds the memory
MOST_AT_ONCE = 1000  # images
LEAST = 1e-300  # a probability whose logarithm is still a number in float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A network, what it expects of an image, and how it is shown them.  Several make an ensemble."""

    model: nn.Module
    preprocessing: Preprocessing
    protocol: Protocol
    order: Tensor | None = None  # (K,) int64: its output for each class of the data, where it counts otherwise


def score_views(
    model: nn.Module,
    images: Images | ImageFiles,
    preprocessing: Preprocessing,
    protocol: Protocol,
    device: torch.device | str = "cpu",
) -> Scores:
    """One network's scores under a protocol.

    images: in memory, their pixels are what is cut; as files, decoded whole wherever the squares that they would
    be stored as do not hold all that the protocol looks at (`originals.as_files` finds the files of stored ones).
    """
    member = Member(model=model, preprocessing=preprocessing, protocol=protocol)
    found = [combined(views, protocol.average) for views in look([member], images, device)]
    return Scores(torch.cat(found), images.labels.cpu(), protocol)


def look(
    members: list[Member], images: Images | ImageFiles, device: torch.device | str = "cpu"
) -> Iterator[list[Tensor]]:
    """Yield, for some images after the other, what every member said of every view: (B, V, K) float32 each.

    V differs between members; the views are those of `views.names`, in their order.  Numbers are logits; where
    a protocol averages the probabilities over positions, the logarithms of those averages.  On the CPU.
    The models are in eval mode while they look and afterwards as they were.
    """
    for member in members:
        refuse_other_channels(images.shape[2], member.preprocessing)
    eyes = [_Eye(member, torch.device(device)) for member in members]
    squares = isinstance(images, ImageFiles) and all(keeps_square(member.protocol, images.view) for member in members)
    for window in _windows(stored(images) if squares else whole(images), members):
        yield [eye.look([cuts[eye.member.protocol] for cuts in window]) for eye in eyes]


def combined(said: list[Tensor], average: Average) -> Tensor:
    """One row of scores per image from (B, V, K) of every member: (B, K) float32, ready to be `Scores`.

    Views first, then members, so that each network counts the same.  Averaged probabilities come as logarithms,
    of which they are the softmax.  A single view is left as it is.
    """
    if len(said) == 1 and said[0].shape[1] == 1:
        return said[0][:, 0]
    wide = [views.double() for views in said]
    if average == "logits":
        return torch.stack([views.mean(1) for views in wide]).mean(0).float()
    means = torch.stack([views.softmax(2).mean(1) for views in wide]).mean(0)
    return means.clamp(min=LEAST).log().float()


def with_progress(
    said: Iterable[list[Tensor]], total: int, progress: Callable[[int, int], None]
) -> Generator[list[Tensor]]:
    """The same, telling (images seen, images in all) as they pass."""
    done = 0
    for views in said:
        done += len(views[0])
        progress(done, total)
        yield views


def class_order(theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor | None:
    """Which of a network's outputs belong to our classes; None where they stand alike.  Refuses other classes."""
    if theirs == ours:
        return None
    if sorted(theirs) != sorted(ours):
        other = next(iter(sorted(set(theirs) ^ set(ours))), "a name that comes twice")
        raise ValueError(
            f"networks of an ensemble tell the same classes apart, but of {len(theirs)} and {len(ours)} only one has "
            f"{other!r}; combine networks that were trained on the same data"
        )
    return torch.tensor([theirs.index(name) for name in ours])


def per_channel(preprocessing: Preprocessing) -> Preprocessing:
    """The same with one mean and one std per channel: their averages, where they are given per pixel."""
    count = 1 if preprocessing.channels == "L" else 3

    def averaged(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(torch.tensor(values, dtype=torch.float64).view(count, -1).mean(1).tolist())

    return replace(preprocessing, mean=averaged(preprocessing.mean), std=averaged(preprocessing.std))


class _Eye:
    """One member at work on a device."""

    def __init__(self, member: Member, device: torch.device) -> None:
        protocol, preprocessing = member.protocol, member.preprocessing
        self.member, self.device = member, device
        # A mean image has no meaning at another size than its own: its channels' means stand for it there.
        in_place = protocol.name != "multi-scale" and protocol.size == preprocessing.size
        self.normalize = Normalize(preprocessing if in_place else per_channel(preprocessing), device)
        self.precision = Precision(device, protocol.precision == "bfloat16")

    def look(self, cuts: list[list[Pixels]]) -> Tensor:
        """The cuts of B images -> (B, V, K), those of one shape together."""
        places = defaultdict(list)
        for image, views in enumerate(cuts):
            for view, one in enumerate(views):
                places[one.shape].append((image, view))
        model, protocol = self.member.model, self.member.protocol
        found: Tensor | None = None
        was_training = model.training
        model.eval()
        for (height, width, _), here in places.items():
            size = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (height * width)))
            for start in range(0, len(here), size):
                some = here[start : start + size]
                pixels = torch.from_numpy(np.stack([cuts[image][view] for image, view in some]))
                answers = self.answers(pixels)  # (variants, some, K)
                if found is None:
                    found = torch.empty(len(cuts), len(names(protocol)), answers.shape[2])
                step = len(cuts[0])  # of multi-scale, all scales come before their mirror images
                for (image, view), of_one in zip(some, answers.unbind(1), strict=True):
                    found[image, view::step] = of_one
        model.train(was_training)
        assert found is not None, "views of no images"
        return found if self.member.order is None else found[:, :, self.member.order]

    @torch.inference_mode()
    def answers(self, pixels: Tensor) -> Tensor:
        """(B, H, W, C) uint8 -> (variants, B, K) float32 on the CPU."""
        images = self.normalize.floats(pixels.to(self.device, non_blocking=True)).permute(0, 3, 1, 2)
        shown = varied(images, self.member.protocol)
        with self.precision.autocast():
            return torch.stack([self.network(view).float().cpu() for view in shown])

    def network(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K): the network as it is averages over positions, then classifies."""
        model = self.member.model
        if self.member.protocol.name != "multi-scale" or self.member.protocol.positions == "logits":
            found: Tensor = model(images)
            return found
        if not isinstance(model, ResNet):
            raise ValueError('positions="probabilities" needs a network of this package, whose features can be asked')
        positions = dense(model, images).float().log_softmax(1).flatten(2)  # (B, K, positions)
        return positions.logsumexp(2) - math.log(positions.shape[2])


def dense(model: ResNet, images: Tensor) -> Tensor:
    """The classifier as a 1x1 convolution: (B, C, H, W) -> (B, K, h, w) logits, one per position of the features."""
    features = model.features(images)[-1]
    count, channels, height, width = features.shape
    positions = features.permute(0, 2, 3, 1).reshape(-1, channels, 1, 1)  # each an image of one pixel
    return model.classify(positions).view(count, height, width, -1).permute(0, 3, 1, 2)


def _windows(images: Iterator[Pixels], members: list[Member]) -> Iterator[list[dict[Protocol, list[Pixels]]]]:
    """The cuts of some images by protocol; whole images are let go as soon as they are cut."""
    protocols = {member.protocol for member in members}
    window: list[dict[Protocol, list[Pixels]]] = []
    held = 0
    for image in images:
        cuts = {protocol: cut(image, protocol) for protocol in protocols}
        window.append(cuts)
        held += sum(view.nbytes for views in cuts.values() for view in views)
        if held > HELD or len(window) == MOST_AT_ONCE:
            yield window
            window, held = [], 0
    if window:
        yield window
