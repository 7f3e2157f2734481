"""What happens while a network trains, as the pipeline tells it to whoever watches.  No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Images are being read before training: so many of so many files."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Started:
    """Data is read and the network stands; `step` iterations were done before (a resumed run)."""

    run: Path
    network: str
    parameters: int
    images: dict[str, int]  # split -> number
    size: int  # side of the square that the network sees, or the shorter side of a detector's images, pixels
    problems: tuple[tuple[str, str], ...]  # files left out: path, reason
    device: str
    step: int
    square: bool = True  # whether the network sees squares


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A stretch of iterations is done; loss and training error (percent, of classifiers) are its means."""

    step: int
    iterations: int
    epoch: float
    loss: float
    rate: float
    train_error: float | None
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was measured on held-out images in the middle of training, percent."""

    step: int
    split: str
    value: float
    best: bool
    measure: str = "error"  # of which less is better; or "mAP@.5", of which more is


@dataclass(frozen=True)
class Note:
    """Something the user should know, in a sentence."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Training was asked to stop; the checkpoint of this step is safe."""

    step: int
    signal: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete.  evaluations: "last" and perhaps "best", each the content of an evaluation file."""

    run: Path
    evaluations: dict[str, dict[str, Any]]
    seconds: float
