"""What a run folder holds, as the report reads it: run.json, metrics.jsonl and evaluation.json.

Only run.json must be there.  Other parts, and fields with a default, may be missing; the report says so.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeGuard, TypeVar

import msgspec
from msgspec import Struct, field

from residual import records

T = TypeVar("T")
Split = Literal["validation", "test"]
LARGEST = 1e300  # what is beyond it, also an integer of a thousand digits, is not drawn
SPLITS: tuple[Split, ...] = ("validation", "test")


class Description(Struct, frozen=True, kw_only=True):
    """run.json: what was to be done, with what, where."""

    name: str
    task: str = "classification"
    model: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seed: int | None = None
    environment: dict[str, Any] = {}
    command: str | list[str] = ""
    started: str = ""
    stages: list[dict[str, Any]] = []
    preprocessing: dict[str, Any] = {}
    procedure: dict[str, Any] = {}
    plan: dict[str, Any] = {}
    device: str = ""
    precision: str = ""
    processes: int = 1


class ClassError(Struct, frozen=True, kw_only=True):
    """The error on the images of one class."""

    name: str = field(name="class")
    images: int
    error: float | None  # percent; none where the class has no image


class Bin(Struct, frozen=True, kw_only=True):
    """One bin of the reliability diagram."""

    confidence: float | None  # mean over the bin, 0 to 1; none in an empty bin
    accuracy: float | None
    count: int


class Mistake(Struct, frozen=True, kw_only=True):
    """An image that the network got wrong."""

    name: str
    truth: str
    predicted: str
    probability: float
    png: str = ""  # base64


class Evaluation(Struct, frozen=True, kw_only=True):
    """evaluation.json (the last weights) or evaluation-best.json (those best by validation).

    Errors in percent; probabilities and the calibration error as fractions.
    """

    split: str
    images: int
    top1_error: float
    top5_error: float | None = None
    interval: tuple[float, float] | None = None
    ece: float | None = None
    per_class: list[ClassError] = []
    confusion: list[list[int]] = []  # rows: truth, columns: prediction
    reliability: list[Bin] = []
    mistakes: list[Mistake] = []


class Look(Struct, frozen=True, kw_only=True):
    """One measurement on images that were not trained on, made while training."""

    step: int
    split: Split
    averaged: bool  # of the moving average of the weights, not of the weights themselves
    value: float  # percent


class Run(Struct, frozen=True, kw_only=True):
    """All that a run folder says."""

    path: Path
    description: Description
    metrics: list[dict[str, Any]]
    evaluation: Evaluation | None
    best: Evaluation | None


def read(path: Path) -> Run:
    """The run folder `path`; a ValueError says what is wrong with it."""
    return Run(
        path=path,
        description=describe(path),
        metrics=records.RunFolder(path).metrics(),
        evaluation=read_if_there(path / "evaluation.json", Evaluation),
        best=read_if_there(path / "evaluation-best.json", Evaluation),
    )


def describe(path: Path) -> Description:
    """The run.json of the run folder `path`."""
    if not (path / "run.json").is_file():
        raise ValueError(
            f"there is no run in {path}: a run folder holds run.json, and this one does not. "
            f"Train one with: residual train --model resnet20 --data digits --out {path}"
        )
    return read_known(path / "run.json", Description)


def read_if_there(path: Path, kind: type[T]) -> T | None:
    """The same of a file that a run has only when it ends."""
    return read_known(path, kind) if path.is_file() else None


def read_known(path: Path, kind: type[T]) -> T:
    """The fields of a JSON file that the report knows; others are none of its business."""
    values = records.read_json(path, dict[str, Any])
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} is not what it should be: {error}") from error


def series(metrics: list[dict[str, Any]], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(steps, values) of one quantity of metrics.jsonl, where it was measured and is a number."""
    pairs = [
        (float(line["step"]), float(line[name]))
        for line in metrics
        if _is_number(line.get(name)) and _is_number(line.get("step"))
    ]
    return tuple(step for step, _ in pairs), tuple(value for _, value in pairs)


def looks(metrics: list[dict[str, Any]], of: str = "error") -> list[Look]:
    """What was measured while training, in order; of the final evaluation nothing.  of: "error" or "map50"."""
    found = []
    for line in metrics:
        for split in SPLITS:
            value, step = line.get(f"{split}_{of}"), line.get("step")
            if _is_number(value) and isinstance(step, int) and not line.get("final"):
                averaged = line.get("weights") == "average"
                found.append(Look(step=step, split=split, averaged=averaged, value=float(value)))
    return found


def iterations(metrics: list[dict[str, Any]]) -> int:
    """How many were done."""
    return max((line["step"] for line in metrics if isinstance(line.get("step"), int)), default=0)


def hardest(rows: Iterable[ClassError]) -> list[ClassError]:
    """The classes with the largest error first, those without an image last."""
    return sorted(rows, key=lambda row: (-(row.error if row.error is not None else -1.0), row.name))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < LARGEST
