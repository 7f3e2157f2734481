"""Which images are trained on and which are measured on, in a way that anyone can repeat."""

from dataclasses import replace

import torch

from residual.data.assemble import held_out
from residual.data.images import Dataset, ImageFiles, Images

SPELLINGS = {  # of the splits, as people name folders and files
    "train": ("train", "training"),
    "validation": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}


def hold_out(data: Dataset, share: float, *, seed: int) -> Dataset:
    """Take `share` of every class of the training images for validation; the split is written down.

    A pure function of seed and names.  Refuses a share that leaves one of the two empty.
    """
    held = held_out(data.train.names, data.train.labels, share=share, seed=seed)
    if not held.any() or held.all():
        raise ValueError(
            f"{share:.0%} of {len(held)} training images cannot be held out for validation: add images, or give "
            "the data a folder val/ of its own"
        )
    chosen = torch.nonzero(held).flatten()
    how = {
        "made": f"{share:.0%} of each class of the training images held out by name",
        "seed": seed,
        "validation": [data.train.names[i] for i in chosen.tolist()],
    }
    return replace(
        data,
        train=data.train.select(torch.nonzero(~held).flatten()),
        validation=data.train.select(chosen),
        split=data.split | {"held_out": how},
        made_here=True,
    )


def to_evaluate(data: Dataset) -> tuple[str, Images | ImageFiles]:
    """What a network that never saw this data is measured on: (name of the split, images).

    The test images; without them the validation images; of data that came without any split, all images, by class
    and name.
    """
    if data.test is not None:
        return "test", data.test
    if data.validation is None:
        return "all", data.train
    if not data.made_here:
        return "validation", data.validation
    everything = joined(data.train, data.validation)
    labels = everything.labels.tolist()
    order = sorted(range(len(labels)), key=lambda place: (labels[place], everything.names[place]))
    return "all", everything.select(torch.tensor(order))


def joined(first: Images | ImageFiles, second: Images | ImageFiles) -> Images | ImageFiles:
    """Two parts of one set as one."""
    labels = torch.cat([first.labels, second.labels])
    names = (*first.names, *second.names)
    if isinstance(first, Images) and isinstance(second, Images):
        return replace(first, pixels=torch.cat([first.pixels, second.pixels]), labels=labels, names=names)
    assert isinstance(first, ImageFiles)
    assert isinstance(second, ImageFiles)
    files, digests = (*first.files, *second.files), (*first.digests, *second.digests)
    return replace(first, files=files, digests=digests, labels=labels, names=names)
