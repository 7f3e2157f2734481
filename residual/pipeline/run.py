"""What every run goes through, whatever is learned: its folder, its checkpoints, its loop, its end.

    plan -> data -> model -> train -> evaluate -> record

`Run` is the story; `classification` and `detection` tell it of images with a label and of images with objects.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from residual.events import Finished, Measured, Note, Progress, Reading, Started, Stopped
from residual.recipes.detection_plan import DetectionPlan
from residual.recipes.plan import Plan
from residual.records import CannotWrite, RunFolder, environment, write_json
from residual.train import distributed
from residual.train.budget import Budget
from residual.train.checkpoint import Checkpoint, Checkpoints
from residual.train.clock import Clock
from residual.train.distributed import World
from residual.train.loop import NonFinite, Step, Training
from residual.train.precision import keep_freed_memory, pick_device, pick_precision, settle
from residual.train.schedule import Pace, Schedule
from residual.train.sharded import ShardedState
from residual.train.tensorboard import TensorBoard

WARMING = 2  # iterations at the beginning of a sitting that say nothing about speed
FEW = 100  # held-out images below which an error says little
SAVE_EVERY = 60.0  # seconds between checkpoints


class Diverged(ArithmeticError):
    """Training met numbers that are not finite, twice at the same place."""


class Stop:
    """Set `signal` and training ends after the iteration under way, with a checkpoint."""

    def __init__(self) -> None:
        self.signal = 0


class SomeGround(Protocol):
    """A plan that has met its data and its machine: what is written down of it, and what makes it this run."""

    def description(self, run: Path, *, processes: int, environment: dict[str, Any]) -> dict[str, Any]:
        """run.json."""

    def identity(self) -> str:
        """What a checkpoint must agree with to be of this run."""

    def refuse_other(self, then: dict[str, Any], run: Path) -> None:
        """Raise ValueError for other images or other arithmetic than the run began with."""


class SomeData(Protocol):
    """The images that a run has read."""

    @property
    def origin(self) -> str:
        """Where they came from, in words."""

    def splits(self) -> Mapping[str, Any]:
        """Those of each split by its name; "train" is among them."""


class SomeTotals(Protocol):
    """What has been measured since the last line of metrics.jsonl."""

    def state(self) -> Any:
        """What a checkpoint keeps of them."""

    def load(self, state: Any) -> None:
        """Continue from `state`."""


P = TypeVar("P", bound=Plan | DetectionPlan)


class Run(ABC, Generic[P]):
    """One training from its plan to its files: what its chapters share."""

    plan: P
    data: SomeData
    training: Training
    pace: Pace
    budget: Budget
    totals: SomeTotals
    folder: RunFolder
    checkpoints: Checkpoints
    sharded: ShardedState | None = None

    def __init__(self, plan: P, path: Path, stop: Stop, world: World, place: str | None = None) -> None:
        self.plan, self.path, self.stop, self.world = plan, path, stop, world
        self.place = place or plan.data  # of the images: the plan's, unless they have moved since
        self.batch = plan.recipe.batch  # images per iteration, of all processes
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.best_error: float | None = None
        self.device = pick_device(plan.device)
        if self.device.type == "cuda" and world.size > 1:
            self.device = torch.device("cuda", world.local_rank)
        self.precision = pick_precision(plan.recipe.precision, self.device)
        self.tensorboard = TensorBoard(path / "tensorboard") if plan.tensorboard and world.leads else None
        keep_freed_memory()
        settle(self.precision)

    # --- what is told of each kind of run ----------------------------------------------------------------------

    @abstractmethod
    def open_data(self, progress: Callable[[int, int], None]) -> None:
        """Read the images.  progress: told (files read, files in all)."""

    @abstractmethod
    def build(self, then: dict[str, Any] | None) -> None:
        """The network for these images, its training, pace, totals and budget.  then: run.json of a resumed run."""

    @abstractmethod
    def ground(self) -> SomeGround:
        """The plan on its data."""

    @abstractmethod
    def started(self) -> Started:
        """What is told when all stands."""

    @abstractmethod
    def remarks(self) -> Iterator[Note]:
        """What a user should know of these images before the numbers come."""

    @abstractmethod
    def steps(self, *, check_every: int | None) -> Iterator[Step]:
        """The loop from here on."""

    @abstractmethod
    def count(self, step: Step) -> None:
        """Add an iteration to the running totals."""

    @abstractmethod
    def take(self) -> tuple[float, dict[str, float]]:
        """The mean loss since the last line, and what else belongs into it."""

    @abstractmethod
    def look(self, step: int) -> Measured | None:
        """Measure on held-out images now.  Only validation images may choose the best checkpoint."""

    @abstractmethod
    def judge(self, which: str, tensors: dict[str, Tensor], step: int) -> dict[str, Any] | None:
        """Write one set of weights, and its evaluation where there are images to evaluate on."""

    @abstractmethod
    def files_of(self, step: int) -> list[str]:
        """The names of the images in iteration `step` (counted from 1)."""

    # --- data -> model ---------------------------------------------------------------------------------------

    def events(self, *, resume: bool) -> Iterator[object]:
        """The chapters in order."""
        then = RunFolder.open(self.path).description if resume else None
        with distributed.leader_first(self.world):  # what it downloads or decodes, the others find
            yield from self.read_data()
        self.build(then)
        with ExitStack() as held:
            newest = distributed.from_leader(lambda: self.open_folder(then, held), self.world)
            if newest is not None:
                self.seconds_before = newest.state["seconds"]
            yield from self.restore(newest)
            if newest is not None:
                self.write(newest.step, {"resumed": environment()})
            yield self.started()
            yield from self.remarks()
            finished = yield from self.learn()
            if finished and self.world.leads:
                yield from self.conclude()

    def read_data(self) -> Iterator[Reading]:
        """The splits; read beside this thread, so that it can tell how far."""
        far: list[tuple[int, int]] = []
        with ThreadPoolExecutor(max_workers=1) as beside:
            reading = beside.submit(self.open_data, lambda done, total: far.append((done, total)))
            while not wait([reading], timeout=0.5).done:
                if far:
                    yield Reading(done=far[-1][0], total=far[-1][1])
            reading.result()

    def open_folder(self, then: dict[str, Any] | None, held: ExitStack) -> Checkpoint | None:
        """The run's folder, new or as it was left, locked as long as `held`; its newest whole checkpoint."""
        ground = self.ground()
        if then is None:
            described = ground.description(self.path, processes=self.world.size, environment=environment())
            self.folder = RunFolder.create(self.path, described)
        else:
            self.folder = RunFolder.open(self.path)
            ground.refuse_other(then, self.path)
        held.enter_context(self.folder.lock())
        self.checkpoints = Checkpoints(self.path / "checkpoints", identity=ground.identity())
        newest = self.checkpoints.newest()
        if newest is None and (measured := self.folder.metrics()):
            raise ValueError(
                f"{self.path} was trained until iteration {measured[-1]['step']}, but no checkpoint is left in "
                f"{self.checkpoints.folder}; put them back, or start a new run with --out"
            )
        return newest

    def set_pace(
        self,
        schedule: Schedule,
        iterations: int,
        *,
        averaged_over: int = 0,
        most_looked_at: int | None = None,
        guess: float = 0.4,
    ) -> None:
        """How long the training is, and what else its time goes to.

        averaged_over: images of exact statistics, for each set of weights at the end.  most_looked_at: held-out images
        of a look; None: all.  guess: see `Budget`.
        """
        splits, held = self.data.splits(), self.held_out()
        if self.plan.budget is not None:  # a first guess, not so short that it ends before the clock has spoken
            iterations = max(iterations, 1000)
        self.pace = Pace(schedule, iterations)
        looked_at = len(held[1]) if held else 0
        tested = len(splits.get("test", splits.get("validation", ())))
        weights = 2 if "validation" in splits else 1  # the last and the best
        self.budget = Budget(
            self.plan.budget,
            batch=self.batch,
            looks=self.plan.looks,
            looked_at=looked_at if most_looked_at is None else min(looked_at, most_looked_at),
            at_the_end=weights * (tested + 2 * averaged_over),
            guess=guess,
        )

    # --- train -----------------------------------------------------------------------------------------------

    def learn(self) -> Generator[object, None, bool]:
        """Train to the end of the plan; False if asked to stop before.

        When the numbers turn bad, go back to the last checkpoint, once; a second time at the same place is the end.
        The second time every iteration is looked at, also where a look waits for the device.
        """
        failed_at = 0
        while True:
            try:
                return (yield from self.iterate(carefully=failed_at > 0))
            except NonFinite as failure:
                if failure.step <= failed_at:
                    names = self.files_of(failure.step)
                    raise Diverged(
                        f"{failure} again, after going back to a checkpoint and training the same images once more. "
                        f"Lower the learning rate, or look at the images of that batch: {', '.join(names)}"
                    ) from failure
                failed_at = failure.step
                yield Note(f"{failure}; going back to the last checkpoint")
                yield from self.restore(distributed.from_leader(lambda: self.checkpoints.newest(), self.world))

    def iterate(self, *, carefully: bool) -> Generator[object, None, bool]:
        """The loop, with its record, its looks at held-out images and its checkpoints between the steps."""
        training, pace, world = self.training, self.pace, self.world
        record_every = max(1, round(self.epoch_length() / 10))
        began, clock, saved = training.step, Clock(training.step), time.monotonic()
        steps = self.steps(check_every=1 if carefully else None)
        while training.step < pace.iterations:
            step = next(steps)
            done = step.number >= pace.iterations
            if step.number <= began + WARMING:
                clock.restart(step.number)
            self.count(step)
            stopping = distributed.may_ask(step.number, world) and distributed.any_says(bool(self.stop.signal), world)
            recording = step.number % record_every == 0 or done
            if recording or stopping:
                training.refuse_non_finite()
            if recording:
                yield self.record(step.number, step.rate, clock)
            if not done and self.budget.replan(pace, clock, step.number, self.seconds(), world):
                self.write(step.number, {"plan": pace.iterations})
            best = False
            if world.leads and self.look_due(step.number):
                with clock.stopped():
                    measured = self.look(step.number)
                if measured is not None:
                    best = measured.best
                    yield measured
            saving = world.leads and (stopping or done or best or self.save_due(step.number, saved))
            if self.agree_to_save(saving and training.is_finite()):
                with clock.stopped():
                    yield from self.save(best=best, must=stopping or done)
                saved = time.monotonic()
            if stopping and not done:
                yield Stopped(step=step.number, signal=self.stop.signal)
                return False
        return True

    def look_due(self, step: int) -> bool:
        """Whether another part of the training has just been completed, of as many as there are to be looks."""
        looks = self.plan.looks
        before, now = (math.floor(self.pace.progress(at) * looks + 1e-9) for at in (step - 1, step))
        return now > before and (now == looks or self.budget.looks_fit())

    def save_due(self, step: int, saved: float) -> bool:
        if self.plan.save_steps is not None:
            return step % self.plan.save_steps == 0
        return time.monotonic() - saved > SAVE_EVERY

    def seconds(self) -> float:
        """Time spent on this run, before and after it was resumed."""
        return self.seconds_before + time.monotonic() - self.began

    def record(self, step: int, rate: float, clock: Clock) -> Progress:
        """A line in metrics.jsonl: means over the iterations since the line before."""
        loss, others = self.take()
        per_step = clock.seconds_per_step(step)
        self.write(step, {"rate": rate, "loss": loss, **others})
        return Progress(
            step=step,
            iterations=self.pace.iterations,
            epoch=self.epoch(step),
            loss=loss,
            rate=rate,
            train_error=others.get("train_error"),
            images_per_second=self.batch / per_step,
            seconds_left=self.budget.seconds_left(self.pace, step, per_step, self.seconds()),
        )

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """A line in metrics.jsonl, with when it was."""
        line = {"step": step, "epoch": round(self.epoch(step), 4), "time": round(self.seconds(), 3), **numbers}
        if self.world.leads:
            self.folder.append(line)
        if self.tensorboard is not None:
            self.tensorboard.write(line)

    def epoch(self, step: int) -> float:
        """Passes over the training images after `step` iterations."""
        return step / self.epoch_length()

    def epoch_length(self) -> float:
        """Iterations that see as many images as there are."""
        return len(self.data.splits()["train"]) / self.batch

    def held_out(self) -> tuple[str, Any] | None:
        """What is looked at while training: the validation images, or without them the test images."""
        return self.first_of("validation", "test")

    def tested(self) -> tuple[str, Any] | None:
        """What the end is measured on: the test images, or without them the validation images."""
        return self.first_of("test", "validation")

    def first_of(self, *names: str) -> tuple[str, Any] | None:
        """The first of these splits that there is."""
        splits = self.data.splits()
        return next(((name, splits[name]) for name in names if name in splits), None)

    def chooses(self, split: str, error: float) -> bool:
        """Whether these weights are the best until now, and from now on to be beaten; only validation images choose."""
        best = split == "validation" and (self.best_error is None or error < self.best_error)
        if best:
            self.best_error = error
        return best

    # --- checkpoints -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the tensors."""
        return {
            "training": self.training.state(),
            "pace": self.pace.state(),
            "totals": self.totals.state(),
            "best_error": self.best_error,
            "seconds": self.seconds(),
        }

    def agree_to_save(self, leader_would: bool) -> bool:
        """Whether this process has to do with a checkpoint: the leader writes it, and gathers what is shared out."""
        return leader_would if self.sharded is None else distributed.any_says(leader_would, self.world)

    def save(self, *, best: bool = False, must: bool = True) -> Iterator[Note]:
        """A checkpoint of this moment.  One that cannot be written is told, and an error only if it `must`."""
        if self.sharded is not None:
            self.sharded.gather()
        try:
            if self.world.leads:
                self.checkpoints.save(self.training.step, self.training.tensors(), self.state(), best=best)
        except CannotWrite as error:
            if must:
                raise
            yield Note(f"{error}; training goes on")
        finally:
            if self.sharded is not None:
                self.sharded.forget()

    def restore(self, newest: Checkpoint | None) -> Iterator[Note]:
        """Go on from the newest whole checkpoint; without any, keep the beginning as the first one."""
        while self.world.leads and self.checkpoints.notes:
            yield Note(self.checkpoints.notes.pop(0))
        if newest is None:
            if self.agree_to_save(self.world.leads):
                yield from self.save()
            return
        state = newest.state
        if odd := sorted(state.keys() ^ self.state().keys()):
            raise ValueError(f"{newest.path} lacks or adds {odd[0]!r}; it is of another version of residual")
        self.training.load(newest.tensors, state["training"])
        self.pace.load(state["pace"])
        self.totals.load(state["totals"])
        self.best_error = state["best_error"]
        if self.world.leads:
            self.folder.keep_until(newest.step)

    # --- evaluate -> record -----------------------------------------------------------------------------------

    def conclude(self) -> Iterator[object]:
        """The last weights and the best ones: exact statistics, error on the test images, files."""
        evaluations = {"last": self.judge("last", self.training.tensors(), self.training.step)}
        if "validation" in self.data.splits() and (best := self.checkpoints.best()) is not None:
            evaluations["best"] = self.judge("best", best.tensors, best.step)
        while self.checkpoints.notes:
            yield Note(self.checkpoints.notes.pop(0))
        yield Finished(
            run=self.path,
            evaluations={name: judged for name, judged in evaluations.items() if judged is not None},
            seconds=self.seconds(),
        )

    def history(self, which: str, step: int) -> dict[str, Any]:
        """How one set of weights came to be, which travels with them."""
        return {
            "recipe": self.plan.recipe.name,
            "data": self.data.origin,
            "seed": self.plan.seed,
            "iterations": step,
            "epochs": round(self.epoch(step), 3),
            "weights": which,
            "commit": self.folder.description["environment"]["commit"],  # what the run began with
        }

    def weights_of(self, which: str) -> Path:
        """The file of one set of weights."""
        return self.path / ("model.safetensors" if which == "last" else f"{which}.safetensors")

    def keep_evaluation(self, found: dict[str, Any], step: int, name: str, value: float) -> None:
        """Write what was found of one set of weights, and its one number into metrics.jsonl."""
        which = found["weights"]
        self.write(step, {f"{found['split']}_{name}": value, "weights": which, "final": True})
        write_json(self.path / ("evaluation.json" if which == "last" else f"evaluation-{which}.json"), found)
