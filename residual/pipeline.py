"""The whole story on one page: a description becomes a run.

    plan -> data -> model -> train -> evaluate -> record

`train` is a generator: it yields what happens (residual/events.py) and whoever iterates decides how to show it.
"""

import hashlib
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from residual.data.batches import Batch, Order, training_batches
from residual.data.images import Dataset, ImageFiles, Images
from residual.data.sources import open_dataset
from residual.data.split import hold_out
from residual.data.statistics import adapted, measure_preprocessing, network_size
from residual.data.transforms import Normalize, Preprocessing, key
from residual.evaluate.error import top_k_error
from residual.evaluate.evaluation import evaluation
from residual.evaluate.score import PIXELS_AT_ONCE, score
from residual.events import Finished, Measured, Note, Progress, Reading, Started, Stopped
from residual.models.catalog import describe, varied
from residual.models.cost import stages
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.recipes.recipe import Recipe
from residual.records import CannotWrite, RunFolder, convert, environment, write_json
from residual.train import distributed
from residual.train.average import WeightAverage, set_exact_statistics
from residual.train.checkpoint import Checkpoint, Checkpoints
from residual.train.clock import Clock
from residual.train.distributed import World
from residual.train.loop import NonFinite, Step, Training, fit
from residual.train.optimizer import make_optimizer
from residual.train.precision import keep_freed_memory, pick_device, pick_precision, settle
from residual.train.schedule import Pace
from residual.train.tensorboard import TensorBoard
from residual.weights.card import Card
from residual.weights.safetensors import save
from residual.weights.sources import load

EVALUATIONS = 20  # looks at held-out images while training, evenly spread
WARMING = 2  # iterations at the beginning of a sitting that say nothing about speed
FEW = 100  # held-out images below which an error says little
SAVE_EVERY = 60.0  # seconds between checkpoints
# What does not decide the numbers; the changes do, but they are in the description of the network.
BESIDE_THE_POINT = ("workers", "device", "save_steps", "download", "tensorboard", "budget", "changes")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a user decides about a run.  It is written to run.json and resumed from there.

    model: a name from the catalog, or a weights file or run folder to fine-tune.
    changes: fields of the named network's description that differ, as in `create_model(name, **changes)`.
    data: "cifar10", "cifar100", "digits", "shapes" or a folder.  size: side of the images, None for the data's own.
    budget: seconds that the whole command may take, None for the recipe's own length.
    save_steps: checkpoint every so many iterations instead of every minute.
    """

    model: str
    data: str
    recipe: Recipe
    size: int | None = None
    seed: int = 0
    budget: float | None = None
    device: str = "auto"
    workers: int = 2
    save_steps: int | None = None
    download: bool = False
    tensorboard: bool = False
    changes: dict[str, Any] = field(default_factory=dict)


class Diverged(ArithmeticError):
    """Training met numbers that are not finite, twice at the same place."""


class Stop:
    """Set `signal` and training ends after the iteration under way, with a checkpoint."""

    def __init__(self) -> None:
        self.signal = 0


def train(plan: Plan, run: Path, *, stop: Stop | None = None) -> Iterator[object]:
    """Train as planned, into the new folder `run`, and yield what happens.

    Nothing is written before the data is read and the network stands, so a refused plan leaves no trace.
    """
    yield from _together(plan, run, stop or Stop(), resume=False)


def resume(
    run: Path, *, stop: Stop | None = None, workers: int | None = None, device: str | None = None
) -> Iterator[object]:
    """Go on with the run in the folder `run` from its newest whole checkpoint: bit for bit as if never cut off.

    workers, device: other ones than the run began with; the device must be of the same kind.
    """
    plan = planned(run)
    plan = replace(
        plan,
        workers=plan.workers if workers is None else workers,
        device=plan.device if device is None else device,
    )
    yield from _together(plan, run, stop or Stop(), resume=True)


def planned(run: Path) -> Plan:
    """The plan that a run folder was started with."""
    described = RunFolder.open(run).description
    try:
        return convert(described["plan"], Plan)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{run / 'run.json'} does not hold a plan that this version can follow: {error}") from error


def read_data(plan: Plan, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The images of a plan, in the same splits every time.  progress: told (files read, files in all)."""
    data = open_dataset(
        plan.data, size=plan.size, seed=plan.seed, workers=plan.workers, download=plan.download, progress=progress
    )
    if data.validation is None and plan.recipe.validation:
        data = hold_out(data, plan.recipe.validation, seed=plan.seed)
    return data


