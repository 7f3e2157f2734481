"""The containers that other people's weights come in: from bytes to named arrays, whatever the names mean.

A container is a module with

    NAME                    what a user calls it
    recognises(head, path)  whether this is one, by its first HEAD bytes (and more of the file, where they do not tell)
    read(path)              its arrays by name; `BadWeights` for what is damaged, hostile or too large

None of them imports torch: they run in a small process of their own (see `child`).  safetensors is not among them:
its own package reads it, safely and without a copy.
"""

import os
from collections.abc import Mapping
from typing import Protocol

from residual.weights import hdf5, pickles, protobuf, torch7
from residual.weights.arrays import Array
from residual.weights.files import BadWeights, open_file

HEAD = 4096  # bytes


class Container(Protocol):
    """What a module in CONTAINERS offers."""

    NAME: str

    def recognises(self, head: bytes, path: str | os.PathLike[str]) -> bool:
        """Whether a file that begins with `head` is one of these."""

    def read(self, path: str | os.PathLike[str]) -> Mapping[str, Array]:
        """Its arrays by name."""


CONTAINERS: tuple[Container, ...] = (hdf5, pickles, torch7, protobuf)  # asked in order; without a magic number, last


def recognise(path: str | os.PathLike[str]) -> Container:
    """The container that a file is, by its content; its name does not count."""
    with open_file(path) as file:
        head = file.read(HEAD)
    for container in CONTAINERS:
        if container.recognises(head, path):
            return container
    raise BadWeights(
        f"it begins with {head[:8]!r}, as no file of weights that we read does; they are safetensors, "
        f"{', '.join(container.NAME for container in CONTAINERS)}"
    )


def named(name: str) -> Container:
    """The container of this NAME."""
    return next(container for container in CONTAINERS if name == container.NAME)
