"""Trainings by their content: where one lies, whether it is done, and what is left of it.

    OUT/runs/<model>-<recipe>-<first 8 digits of the key>-seed<N>/     a run folder, plus finished.json or failed.json

A training that two experiments need is one folder; one that was cut off goes on from its newest checkpoint.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from residual.records import RunFolder, make_folder, read_json, write_json
from residual.reproduce.data import source
from residual.reproduce.experiment import AnySetting, DetectionSetting, Setting

State = Literal["done", "unfinished", "absent"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One setting with one seed."""

    setting: AnySetting
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What makes it this training: equal ones are done once."""
        return self.setting.key, self.seed

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.setting.model}-{self.setting.recipe.name}-{self.setting.key[:8]}-seed{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Finish:
    """finished.json: written when everything else of a run is.  seconds: of training, over all its sittings."""

    key: str
    seed: int
    iterations: int
    seconds: float
    hardware: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """failed.json: why a run could not be finished.  diverged: its numbers ran away, whoever computes it."""

    reason: str
    diverged: bool


@dataclass(frozen=True)
class Store:
    """The runs in a folder."""

    out: Path

    def path(self, run: Run) -> Path:
        """The run's folder, whether it exists or not; one network may have been trained under another of its names."""
        own = self.out / "runs" / run.name
        alike = sorted(own.parent.glob(f"*-{run.setting.key[:8]}-seed{run.seed}")) if not own.exists() else []
        return alike[0] if alike else own

    def state(self, run: Run) -> State:
        """Whether a run is done, was begun, or is not there."""
        if not (self.path(run) / "run.json").is_file():
            return "absent"
        return "done" if self.finish(run) is not None else "unfinished"

    def finish(self, run: Run) -> Finish | None:
        """How a finished run ended; None for others.  Refuses a folder that holds another training."""
        path = self.path(run) / "finished.json"
        if not path.is_file():
            return None
        found = read_json(path, Finish)
        if (found.key, found.seed) != (run.setting.key, run.seed):
            raise ValueError(
                f"{path.parent} holds the training {found.key} with seed {found.seed}, not {run.setting.key} with "
                f"seed {run.seed}; move it away, or name another folder with --out"
            )
        return found

    def failure(self, run: Run) -> Failure | None:
        """Why a run ended badly; None for one that did not, or is done after all."""
        path = self.path(run) / "failed.json"
        return read_json(path, Failure) if path.is_file() and self.state(run) != "done" else None

    def set_failed(self, run: Run, failure: Failure) -> None:
        """Remember that a run ended badly: its row must not be judged by the others, now or later."""
        make_folder(self.path(run))
        write_json(self.path(run) / "failed.json", failure)

    def set_finished(self, run: Run, *, seconds: float) -> None:
        """Say that a run is complete: only now it counts."""
        about = RunFolder.open(self.path(run)).description["environment"]
        found = Finish(
            key=run.setting.key,
            seed=run.seed,
            iterations=iterations(run.setting),
            seconds=round(seconds, 3),
            hardware=str(about.get("gpu") or about.get("cpu")),
        )
        write_json(self.path(run) / "finished.json", found)

    def safe(self, run: Run) -> int:
        """Iterations that the newest checkpoint of a run holds."""
        found = [path.stem.removeprefix("step-") for path in (self.path(run) / "checkpoints").glob("step-*.json")]
        return max((int(step) for step in found if step.isdigit()), default=0)

    def done(self, run: Run) -> int:
        """Iterations that are behind a run, as far as its measurements tell."""
        match self.state(run):
            case "done":
                return iterations(run.setting)
            case "unfinished":
                lines = RunFolder.open(self.path(run)).metrics()
                return min(iterations(run.setting), max((line.get("step", 0) for line in lines), default=0))
        return 0


def iterations(setting: AnySetting) -> int:
    """The length of a training, in batches."""
    return setting.recipe.length(training_images(setting))


def training_images(setting: AnySetting) -> int:
    """How many images it learns from: all but those that the recipe holds out, of a detector's data none."""
    held = 0.0 if isinstance(setting, DetectionSetting) else setting.recipe.validation
    return max(1, round(source(setting.data).train * (1 - held)))


def shortened(setting: AnySetting, length: int) -> AnySetting:
    """The same training over `length` iterations: the schedule is made of fractions and keeps its shape."""
    if isinstance(setting, Setting):
        return replace(setting, recipe=replace(setting.recipe, iterations=length, epochs=None))
    return replace(setting, recipe=replace(setting.recipe, iterations=length, epochs=None))