def _together(plan: Plan, run: Path, stop: Stop, *, resume: bool) -> Iterator[object]:
    world = distributed.join(pick_device(plan.device))
    try:
        events = _Run(plan, run, stop, world).events(resume=resume)
        if world.leads:
            yield from events
        else:
            for _ in events:
                pass  # only the leader speaks
    finally:
        distributed.leave()


class _Run:
    """One training from its plan to its files: what its chapters share."""

    def __init__(self, plan: Plan, path: Path, stop: Stop, world: World) -> None:
        self.plan, self.path, self.stop, self.world = plan, path, stop, world
        self.recipe = plan.recipe
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.best_error: float | None = None
        self.seconds_per_look_image = 0.0
        self.doubted = False  # whether the last measurement of speed was too slow to be believed at once
        self.device = pick_device(plan.device)
        if self.device.type == "cuda" and world.size > 1:
            self.device = torch.device("cuda", world.local_rank)
        self.precision = pick_precision(plan.recipe.precision, self.device)
        self.tensorboard = TensorBoard(path / "tensorboard") if plan.tensorboard and world.leads else None
        keep_freed_memory()
        settle(self.precision)

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
            self.commit = (then or self.description())["environment"]["commit"]  # what the run began with
            yield from self.restore(newest)
            if newest is not None:
                self.write({"step": newest.step, "time": round(self.seconds(), 3), "resumed": environment()})
            yield self.started()
            yield from self.remarks()
            finished = yield from self.learn()
            if finished and self.world.leads:
                yield from self.conclude()

    # --- data -> model ---------------------------------------------------------------------------------------

    def read_data(self) -> Iterator[Reading]:
        """The splits, and what they look like on average; read beside this thread, so that it can tell how far."""
        plan, recipe = self.plan, self.recipe
        far: list[tuple[int, int]] = []
        with ThreadPoolExecutor(max_workers=1) as beside:
            reading = beside.submit(read_data, plan, lambda done, total: far.append((done, total)))
            while not wait([reading], timeout=0.5).done:
                if far:
                    yield Reading(done=far[-1][0], total=far[-1][1])
            self.data = reading.result()
        self.preprocessing = measure_preprocessing(
            self.data.train,
            size=network_size(self.data.train, plan.size),
            per_pixel=recipe.mean == "pixel",
            divide=recipe.std,
        )

    def build(self, then: dict[str, Any] | None) -> None:
        """The network for these images and classes, its optimizer and its pace.  then: run.json of a resumed run."""
        plan, recipe, images = self.plan, self.recipe, self.data.train
        if len(images) < 2:
            raise ValueError(f"{plan.data} has {len(images)} training images; batch norm needs at least 2")
        recipe = self.recipe = for_few_images(recipe, len(images))
        self.world.shard(torch.arange(recipe.batch))  # refuses now what the first iteration would
        torch.manual_seed(key(plan.seed, 0))  # decides the initial weights
        start = load(plan.model) if recipe.name == "finetune" and then is None else None
        if start is not None:
            self.preprocessing = adapted(start.card.preprocessing, self.preprocessing)
        if then is not None:  # of a network to fine-tune all is in the checkpoint; its file may be gone
            self.preprocessing = msgspec.convert(then["preprocessing"], Preprocessing)
            self.model_description = msgspec.convert(then["model"], Description)
        else:
            self.model_description = replace(
                varied(describe(plan.model), plan.changes) if start is None else start.description,
                classes=len(self.data.classes),
                channels=1 if self.preprocessing.channels == "L" else 3,
                image=self.preprocessing.size,
            )
        self.normalize = Normalize(self.preprocessing, self.device)
        model = ResNet(self.model_description)
        if start is not None:
            adopt(model, start, same_classes=start.card.classes == self.data.classes)
        if self.world.size > 1:
            distributed.sync_batch_norms(model)
        self.precision.place(model)
        average = None if recipe.average is None else WeightAverage(model, recipe.average)
        self.training = Training(
            model,
            make_optimizer(model, recipe.optimizer),
            average,
            shared=distributed.share(model, self.world, drops=self.model_description.stochastic_depth > 0),
        )
        self.pace = Pace(recipe.schedule, recipe.length(len(images)))
        if plan.budget is not None:  # a first guess, not so short that it ends before the clock has spoken
            self.pace = Pace(recipe.schedule, max(self.pace.iterations, 1000))
        wide = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS does not have
        self.totals = torch.zeros(3, dtype=wide, device=self.device)  # loss, errors, images since a line

    def description(self) -> dict[str, Any]:
        """run.json: everything there is to know about this run before it began."""
        data = self.data
        return {
            "name": self.path.name,
            "plan": asdict(self.plan),
            "model": {"name": self.plan.model, **asdict(self.model_description)},
            "recipe": asdict(self.recipe),
            "data": {
                "origin": data.origin,
                "fingerprint": data.train.fingerprint,
                "fingerprints": {name: images.fingerprint for name, images in data.splits().items()},
                "counts": {name: len(images) for name, images in data.splits().items()},
                "classes": list(data.classes),
                "split": data.split,
                "problems": [asdict(problem) for problem in data.problems],
            },
            "preprocessing": asdict(self.preprocessing),
            "seed": self.plan.seed,
            "precision": "bfloat16" if self.precision.bfloat16 else "float32",
            "device": str(self.device),
            "processes": self.world.size,
            "environment": environment(),
            "command": sys.argv,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "stages": [asdict(stage) for stage in stages(self.model_description)],
        }

    def identity(self) -> str:
        """What a checkpoint must agree with to be of this run: all that decides the numbers."""
        as_read = msgspec.convert(asdict(self.plan), Plan)  # 40 passes are 40.0 when they come back from run.json
        plan = {name: value for name, value in asdict(as_read).items() if name not in BESIDE_THE_POINT}
        decisive: list[Any] = [plan, asdict(self.model_description), asdict(self.preprocessing)]
        decisive += [self.data.train.fingerprint, self.precision.bfloat16, self.device.type]
        return hashlib.sha256(msgspec.json.encode(decisive, order="deterministic")).hexdigest()

    def open_folder(self, then: dict[str, Any] | None, held: ExitStack) -> Checkpoint | None:
        """The run's folder, new or as it was left, locked as long as `held`; its newest whole checkpoint."""
        if then is None:
            self.folder = RunFolder.create(self.path, self.description())
        else:
            self.folder = RunFolder.open(self.path)
            self.refuse_other_ground(then)
        held.enter_context(self.folder.lock())
        self.checkpoints = Checkpoints(self.path / "checkpoints", identity=self.identity())
        newest = self.checkpoints.newest()
        if newest is None and (measured := self.folder.metrics()):
            raise ValueError(
                f"{self.path} was trained until iteration {measured[-1]['step']}, but no checkpoint is left in "
                f"{self.checkpoints.folder}; put them back, or start a new run with --out"
            )
        return newest

    def refuse_other_ground(self, then: dict[str, Any]) -> None:
        """A resumed run must see the images it began with, and the arithmetic."""
        for split, images in self.data.splits().items():
            before, now = then["data"]["fingerprints"].get(split), images.fingerprint
            if before != now:
                raise ValueError(
                    f"the {split} images in {self.plan.data} are not those that {self.path} began with (fingerprint "
                    f"{now[:12]}, then {str(before)[:12]}); put the data back as it was, or start a new run with --out"
                )
        before, now = (f"{each['device'].split(':')[0]} in {each['precision']}" for each in (then, self.description()))
        if before != now:
            raise ValueError(
                f"{self.path} was trained on {before} and would go on on {now}, which could not be exact; resume it "
                "on such a device (--device), or start a new run with --out"
            )

    # --- train -----------------------------------------------------------------------------------------------

    def started(self) -> Started:
        return Started(
            run=self.path,
            network=self.plan.model,
            parameters=sum(p.numel() for p in self.training.model.parameters()),
            images={name: len(images) for name, images in self.data.splits().items()},
            size=self.preprocessing.size,
            problems=tuple((problem.path, problem.reason) for problem in self.data.problems),
            device=f"{self.device} in {'bfloat16' if self.precision.bfloat16 else 'float32'}",
            step=self.training.step,
        )

    def remarks(self) -> Iterator[Note]:
        """What a user should know of these images before the numbers come."""
        for note in self.data.notes:
            yield Note(note)
        if self.recipe.batch != self.plan.recipe.batch:
            yield Note(
                f"{len(self.data.train):,} training images are few: batches of {self.recipe.batch} images instead of "
                f"{self.plan.recipe.batch}"
            )
        held = self.held_out()
        if held is not None and len(held[1]) < FEW:
            split, count = held[0], len(held[1])
            yield Note(f"there are only {count} {split} images: each is worth {100 / count:.1f} points of error")

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
        record_every = max(1, round(len(self.data.train) / self.recipe.batch / 10))
        began, clock, saved = training.step, Clock(training.step), time.monotonic()
        steps = fit(
            training,
            self.batches(training.step),
            self.loss_of,
            pace.rate,
            seed_at=lambda step: key(self.plan.seed, step),
            precision=self.precision,
            check_every=1 if carefully else None,
        )
        while training.step < pace.iterations:
            step = next(steps)
            done = step.number >= pace.iterations
            if step.number <= began + WARMING:
                clock.restart(step.number)
            self.count(step)
            stopping = distributed.any_says(bool(self.stop.signal), world)
            recording = step.number % record_every == 0 or done
            if recording or stopping:
                training.refuse_non_finite()
            if recording:
                yield self.record(step.number, step.rate, clock)
            if self.plan.budget is not None and not done:
                self.replan(step.number, clock)
            best = False
            if world.leads and self.look_due(step.number):
                with clock.stopped():
                    measured = self.look(step.number)
                if measured is not None:
                    best = measured.best
                    yield measured
            if world.leads and (stopping or done or best or self.save_due(step.number, saved)) and training.is_finite():
                with clock.stopped():
                    yield from self.save(best=best, must=stopping or done)
                saved = time.monotonic()
            if stopping and not done:
                yield Stopped(step=step.number, signal=self.stop.signal)
                return False
        return True

    def batches(self, start: int) -> Iterator[Batch]:
        return training_batches(
            self.data.train,
            self.recipe.augmentation,
            self.normalize,
            batch=self.recipe.batch,
            seed=self.plan.seed,
            start=start,
            device=self.device,
            shard=self.world.shard,
        )

    def count(self, step: Step) -> None:
        """Add an iteration to the running totals; tell its error to a pace that waits for it."""
        images = self.recipe.batch // self.world.size
        counted = torch.stack([step.loss * images, step.measures["wrong"], torch.full_like(step.loss, images)])
        counted = distributed.total(counted, self.world)
        self.totals += counted
        if self.pace.warming:
            self.pace.saw_error(100 * float(counted[1]) / self.recipe.batch)

    def look_due(self, step: int) -> bool:
        """Whether another EVALUATIONS-th part of the training has just been completed."""
        before, now = (math.floor(self.pace.progress(at) * EVALUATIONS + 1e-9) for at in (step - 1, step))
        return now > before and (now == EVALUATIONS or self.looks_fit(self.seconds_per_look_image))

    def looks_fit(self, per_image: float) -> bool:
        """Under a time budget: whether all looks together take less than a tenth of it."""
        held = self.held_out()
        if self.plan.budget is None or held is None:
            return True
        return EVALUATIONS * len(held[1]) * per_image < 0.1 * self.plan.budget

    def save_due(self, step: int, saved: float) -> bool:
        if self.plan.save_steps is not None:
            return step % self.plan.save_steps == 0
        return time.monotonic() - saved > SAVE_EVERY

    def loss_of(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, for mixed images of both labels; counts where the network misses the larger share."""
        smoothing = self.recipe.label_smoothing
        logits = model(batch.images)
        loss = functional.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if batch.share < 1:
            partner = functional.cross_entropy(logits, batch.labels.flip(0), label_smoothing=smoothing)
            loss = batch.share * loss + (1 - batch.share) * partner
        larger = batch.labels if batch.share >= 0.5 else batch.labels.flip(0)
        wrong = (logits.detach().argmax(1) != larger).sum()
        return loss, {"wrong": wrong}

    def replan(self, step: int, clock: Clock) -> None:
        """Under a time budget, from time to time: how many iterations still fit, after what the end will need?"""
        budget = self.plan.budget
        assert budget is not None
        per_step = clock.seconds_per_step(step)
        reserve = min(4.0, 0.1 * budget)  # starting Python, writing files, a guess that was too low
        left = budget - reserve - self.seconds() - self.seconds_to_finish(step, per_step)
        # The first plans are soon replaced.  The last stretch keeps its plan: the rate then falls to zero, rather than
        # being cut off by a late surprise.
        soon = clock.steps(step) >= max(8, step - clock.steps(step))
        remaining = self.pace.iterations - step
        last = max(left, remaining * per_step) < 0.05 * budget
        due = not last and (soon or clock.seconds() > 0.015 * budget) and clock.steps(step) >= 2
        over = self.seconds() > budget  # the last stretch may use the reserve, so that it ends annealed
        fits = int(distributed.agree(step + (1 if over else max(1, left / per_step)) if due or over else 0, self.world))
        if not fits:
            return
        # Half the speed or less may be a moment's stutter: it is believed when a second measurement says so too.
        self.doubted = not self.doubted and 1 < fits - step < remaining / 2
        if self.doubted:
            clock.restart(step)
            return
        if abs(fits - self.pace.iterations) > 0.003 * self.pace.iterations:
            self.pace.replan(step, fits)
            self.write({"step": step, "time": round(self.seconds(), 3), "plan": fits})
        clock.restart(step)

    def seconds_to_finish(self, step: int, per_step: float) -> float:
        """What remains to do besides training: the looks, the exact statistics, the evaluations, the files."""
        per_image = self.seconds_per_look_image or 0.4 * per_step / self.recipe.batch
        held, test = self.held_out(), self.data.test or self.data.validation
        looked_at = len(held[1]) if held and self.looks_fit(per_image) else 0
        looks = EVALUATIONS * (1 - self.pace.progress(step)) * looked_at
        weights = 2 if self.data.validation is not None else 1  # the last and the best
        finals = weights * ((len(test) if test else 0) + 2 * self.statistics_images())
        return per_image * (looks + finals)

    def seconds_left(self, step: int, per_step: float) -> float:
        """Until the run is complete: what the plan takes, or what is left of the budget that the plan is made for."""
        if self.plan.budget is not None:
            return max(0.0, self.plan.budget - self.seconds())
        return (self.pace.iterations - step) * per_step + self.seconds_to_finish(step, per_step)

    def seconds(self) -> float:
        """Time spent on this run, before and after it was resumed."""
        return self.seconds_before + time.monotonic() - self.began

    def record(self, step: int, rate: float, clock: Clock) -> Progress:
        """A line in metrics.jsonl: means over the iterations since the line before."""
        loss, wrong, count = self.totals.tolist()
        self.totals.zero_()
        epoch = step * self.recipe.batch / len(self.data.train)
        speed = self.recipe.batch / clock.seconds_per_step(step)
        progress = Progress(
            step=step,
            iterations=self.pace.iterations,
            epoch=epoch,
            loss=loss / count,
            rate=rate,
            train_error=100 * wrong / count,
            images_per_second=speed,
            seconds_left=self.seconds_left(step, clock.seconds_per_step(step)),
        )
        line = {"step": step, "epoch": round(epoch, 4), "time": round(self.seconds(), 3), "rate": rate}
        self.write(line | {"loss": progress.loss, "train_error": progress.train_error})
        return progress

    def write(self, line: dict[str, Any]) -> None:
        if self.world.leads:
            self.folder.append(line)
        if self.tensorboard is not None:
            self.tensorboard.write(line)

    def held_out(self) -> tuple[str, Images | ImageFiles] | None:
        """What is looked at while training: the validation images, or without them the test images."""
        for split in ("validation", "test"):
            if split in self.data.splits():
                return split, self.data.splits()[split]
        return None

    def look(self, step: int) -> Measured | None:
        """Measure the held-out error now.  Only a validation error may choose the best checkpoint."""
        held = self.held_out()
        if held is None:
            return None
        split, images = held
        began = time.monotonic()
        averaged = self.training.average is not None
        model = self.training.average.model if self.training.average is not None else self.training.model
        with self.precision.autocast():
            scores = score(model, images, self.preprocessing, self.device)
        error = top_k_error(scores)
        self.seconds_per_look_image = (time.monotonic() - began) / len(images)
        best = split == "validation" and (self.best_error is None or error < self.best_error)
        if best:
            self.best_error = error
        self.write(
            {
                "step": step,
                "epoch": round(step * self.recipe.batch / len(self.data.train), 4),
                "time": round(self.seconds(), 3),
                f"{split}_error": error,
                "weights": "average" if averaged else "last",
            }
        )
        return Measured(step=step, split=split, error=error, best=best)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the tensors."""
        return {
            "training": self.training.state(),
            "pace": self.pace.state(),
            "totals": self.totals.tolist(),
            "best_error": self.best_error,
            "seconds": self.seconds(),
        }

    def save(self, *, best: bool = False, must: bool = True) -> Iterator[Note]:
        """A checkpoint of this moment.  One that cannot be written is told, and an error only if it `must`."""
        try:
            self.checkpoints.save(self.training.step, self.training.tensors(), self.state(), best=best)
        except CannotWrite as error:
            if must:
                raise
            yield Note(f"{error}; training goes on")

    def restore(self, newest: Checkpoint | None) -> Iterator[Note]:
        """Go on from the newest whole checkpoint; without any, keep the beginning as the first one."""
        while self.world.leads and self.checkpoints.notes:
            yield Note(self.checkpoints.notes.pop(0))
        if newest is None:
            if self.world.leads:
                yield from self.save()
            return
        state = newest.state
        if odd := sorted(state.keys() ^ self.state().keys()):
            raise ValueError(f"{newest.path} lacks or adds {odd[0]!r}; it is of another version of residual")
        self.training.load(newest.tensors, state["training"])
        self.pace.load(state["pace"])
        self.totals.copy_(torch.tensor(state["totals"], dtype=self.totals.dtype))
        self.best_error = state["best_error"]
        if self.world.leads:
            self.folder.keep_until(newest.step)

    # --- evaluate -> record -----------------------------------------------------------------------------------

    def conclude(self) -> Iterator[object]:
        """The last weights and the best ones: exact statistics, error on the test images, files."""
        evaluations = {"last": self.judge("last", self.training.tensors(), self.training.step)}
        if self.data.validation is not None and (best := self.checkpoints.best()) is not None:
            evaluations["best"] = self.judge("best", best.tensors, best.step)
        while self.checkpoints.notes:
            yield Note(self.checkpoints.notes.pop(0))
        yield Finished(
            run=self.path,
            evaluations={name: judged for name, judged in evaluations.items() if judged is not None},
            seconds=self.seconds(),
        )

    def judge(self, which: str, tensors: dict[str, Tensor], step: int) -> dict[str, Any] | None:
        """Write one set of weights, and its evaluation where there are images to evaluate on."""
        part = "average." if self.training.average is not None else "model."
        model = ResNet(self.model_description)
        model.load_state_dict({n.removeprefix(part): t for n, t in tensors.items() if n.startswith(part)})
        self.precision.place(model).eval()
        if self.recipe.exact_statistics:
            set_exact_statistics(model, self.statistics_batches())
        split = "test" if self.data.test is not None else "validation"
        images = self.data.splits().get(split)
        history = {
            "recipe": self.recipe.name,
            "data": self.data.origin,
            "seed": self.plan.seed,
            "iterations": step,
            "epochs": round(step * self.recipe.batch / len(self.data.train), 3),
            "weights": which,
            "commit": self.commit,
        }
        found = None
        if images is not None:
            scores = score(model, images, self.preprocessing, self.device)
            found = evaluation(scores, images, split=split, weights=which, seed=self.plan.seed)
            history |= {"split": split, "images": len(images), "top1_error": found["top1_error"]}
            line = {"step": step, "epoch": history["epochs"], "time": round(self.seconds(), 3)}
            self.write(line | {f"{split}_error": found["top1_error"], "weights": which, "final": True})
            write_json(self.path / ("evaluation.json" if which == "last" else f"evaluation-{which}.json"), found)
        card = Card(
            name=self.path.name if self.recipe.name == "finetune" else self.plan.model,
            model=self.model_description,
            classes=self.data.classes,
            preprocessing=self.preprocessing,
            history=history,
        )
        save(self.path / ("model.safetensors" if which == "last" else f"{which}.safetensors"), model.state_dict(), card)
        return found

    def statistics_images(self) -> int:
        """How many images the exact statistics are taken over: of a small set each once."""
        return min(self.recipe.exact_statistics, len(self.data.train))

    def statistics_batches(self) -> Iterator[Tensor]:
        """Training images, varied as in training but not mixed, in large batches."""
        size = min(1000, len(self.data.train), max(16, PIXELS_AT_ONCE // self.preprocessing.size**2))
        batches = training_batches(
            self.data.train,
            replace(self.recipe.augmentation, mixup=0.0, cutmix=0.0),
            self.normalize,
            batch=size,
            seed=key(self.plan.seed, -4),
            start=0,
            device=self.device,
        )
        for batch in islice(batches, math.ceil(self.statistics_images() / size)):
            yield batch.images

    def files_of(self, step: int) -> list[str]:
        """The names of the images in iteration `step` (counted from 1)."""
        batch = self.recipe.batch
        order = Order(len(self.data.train), self.plan.seed)
        _, indices = order.at(torch.arange((step - 1) * batch, step * batch))
        return [self.data.train.names[index] for index in indices.tolist()]


def for_few_images(recipe: Recipe, images: int) -> Recipe:
    """The recipe with batches of which an epoch has at least four: a power of two, 8 or more, where possible."""
    if recipe.batch <= max(8, images // 4):
        return recipe
    return replace(recipe, batch=min(recipe.batch, images, max(8, 2 ** int(math.log2(images / 4)))))


def adopt(model: ResNet, start: ResNet, *, same_classes: bool) -> None:
    """Take over every weight of `start` that has its place in `model`; a classifier of other classes begins anew."""
    mine, theirs = model.state_dict(), start.state_dict()
    taken = {
        name: theirs[name]
        for name in mine
        if theirs[name].shape == mine[name].shape and (same_classes or not name.startswith("classifier."))
    }
    model.load_state_dict(mine | taken)
