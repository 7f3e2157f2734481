"""What a run folder holds, as the report reads it: run.json, metrics.jsonl and evaluation.json.

Only run.json must be there.  Other parts, and fields with a default, may be missing; the report says so.
"""

from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct, field

from residual import records

T = TypeVar("T")
Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


class Description(Struct, frozen=True, kw_only=True):
    """run.json: what was to be done, with what, where."""

    name: str
    model: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seed: int | None = None
    environment: dict[str, Any] = {}
    command: str | list[str] = ""
    started: str = ""
    stages: list[dict[str, Any]] = []
    preprocessing: dict[str, Any] = {}
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
    """One error on images that were not trained on, measured while training."""

    step: int
    split: Split
    averaged: bool  # of the moving average of the weights, not of the weights themselves
    error: float  # percent


class Run(Struct, frozen=True, kw_only=True):
    """All that a run folder says."""

    path: Path
    description: Description
    metrics: list[dict[str, Any]]
    evaluation: Evaluation | None
    best: Evaluation | None


def read(path: Path) -> Run:
    """The run folder `path`; a ValueError says what is wrong with it."""
    if not (path / "run.json").is_file():
        raise ValueError(
            f"there is no run in {path}: a run folder holds run.json, and this one does not. "
            f"Train one with: residual train --model resnet20 --data digits --out {path}"
        )
    return Run(
        path=path,
        description=read_known(path / "run.json", Description),
        metrics=records.RunFolder(path).metrics(),
        evaluation=_read_if_there(path / "evaluation.json"),
        best=_read_if_there(path / "evaluation-best.json"),
    )


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
        if isinstance(line.get(name), int | float) and isinstance(line.get("step"), int | float)
    ]
    return tuple(step for step, _ in pairs), tuple(value for _, value in pairs)


def looks(metrics: list[dict[str, Any]]) -> list[Look]:
    """The errors measured while training, in order; those of the final evaluation are not among them."""
    found = []
    for line in metrics:
        for split in SPLITS:
            error, step = line.get(f"{split}_error"), line.get("step")
            if isinstance(error, int | float) and isinstance(step, int) and not line.get("final"):
                averaged = line.get("weights") == "average"
                found.append(Look(step=step, split=split, averaged=averaged, error=float(error)))
    return found


def _read_if_there(path: Path) -> Evaluation | None:
    return read_known(path, Evaluation) if path.is_file() else None
