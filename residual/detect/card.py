"""What a file of a detector's weights says about itself, so that it can be used without asking anybody (law 1)."""

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec

from residual.detect.cascade import CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import LocalizerDescription
from residual.detect.procedure import Procedure
from residual.records import convert

FORMAT = 1
Colours = tuple[float, float, float]  # of RGB values in 0 to 1
Described = DetectorDescription | CascadeDescription | LocalizerDescription


@dataclass(frozen=True, kw_only=True)
class DetectorCard:
    """Travels as JSON in the metadata of every file of a detector that we write.

    mean, std: of RGB values in 0 to 1, subtracted and divided by.  procedure: how the detector is tested.
    detector, cascade, localizer: the network; exactly one of them is given.
    history: where the weights come from, as plain JSON: recipe, data, seed, commit.
    """

    name: str
    classes: tuple[str, ...]  # in the order of the network's labels
    mean: Colours
    std: Colours
    procedure: Procedure
    detector: DetectorDescription | None = None
    cascade: CascadeDescription | None = None
    localizer: LocalizerDescription | None = None
    history: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(
                f"the card has format {self.format}, this version of residual reads {FORMAT}; "
                "use the version that wrote it, or a newer one"
            )
        if sum(each is not None for each in (self.detector, self.cascade, self.localizer)) != 1:
            raise ValueError("the card must describe one network: a detector, a cascade or a localizer")
        described = self.described
        if isinstance(described, LocalizerDescription):
            outputs = described.trunk.classes
        else:
            outputs = len(described.classes)
            if described.classes != self.classes:
                raise ValueError("the card's classes are not those of its network")
        if outputs != len(self.classes):
            raise ValueError(f"the card names {len(self.classes)} classes, its network has {outputs}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError("the card's mean and std must be finite, and std above 0")

    @property
    def described(self) -> Described:
        """The network, whichever it is."""
        found = self.detector or self.cascade or self.localizer
        assert found is not None
        return found

    @property
    def masks(self) -> bool:
        """Whether answers carry masks."""
        return self.cascade is not None or (self.detector is not None and self.detector.masks is not None)


def card_of(
    described: Described, *, name: str, classes: tuple[str, ...], mean: Colours, std: Colours, procedure: Procedure
) -> DetectorCard:
    """The card of a network of this description, without a history."""
    return DetectorCard(
        name=name,
        classes=classes,
        mean=mean,
        std=std,
        procedure=procedure,
        detector=described if isinstance(described, DetectorDescription) else None,
        cascade=described if isinstance(described, CascadeDescription) else None,
        localizer=described if isinstance(described, LocalizerDescription) else None,
    )


def to_json(card: DetectorCard) -> str:
    """The card as the text that travels in a file's metadata; `from_json` undoes it."""
    return msgspec.json.encode(card, order="deterministic").decode()


def from_json(text: str) -> DetectorCard:
    """The card; `ValueError` names the field that is wrong, or that no card has."""
    try:
        return convert(msgspec.json.decode(text), DetectorCard)
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"its card cannot be read: {problem}") from None
