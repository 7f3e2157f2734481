"""What a file of a detector's weights says about itself, so that it can be used without asking anybody (law 1)."""

import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import msgspec

from residual.detect.cascade import CascadeDescription
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import LocalizerDescription
from residual.detect.procedure import Procedure
from residual.detect.proposals import ProposalDescription
from residual.models.description import Description
from residual.records import convert

FORMAT = 1
Colours = tuple[float, float, float]  # of RGB values in 0 to 1
Described = DetectorDescription | CascadeDescription | LocalizerDescription
STAGES = 8  # of a trunk; of fewer than two none would be left for regions
BLOCKS = 1_000  # of a trunk; ResNet-1202 has 600
REFERENCES = 1_000  # anchors at a place
BOUNDS: dict[str, tuple[int, int]] = {  # least and greatest of what descriptions count, by its name
    "widths": (1, 1 << 15),
    "stem_width": (1, 1 << 15),
    "inner": (0, 64),
    "width": (1, 1 << 15),
    "hidden": (1, 1 << 15),
    "convs": (0, 64),
    "pooled": (1, 32),
    "warped": (1, 128),
    "mask": (1, 128),
    "side": (1, 2_048),
    "classes": (1, 100_000),
    "sizes": (0, 1 << 20),
    "shapes": (0, 1 << 10),
    "before": (1, 100_000),
    "after": (1, 10_000),
    "candidates": (1, 10_000),
    "most": (1, 10_000),
}


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
        refuse_giants(described)
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


def refuse_giants(described: Any, of: str = "") -> None:
    """Refuse what nobody could build or run, before any of it is built: a description is a stranger's word.

    of: the part of the card's network that this is, as told.
    """
    for part in fields(described):
        value, name = getattr(described, part.name), f"{of}{part.name}"
        if is_dataclass(value):
            refuse_giants(value, f"{name}.")
        elif part.name == "depths" and not (2 <= len(value) <= STAGES and sum(value) <= BLOCKS):
            raise ValueError(
                f"the card's {name} tells {len(value):,} stages of {sum(value):,} blocks in all; a detector's trunk "
                f"has 2 to {STAGES} stages of at most {BLOCKS:,}"
            )
        elif part.name in BOUNDS and value is not None:
            least, most = BOUNDS[part.name]
            counted = len(value) if part.name == "classes" and isinstance(value, tuple) else value
            for number in counted if isinstance(counted, tuple) else (counted,):
                if not least <= number <= most:
                    raise ValueError(f"the card's {name} tells {number:,}; it goes from {least:,} to {most:,}")
    if isinstance(described, Description) and (described.dims, described.channels) != (2, 3):
        raise ValueError(
            f"the card's {of}dims and channels are {described.dims} and {described.channels}; a detector looks at "
            "pictures, which have 2 and 3"
        )
    if isinstance(described, ProposalDescription | LocalizerDescription) and not 1 <= described.anchors <= REFERENCES:
        raise ValueError(
            f"the card's {of}sizes and shapes make {described.anchors:,} anchors at a place; there are 1 to "
            f"{REFERENCES:,}"
        )


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
    except (ValueError, ArithmeticError, RecursionError) as problem:
        raise ValueError(f"its card cannot be read: {problem}") from None
