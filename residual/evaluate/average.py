"""One network from the weights of several (stochastic weight averaging, Izmailov et al. 2018).

The mean of weights is not the mean of batch-norm statistics: those are measured again, on training images.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from residual.data.batches import training_batches
from residual.data.images import ImageFiles, Images
from residual.data.transforms import Augmentation, Normalize, Preprocessing
from residual.evaluate.score import PIXELS_AT_ONCE
from residual.train.average import set_exact_statistics

STATISTICS = 10_000  # training images that batch-norm statistics are measured on
PARTS = ("average.", "model.")  # of a checkpoint: the moving average, where there is one, and the weights themselves


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The plain mean of state dicts of one network, taken in float64; counters are those of the first.

    Batch-norm statistics are averaged like the rest and must be measured again: `measure_statistics`.
    """
    first = {name: tuple(tensor.shape) for name, tensor in states[0].items()}
    for number, state in enumerate(states[1:], start=2):
        odd = sorted(first.items() ^ {name: tuple(tensor.shape) for name, tensor in state.items()}.items())
        if odd:
            raise ValueError(
                f"weights are averaged of networks that are alike, but the first and number {number} differ in "
                f"{odd[0][0]}; to combine other networks average their scores: --ensemble"
            )
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in states[0].items()
    }


def measure_statistics(
    model: nn.Module,
    images: Images | ImageFiles,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
    *,
    augmentation: Augmentation | None = None,
    count: int = STATISTICS,
    seed: int = 0,
) -> None:
    """Replace the batch-norm statistics by those of `count` training images, or of all where there are fewer.

    Each is seen once.  augmentation: how the network saw them in training (nothing is mixed or repeated); None
    shows their centres.
    """
    as_trained = replace(augmentation or Augmentation(crop="none", flip=False), mixup=0.0, cutmix=0.0, repeats=1)
    count = min(count, len(images))
    size = min(1000, len(images), max(16, PIXELS_AT_ONCE // preprocessing.size**2))
    place, many = torch.device(device), math.ceil(count / size)

    def batches() -> Iterator[Tensor]:
        stream = training_batches(
            images,
            as_trained,
            Normalize(preprocessing, place),
            batch=size,
            seed=seed,
            start=0,
            device=place,
            shard=evenly(count, size),
        )
        for batch in islice(stream, many):
            yield batch.images

    set_exact_statistics(model, batches())


def evenly(count: int, size: int) -> Callable[[Tensor], Tensor]:
    """`shard` of `training_batches` that makes one pass over `count` images of its batches of `size`, and no more.

    A last batch cut short would count as much as a whole one, so all give way: their sizes differ by one at most.
    """
    many = math.ceil(count / size)

    def positions(planned: Tensor) -> Tensor:
        step = int(planned[0]) // size
        return torch.arange(step * count // many, (step + 1) * count // many)

    return positions


def checkpoint_weights(path: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts in one checkpoint of a run: "model", and "average" where the run kept a moving average.

    path: checkpoints/step-00001234.safetensors, whose manifest lies beside it.  Nothing is written.
    """
    manifest = next((one for one in sorted(path.parent.glob("step-*.json")) if _names(one, path.name)), None)
    if manifest is None:
        raise ValueError(f"no manifest beside {path} names it, so it is no whole checkpoint; take another one")
    data = path.read_bytes()
    content = json.loads(manifest.read_bytes())
    if hashlib.sha256(data).hexdigest() != content.get("sha256"):
        raise ValueError(f"{path} is not what was written: its SHA-256 differs; take another checkpoint")
    try:
        tensors = safetensors.torch.load(data)
        for name, axes in content["axes"].items():  # as it lay in memory
            tensors[name] = tensors[name].permute([axes.index(axis) for axis in range(len(axes))])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        raise ValueError(f"{path} is not a checkpoint of this version ({problem}); take another one") from None
    found = {
        part.removesuffix("."): {n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)}
        for part in PARTS
    }
    return {part: state for part, state in found.items() if state}


def _names(manifest: Path, file: str) -> bool:
    try:
        content = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("file") == file
