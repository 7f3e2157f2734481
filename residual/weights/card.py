"""What a file of weights says about itself, so that it can be used without asking anybody (law 1)."""

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from residual.data.transforms import Preprocessing
from residual.models.description import Description
from residual.records import convert

FORMAT = 1
MAX_SIDE = 8192  # pixels


@dataclass(frozen=True, kw_only=True)
class Card:
    """Travels as JSON in the metadata of every file of weights that we write.

    history: where the weights come from, as plain JSON: recipe, data, seed, commit; or whose file it was.
    """

    name: str
    model: Description
    classes: tuple[str, ...]  # in the order of the network's outputs
    preprocessing: Preprocessing
    history: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(
                f"the card has format {self.format}, this version of residual reads {FORMAT}; "
                "use the version that wrote it, or a newer one"
            )
        if len(self.classes) != self.model.classes:
            raise ValueError(
                f"the card names {len(self.classes)} classes, its network has {self.model.classes} outputs"
            )
        channels = 1 if self.preprocessing.channels == "L" else 3
        if channels != self.model.channels:
            raise ValueError(
                f"the card prepares images of {channels} channels ({self.preprocessing.channels}), "
                f"its network takes {self.model.channels}"
            )
        size, stored = self.preprocessing.size, self.preprocessing.resize or self.preprocessing.size
        if not 1 <= size <= stored <= MAX_SIDE:
            raise ValueError(
                f"the card asks for images of {size} pixels cut from {stored}; sides grow from 1 to {MAX_SIDE}"
            )
        numbers = (*self.preprocessing.mean, *self.preprocessing.std)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("the card's mean or std is not finite")


def to_json(card: Card) -> str:
    """The card as the text that travels in a file's metadata; `from_json` undoes it."""
    return msgspec.json.encode(card, order="deterministic").decode()


def from_json(text: str) -> Card:
    """The card; `ValueError` names the field that is wrong, or that no card has."""
    try:
        return convert(msgspec.json.decode(text), Card)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"its card cannot be read: {problem}") from None
