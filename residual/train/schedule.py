"""The learning rate, as a pure function of how far training has come; and the pace that decides how far that is."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from residual.records import convert


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over a training whose length is a fraction from 0 to 1.

    shape: "steps" multiplies by `factor` at each of `drops`; "linear" and "cosine" fall to zero.
    rate: the highest rate.  drops: fractions of the training; section 4.2's 32k and 48k of 64k are 0.5 and 0.75.
    warmup: fraction of the training in which the rate climbs linearly from `warmup_from` to `rate`.
    warmup_rate, warmup_error: hold `warmup_rate` until the training error has fallen under `warmup_error`
        percent (section 4.2 for 110 layers: 0.01 until 80 %); None: no such warm-up.
    hold: fraction of the training in which `warmup_rate` is held, whatever the error.
    """

    shape: Literal["steps", "linear", "cosine"]
    rate: float
    drops: tuple[float, ...] = ()
    warmup: float = 0.0
    warmup_rate: float = 0.01
    warmup_error: float | None = None
    factor: float = 0.1
    warmup_from: float = 0.0
    hold: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise ValueError(f"the learning rate must be above 0, got {self.rate}")
        if self.drops and self.shape != "steps":
            raise ValueError(f"drops {self.drops} belong to a schedule of steps; this one is {self.shape!r}")
        if list(self.drops) != sorted(self.drops) or not all(0 < drop < 1 for drop in self.drops):
            raise ValueError(f"drops are rising fractions of the training, between 0 and 1, got {self.drops}")
        if not 0 < self.factor < 1:
            raise ValueError(f"factor is what a drop leaves of the rate, above 0 and below 1, got {self.factor}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is the fraction of the training in which the rate climbs, got {self.warmup}")
        if not 0 <= self.hold < 1:
            raise ValueError(f"hold is the fraction of the training in which the rate is held, got {self.hold}")
        if (self.warmup > 0) + (self.hold > 0) + (self.warmup_error is not None) > 1:
            raise ValueError("a warm-up ends at a fraction of the training or at a training error, not at both")
        if not 0 <= self.warmup_from <= self.rate:
            raise ValueError(f"a warm-up climbs to the rate {self.rate}; it cannot begin at {self.warmup_from}")

    def at(self, progress: float) -> float:
        """The rate when `progress` (0 to 1) of the training is done; `warmup_error` is the pace's business."""
        if progress < self.hold:
            return self.warmup_rate
        if progress < self.warmup:
            return self.warmup_from + (self.rate - self.warmup_from) * progress / self.warmup
        done = (progress - self.warmup) / (1 - self.warmup)
        match self.shape:
            case "steps":
                return self.rate * self.factor ** sum(progress >= drop for drop in self.drops)
            case "linear":
                return self.rate * (1 - done)
            case "cosine":
                return self.rate * (1 + math.cos(math.pi * done)) / 2


class Pace:
    """Where a training stands on its schedule.  Its state is part of every checkpoint.

    With `iterations` given the progress is step / iterations, exactly.  With a time budget the caller tells
    from time to time how many iterations still fit (`replan`), and what is left of the schedule is spread
    over them; each plan is remembered, so a resumed run continues on the same line.
    """

    def __init__(self, schedule: Schedule, iterations: int) -> None:
        if iterations < 1:
            raise ValueError(f"a training has at least one iteration, got {iterations}")
        self.schedule = schedule
        self.iterations = iterations  # in all, by the newest plan
        self.planned_at = 0  # the step of the newest plan
        self.progress_then = 0.0
        self.warming = schedule.warmup_error is not None
        self.error = 100.0  # %, running mean of the training error

    def progress(self, step: int) -> float:
        """Share of the training done before iteration `step` (counted from 0)."""
        if self.planned_at == 0:
            return step / self.iterations
        share = (step - self.planned_at) / max(self.iterations - self.planned_at, 1)
        return self.progress_then + (1 - self.progress_then) * min(share, 1.0)

    def rate(self, step: int) -> float:
        """The learning rate of iteration `step` (counted from 0)."""
        return self.schedule.warmup_rate if self.warming else self.schedule.at(self.progress(step))

    def saw_error(self, percent: float) -> None:
        """Tell the training error of an iteration; ends the warm-up when its running mean is low enough."""
        if self.warming and self.schedule.warmup_error is not None:
            self.error += 0.02 * (percent - self.error)  # about the last 50 iterations
            self.warming = self.error >= self.schedule.warmup_error

    def replan(self, step: int, iterations: int) -> None:
        """From iteration `step` on, spread what is left of the schedule up to `iterations` in all."""
        self.progress_then = self.progress(step)
        self.planned_at, self.iterations = step, max(iterations, step + 1)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the pace."""
        return {name: value for name, value in vars(self).items() if name != "schedule"} | {
            "schedule": asdict(self.schedule)
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from `state`; refuses another schedule."""
        mine = self.state()
        if state.keys() != mine.keys():
            raise ValueError(f"the checkpoint's pace lacks or adds {sorted(state.keys() ^ mine.keys())}")
        if convert(state["schedule"], Schedule) != self.schedule:
            raise ValueError(f"the checkpoint was trained with the schedule {state['schedule']}")
        for name in mine.keys() - {"schedule"}:
            setattr(self, name, state[name])
