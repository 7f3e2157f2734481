"""The whole story on one page: a description becomes a run.

    plan -> data -> model -> train -> evaluate -> record

`train` is a generator: it yields what happens (residual/events.py) and whoever iterates decides how to show it.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from residual.data.batches import Batch, Order, training_batches
from residual.data.images import Dataset, ImageFiles, Images
from residual.data.resident import ResidentBatches, is_simple
from residual.data.sources import open_dataset
from residual.data.split import hold_out
from residual.data.statistics import adapted, measure_preprocessing, network_size
from residual.data.transforms import Normalize, Preprocessing, key
from residual.evaluate.average import evenly
from residual.evaluate.error import top_k_error
from residual.evaluate.evaluation import evaluation
from residual.evaluate.score import PIXELS_AT_ONCE, score
from residual.events import Finished, Measured, Note, Progress, Reading, Started, Stopped
from residual.models.catalog import describe, varied
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.recipes.plan import Ground, Plan
from residual.recipes.recipe import Recipe
from residual.records import CannotWrite, RunFolder, convert, environment, write_json
from residual.train import distributed
from residual.train.average import WeightAverage, set_exact_statistics
from residual.train.batch_norm import set_batch_norms
from residual.train.budget import Budget
from residual.train.checkpoint import Checkpoint, Checkpoints
from residual.train.clock import Clock
from residual.train.distributed import World, share_of
from residual.train.graph import ALONE, fit_resident
from residual.train.loop import NonFinite, Step, Training, fit
from residual.train.loss import binary_cross_entropy, cross_entropy
from residual.train.optimizer import make_optimizer
from residual.train.precision import keep_freed_memory, pick_device, pick_precision, settle
from residual.train.schedule import Pace
from residual.train.sharded import ShardedState
from residual.train.tensorboard import TensorBoard
from residual.train.totals import Totals
from residual.weights.card import Card
from residual.weights.safetensors import save
from residual.weights.sources import Loaded, load

WARMING = 2  # iterations at the beginning of a sitting that say nothing about speed
FEW = 100  # held-out images below which an error says little
SAVE_EVERY = 60.0  # seconds between checkpoints
GRAPHS = ("cuda",)  # devices on which a whole iteration is captured and replayed

__all__ = ["Diverged", "Plan", "Stop", "asks_nothing_of_the_host", "planned", "read_data", "resume", "train"]


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
    run: Path,
    *,
    stop: Stop | None = None,
    workers: int | None = None,
    device: str | None = None,
    data: str | None = None,
) -> Iterator[object]:
    """Go on with the run in the folder `run` from its newest whole checkpoint: bit for bit as if never cut off.

    workers, device: other ones than the run began with; the device must be of the same kind.
    data: where the images lie now, if they have moved; other images are refused.
    """
    plan = planned(run)
    plan = replace(
        plan,
        workers=plan.workers if workers is None else workers,
        device=plan.device if device is None else device,
    )
    yield from _together(plan, run, stop or Stop(), resume=True, place=data)


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


def _together(plan: Plan, run: Path, stop: Stop, *, resume: bool, place: str | None = None) -> Iterator[object]:
    world = distributed.join(pick_device(plan.device))
    try:
        events = _Run(plan, run, stop, world, place).events(resume=resume)
        if world.leads:
            yield from events
        else:
            for _ in events:
                pass  # only the leader speaks
    finally:
        distributed.leave()


class _Run:
    """One training from its plan to its files: what its chapters share."""

    def __init__(self, plan: Plan, path: Path, stop: Stop, world: World, place: str | None = None) -> None:
        self.plan, self.path, self.stop, self.world = plan, path, stop, world
        self.place = place or plan.data  # of the images: the plan's, unless they have moved since
        self.recipe = plan.recipe
        self.began, self.seconds_before = time.monotonic(), 0.0
        self.best_error: float | None = None
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
            yield from self.restore(newest)
            if newest is not None:
                self.write(newest.step, {"resumed": environment()})
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
            there = replace(plan, data=self.place)
            reading = beside.submit(read_data, there, lambda done, total: far.append((done, total)))
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
        plan, images = self.plan, self.data.train
        if len(images) < 2:
            raise ValueError(f"{plan.data} has {len(images)} training images; batch norm needs at least 2")
        recipe = self.recipe = self.recipe.for_few(len(images))
        at_once = share_of(self.world.shard(torch.arange(recipe.batch)), 0, recipe.accumulate)  # refuses now, not later
        start = load(plan.model) if recipe.name == "finetune" and then is None else None
        self.describe(then, start)
        self.normalize = Normalize(self.preprocessing, self.device)
        for sized in (self.normalize, recipe.augmentation):
            sized.check_size(recipe.augmentation.size or self.preprocessing.size)
        with ALONE:
            torch.manual_seed(key(plan.seed, 0))  # decides the initial weights
            model = ResNet(self.model_description)
        if start is not None:
            adopt(model, start, same_classes=start.card.classes == self.data.classes)
        set_batch_norms(model, recipe.batch_norm_group, len(at_once), self.world)
        self.precision.place(model)
        average = None if recipe.average is None else WeightAverage(model, recipe.average, every=recipe.average_every)
        optimizer = make_optimizer(model, recipe.lamb or recipe.optimizer)
        sharded = plan.shard_optimizer and self.world.size > 1
        self.sharded = ShardedState(optimizer, self.world) if sharded else None
        shared = distributed.share(model, self.world, drops=self.model_description.stochastic_depth > 0)
        self.training = Training(model, optimizer, average, shared=shared)
        # Whether an iteration can be captured: nothing of it is drawn, decoded, agreed on or decided on the host.
        alone = self.device.type in GRAPHS and self.world.size == 1
        self.resident = (
            alone and isinstance(images, Images) and asks_nothing_of_the_host(self.model_description, recipe)
        )
        self.totals = Totals(self.device)
        self.pace = Pace(recipe.schedule, recipe.length(len(images)))
        if plan.budget is not None:  # a first guess, not so short that it ends before the clock has spoken
            self.pace = Pace(recipe.schedule, max(self.pace.iterations, 1000))
        held, test = self.held_out(), self.data.test or self.data.validation
        weights = 2 if self.data.validation is not None else 1  # the last and the best
        self.budget = Budget(
            plan.budget,
            batch=recipe.batch,
            looks=plan.looks,
            looked_at=len(held[1]) if held else 0,
            at_the_end=weights * ((len(test) if test else 0) + 2 * self.statistics_images()),
        )

    def describe(self, then: dict[str, Any] | None, start: Loaded | None) -> None:
        """What network this is, and what it expects of an image.  start: the one that is fine-tuned."""
        if then is not None:  # of a network to fine-tune all is in the checkpoint; its file may be gone
            self.preprocessing = msgspec.convert(then["preprocessing"], Preprocessing)
            self.model_description = msgspec.convert(then["model"], Description)
            return
        if start is not None:
            self.preprocessing = adapted(start.card.preprocessing, self.preprocessing)
        described = varied(describe(self.plan.model), self.plan.changes) if start is None else start.description
        depth = self.recipe.stochastic_depth
        self.model_description = replace(
            described,
            classes=len(self.data.classes),
            channels=1 if self.preprocessing.channels == "L" else 3,
            image=self.preprocessing.size,
            stochastic_depth=described.stochastic_depth if depth is None else depth,
        )

    def open_folder(self, then: dict[str, Any] | None, held: ExitStack) -> Checkpoint | None:
        """The run's folder, new or as it was left, locked as long as `held`; its newest whole checkpoint."""
        ground = Ground(
            plan=self.plan,
            recipe=self.recipe,
            model=self.model_description,
            data=self.data,
            preprocessing=self.preprocessing,
            precision=self.precision,
        )
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

    # --- train -----------------------------------------------------------------------------------------------

    def started(self) -> Started:
        return Started(
            run=self.path,
            network=self.plan.model,
            parameters=sum(p.numel() for p in self.training.model.parameters()),
            images={name: len(images) for name, images in self.data.splits().items()},
            size=self.preprocessing.size,
            problems=tuple((problem.path, problem.reason) for problem in self.data.problems),
            device=f"{self.device} in {self.precision.format}",
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

    def steps(self, *, check_every: int | None) -> Iterator[Step]:
        """The loop from here on: on a GPU, wherever an iteration needs nothing from the host, captured as a graph."""
        training, rate_at, images = self.training, self.pace.rate, self.data.train
        if self.resident and isinstance(images, Images):
            stream = ResidentBatches(
                images,
                self.recipe.augmentation,
                self.normalize,
                batch=self.recipe.batch,
                seed=self.plan.seed,
                device=self.device,
            )
            return fit_resident(
                training, stream, self.counted_loss_of, rate_at, precision=self.precision, check_every=check_every
            )
        return fit(
            training,
            self.batches(training.step),
            self.loss_of,
            rate_at,
            seed_at=self.seed_of,
            precision=self.precision,
            parts_of=self.parts_of,
            clip=self.recipe.clip,
            check_every=check_every,
        )

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
        wrong = step.measures["wrong"]
        if not self.resident:
            wrong = self.totals.add(step.loss, wrong, self.recipe.batch // self.world.size, self.world)
        if self.pace.warming:
            self.pace.saw_error(100 * float(wrong) / self.recipe.batch)

    def look_due(self, step: int) -> bool:
        """Whether another part of the training has just been completed, of as many as there are to be looks."""
        looks = self.plan.looks
        before, now = (math.floor(self.pace.progress(at) * looks + 1e-9) for at in (step - 1, step))
        return now > before and (now == looks or self.budget.looks_fit())

    def save_due(self, step: int, saved: float) -> bool:
        if self.plan.save_steps is not None:
            return step % self.plan.save_steps == 0
        return time.monotonic() - saved > SAVE_EVERY

    def parts_of(self, batch: Batch) -> list[Batch]:
        """This process's share of a batch, as it passes through the network: at once, or in the recipe's parts."""

        def part(number: int) -> Batch:
            images, labels, indices = (
                share_of(rows, number, self.recipe.accumulate) for rows in (batch.images, batch.labels, batch.indices)
            )
            return replace(batch, images=images, labels=labels, indices=indices)

        return [part(number) for number in range(self.recipe.accumulate)]

    def loss_of(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The recipe's loss; counts where the network misses the label with the larger share."""
        loss = binary_cross_entropy if self.recipe.loss == "binary" else cross_entropy
        logits = model(batch.images)
        larger = batch.labels if batch.share >= 0.5 else batch.labels.flip(0)
        wrong = (logits.detach().argmax(1) != larger).sum()
        return loss(logits, batch.labels, share=batch.share, smoothing=self.recipe.label_smoothing), {"wrong": wrong}

    def counted_loss_of(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, added to the running totals within the captured iteration."""
        loss, measures = self.loss_of(model, batch)
        self.totals.add(loss.detach(), measures["wrong"], self.recipe.batch, self.world)
        return loss, measures

    def seed_of(self, step: int) -> int:
        """Of dropout and stochastic depth in iteration `step`.  Each process draws its own, where that can be.

        Synchronised batch norms meet in every block, so a block that one process drops all of them must drop.
        """
        together = self.model_description.stochastic_depth > 0 and self.recipe.batch_norm_group is None
        return key(self.plan.seed, step) if self.world.leads or together else key(self.plan.seed, step, self.world.rank)

    def seconds(self) -> float:
        """Time spent on this run, before and after it was resumed."""
        return self.seconds_before + time.monotonic() - self.began

    def record(self, step: int, rate: float, clock: Clock) -> Progress:
        """A line in metrics.jsonl: means over the iterations since the line before."""
        loss, error = self.totals.take()
        per_step = clock.seconds_per_step(step)
        progress = Progress(
            step=step,
            iterations=self.pace.iterations,
            epoch=self.epoch(step),
            loss=loss,
            rate=rate,
            train_error=error,
            images_per_second=self.recipe.batch / per_step,
            seconds_left=self.budget.seconds_left(self.pace, step, per_step, self.seconds()),
        )
        self.write(step, {"rate": rate, "loss": loss, "train_error": error})
        return progress

    def write(self, step: int, numbers: dict[str, Any]) -> None:
        """A line in metrics.jsonl, with when it was."""
        line = {"step": step, "epoch": round(self.epoch(step), 4), "time": round(self.seconds(), 3), **numbers}
        if self.world.leads:
            self.folder.append(line)
        if self.tensorboard is not None:
            self.tensorboard.write(line)

    def epoch(self, step: int) -> float:
        """Passes over the training images after `step` iterations."""
        return step * self.recipe.batch / len(self.data.train)

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
        average = self.training.average
        model = self.training.model if average is None else average.model
        with self.precision.autocast():
            scores = score(model, images, self.preprocessing, self.device)
        error = top_k_error(scores)
        self.budget.seconds_per_image = (time.monotonic() - began) / len(images)
        best = split == "validation" and (self.best_error is None or error < self.best_error)
        if best:
            self.best_error = error
        self.write(step, {f"{split}_error": error, "weights": "last" if average is None else "average"})
        return Measured(step=step, split=split, error=error, best=best)

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
        with torch.device("meta"):  # draws no random numbers, which another thread may need
            model = ResNet(self.model_description)
        model.to_empty(device="cpu").load_state_dict(self.training.result(tensors))
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
            "epochs": round(self.epoch(step), 3),
            "weights": which,
            "commit": self.folder.description["environment"]["commit"],  # what the run began with
        }
        found = None
        if images is not None:
            scores = score(model, images, self.preprocessing, self.device)
            found = evaluation(scores, images, split=split, weights=which, seed=self.plan.seed)
            history |= {"split": split, "images": len(images), "top1_error": found["top1_error"]}
            self.write(step, {f"{split}_error": found["top1_error"], "weights": which, "final": True})
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
        """Training images, varied as in training but not mixed, in large batches; none comes twice."""
        size = min(1000, len(self.data.train), max(16, PIXELS_AT_ONCE // self.preprocessing.size**2))
        many = math.ceil(self.statistics_images() / size)
        batches = training_batches(
            self.data.train,
            replace(self.recipe.augmentation, mixup=0.0, cutmix=0.0, repeats=1),
            self.normalize,
            batch=size,
            seed=key(self.plan.seed, -4),
            start=0,
            device=self.device,
            shard=evenly(min(many * size, len(self.data.train)), size),
        )
        for batch in islice(batches, many):
            yield batch.images

    def files_of(self, step: int) -> list[str]:
        """The names of the images in iteration `step` (counted from 1)."""
        batch = self.recipe.batch
        order = Order(len(self.data.train), self.plan.seed, self.recipe.augmentation.repeats)
        _, indices = order.at(torch.arange((step - 1) * batch, step * batch))
        return [self.data.train.names[index] for index in indices.tolist()]


def asks_nothing_of_the_host(network: Description, recipe: Recipe) -> bool:
    """Whether an iteration can be captured, as far as network and recipe decide it; images must also be in memory."""
    plain = recipe.accumulate == 1 and recipe.clip is None and recipe.lamb is None
    return plain and not network.draws and is_simple(recipe.augmentation)


def adopt(model: ResNet, start: ResNet, *, same_classes: bool) -> None:
    """Take over every weight of `start` that has its place in `model`; a classifier of other classes begins anew."""
    mine, theirs = model.state_dict(), start.state_dict()
    taken = {
        name: theirs[name]
        for name in mine
        if theirs[name].shape == mine[name].shape and (same_classes or not name.startswith("classifier."))
    }
    model.load_state_dict(mine | taken)
