"""ImageNet's 1,000 classes as they are called: n01440764, "tench", "tench, Tinca tinca"; and the 200 of detection.

Folders are named by WordNet's id, tables of the hub by all words of a synset, networks by one of them.  synsets.txt
holds ids and torchvision's names, in the order of the ids, which is that of everybody's outputs.  synsets_det.txt holds
the 200 ids and names of the detection task in the order of its development kit (map_det.txt), which is that of the
names.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

SHARED = 2  # classes of the thousand that both are called crane: the bird and the machine


@cache
def synsets() -> dict[str, str]:
    """The name of each class by its id, in the order of the ids."""
    return _named("synsets.txt")


@cache
def det_synsets() -> dict[str, str]:
    """The name of each of the 200 classes of ImageNet's detection task (DET) by its id, in the order of that task."""
    return _named("synsets_det.txt")


def _named(file: str) -> dict[str, str]:
    lines = Path(__file__).with_name(file).read_text("utf-8").splitlines()
    return {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}


def synsets_of(classes: Sequence[str]) -> tuple[str | None, ...]:
    """The id of the class that each name means; None for a name of none.

    A list of all 1,000 in their order is known as a whole, for some call two of them crane.
    """
    known = synsets()
    meant = {name: synset for synset, name in known.items()} | {synset: synset for synset in known}
    found = tuple(
        meant.get(name) or meant.get(name.replace(", ", " ")) or meant.get(name.partition(", ")[0]) for name in classes
    )
    if len(classes) == len(known):
        agreed = sum(one == other for one, other in zip(found, known, strict=True))
        return tuple(known) if agreed >= len(known) - SHARED else found
    return found
