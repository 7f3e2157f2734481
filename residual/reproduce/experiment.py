"""What an experiment is: the paper's numbers and claims, the trainings that test them, and how a number is read off.

One table or figure is one file in residual/experiments/ that fills in these descriptions; nothing runs there.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec

from residual.models.catalog import describe, varied
from residual.models.description import Description
from residual.recipes.detection import DetectionRecipe
from residual.recipes.plan import told
from residual.recipes.recipe import Recipe
from residual.reproduce.detection_ledger import DetectionProtocol
from residual.reproduce.ledger import Protocol

Measure = Callable[[Sequence[Path]], float]
"""The number of a row, from the finished run folders of its settings, trained with one seed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One training of a classifier, told completely except for its seed.

    model: a name of the catalog; changes: fields of its description that differ.
    data: the name of the data set, as `DATA` in reproduce/data.py lists them; where it lies is the user's to say.
    size: side of the images, None for the data's own.
    """

    model: str
    recipe: Recipe
    data: str
    changes: dict[str, Any] = field(default_factory=dict)
    size: int | None = None

    @property
    def description(self) -> Description:
        """Of the network as the catalog and the changes have it; data decides its classes later."""
        return varied(describe(self.model), self.changes)

    @cached_property
    def key(self) -> str:
        """16 hex digits that name this training by its content: equal trainings of two experiments are one run."""
        return _digest(told(self.description), told(self.recipe), self.data, self.size)


@dataclass(frozen=True, kw_only=True)
class DetectionSetting:
    """One training of a detector, told completely except for its seed.

    model: a detector's name, as detect/catalog.py reads it.  data: as in `Setting`.
    trunk: the name, among `DATA` too, of the trained classifier that it begins with; None: random weights.
    member: of an ensemble, counted from 0: the same training with other random numbers.
    """

    model: str
    recipe: DetectionRecipe
    data: str
    trunk: str | None = None
    member: int = 0

    @cached_property
    def key(self) -> str:
        """As of a `Setting`."""
        return _digest(self.model, told(self.recipe), self.data, self.trunk, self.member)


AnySetting = Setting | DetectionSetting


def _digest(*decisive: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(decisive, order="deterministic")).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Printed:
    """A number as the paper prints it, in the unit of its row.

    kind: what the number is of `n` runs.  The paper's other numbers of the same runs stand beside it.
        "above", "below": the paper prints no number, only that the median of `n` runs lies on that side of `value`.
    std: standard deviation over the runs, where printed.
    """

    value: float
    kind: Literal["single", "mean", "median", "best", "exact", "above", "below"] = "single"
    n: int = 1
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of the paper and how it is measured.

    settings: the trainings it needs, one of each per seed; none for a number that is computed or only cited.
    measure: reads it off their run folders (given none if there are no settings); None: only cited.
    seeds: how many runs the whole experiment asks for.
    resolution: half-width of an interval, in the row's unit, from which on the row counts as measured.
    planted: the row measures something wrong on purpose, so its verdict must be "differs"; it tests the test.
    note: what a reader has to know of how the number is made; it stands beside the verdict.
    """

    name: str
    unit: str
    paper: Printed | None = None
    settings: tuple[AnySetting, ...] = ()
    measure: Measure | None = None
    seeds: int = 1
    resolution: float = 1.0
    planted: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison that the paper draws: the mean of each row named in `rising` is below that of the next.

    margin: by how much the lower may be higher and still count ("no worse, within a point").
    """

    text: str
    rising: tuple[str, ...]
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve of a figure: what it is called, and the setting whose runs draw it.

    panel: the name of the part of the figure it belongs to.
    of: reads one line off a run folder, as (x, y) points per name, e.g. {"training error": [...], "test error": [...]}.
    """

    name: str
    panel: str
    setting: Setting
    of: Callable[[Path], dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure.  source: where it stands.  claim: what it says, in a sentence.

    data: names of the data sets it needs, and of the trained weights.  x, y: what the axes of a figure are.
    protocol: what the paper says of how it trained a network of this description, or its detectors; None: nothing to
        compare with.
    twin_of: name of the experiment of the paper that this one repeats in small on other data; it prints no number of
        the paper's and its verdicts are its own.
    """

    name: str
    title: str
    source: str
    claim: str
    rows: tuple[Row, ...] = ()
    claims: tuple[Claim, ...] = ()
    lines: tuple[Line, ...] = ()
    data: tuple[str, ...] = ()
    x: str = ""
    y: str = ""
    twin_of: str | None = None
    protocol: Callable[[Description], Protocol] | DetectionProtocol | None = None

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"experiment {self.name!r} has two rows {repeated[0]!r}")
        for claim in self.claims:
            if unknown := [name for name in claim.rising if name not in names]:
                raise ValueError(f"experiment {self.name!r} claims something of {unknown[0]!r}, which is not a row")
        if self.twin_of is not None and any(row.paper for row in self.rows):
            raise ValueError(
                f"{self.name!r} repeats {self.twin_of!r} on other data; the paper's numbers do not belong beside it"
            )

    @property
    def settings(self) -> tuple[AnySetting, ...]:
        """Every training it needs, each once, in the order of rows and lines."""
        found = [setting for row in self.rows for setting in row.settings]
        found += [line.setting for line in self.lines]
        return tuple({setting.key: setting for setting in found}.values())
