"""A network looks at every image of a set once and says what it thinks of each class.

Shapes: N images, B of them at a time, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from residual.data.images import ImageFiles, Images
from residual.data.synsets import synsets_of
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.evaluate.protocol import Protocol, one_crop

PIXELS_AT_ONCE = 1 << 22  # bounds the memory of one batch: 1,000 images of 32 pixels, 83 of 224


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network said of labelled images."""

    logits: Tensor  # (N, K) float32, on the CPU
    labels: Tensor  # (N,) int64
    protocol: Protocol | None = None  # under which they were made

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or len(self.logits) != len(self.labels) or not len(self.labels):
            raise ValueError(
                f"scores {tuple(self.logits.shape)} and labels {tuple(self.labels.shape)} must be (N, K) and "
                "(N,), with at least one image"
            )
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= self.logits.shape[1]:
            raise ValueError(
                f"labels go from {lowest} to {highest}, but the network has {self.logits.shape[1]} classes; "
                "see `align` for data whose classes are in another order"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def predicted(self) -> Tensor:
        """(N,) int64: the class of the highest score, the first of equals."""
        return self.logits.argmax(dim=1)

    @property
    def wrong(self) -> Tensor:
        """(N,) bool."""
        return self.predicted != self.labels

    @property
    def probabilities(self) -> Tensor:
        """(N, K) float64, summing to 1."""
        return self.logits.double().softmax(dim=1)


def score(
    model: nn.Module,
    images: Images | ImageFiles,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
) -> Scores:
    """One central view of every image, in order; `look.score_views` makes others."""
    said = torch.cat(list(logits(model, images, preprocessing, device)))
    return Scores(said, images.labels.cpu(), one_crop(preprocessing))


def logits(
    model: nn.Module,
    images: Images | ImageFiles,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    *,
    batch: int | None = None,
) -> Iterator[Tensor]:
    """Yield (B, K) float32 on the CPU, batch after batch: iterate to show progress.

    The model is in eval mode while it looks and afterwards as it was.  Stored images are cut to the size the
    network sees as in training; images stored at another size are resized as the preprocessing says.
    """
    height, width, channels = images.shape
    refuse_other_channels(channels, preprocessing)
    stored = preprocessing.resize or preprocessing.size
    ready = (height, width) == (stored, stored)
    normalize = Normalize(preprocessing, device)
    size = batch or max(16, min(1000, PIXELS_AT_ONCE // preprocessing.size**2))
    batches = [torch.arange(start, min(start + size, len(images))) for start in range(0, len(images), size)]
    for pixels in images.stream(batches):
        if not ready:
            views = [prepare(image, preprocessing) for image in pixels.cpu().numpy()]
            pixels = torch.from_numpy(np.stack(views))
        was_training = model.training
        model.eval()
        with torch.inference_mode():
            found = model(normalize(pixels.to(device, non_blocking=True))).float().cpu()
        model.train(was_training)
        yield found


def refuse_other_channels(channels: int, preprocessing: Preprocessing) -> None:
    """A network for colour looks at no grey images, nor the other way round."""
    expected = 1 if preprocessing.channels == "L" else 3
    if channels != expected:
        raise ValueError(
            f"the images have {channels} channels, but the network was trained on {preprocessing.channels} "
            f"images of {expected}; read the data again for this network"
        )


def refuse_not_finite(scores: Scores) -> None:
    """Numbers that are none say nothing of the images."""
    bad = int((~torch.isfinite(scores.logits).all(dim=1)).sum())
    if bad:
        raise ValueError(
            f"the network's answer to {bad} of {len(scores)} images is not finite; its weights are damaged "
            "or its training diverged, so evaluate an earlier checkpoint"
        )


def align(images: Images | ImageFiles, classes: tuple[str, ...]) -> Images | ImageFiles:
    """The same images with labels that count in the network's order of classes.

    Where the network's are all ImageNet's, each may be called by its WordNet id or its words: `synsets_of`.
    Refuses images of a class the network does not know, and two classes that to the network are one.
    """
    if images.classes == classes:
        return images
    names, known = _by_synset(images.classes, classes)
    unknown = [theirs for theirs, name in zip(images.classes, names, strict=True) if name not in known]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(images.classes)} classes of the data are unknown to the network, first "
            f"{unknown[0]!r}; it knows {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}. "
            "Rename the folders, or fine-tune the network on this data"
        )
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        alike = [repr(theirs) for theirs, name in zip(images.classes, names, strict=True) if name == twice]
        raise ValueError(f"{' and '.join(alike)} of the data are one class to the network; put their images into one")
    place = torch.tensor([known.index(name) for name in names])
    return replace(images, labels=place[images.labels], classes=classes)


def _by_synset(data: tuple[str, ...], network: tuple[str, ...]) -> tuple[Sequence[str | None], Sequence[str]]:
    """The names of both as WordNet ids where all the network's are ImageNet's, and otherwise as they stand."""
    known = [synset for synset in synsets_of(network) if synset is not None]
    return (synsets_of(data), known) if len(known) == len(network) else (data, network)
