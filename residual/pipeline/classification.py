"""Images with a label: a network learns what is on them."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from residual.data.batches import Batch, Order, training_batches
from residual.data.images import Dataset, Images
from residual.data.resident import ResidentBatches, is_simple
from residual.data.sources import open_dataset
from residual.data.split import hold_out
from residual.data.statistics import adapted, measure_preprocessing, network_size
from residual.data.transforms import Normalize, Preprocessing, key
from residual.evaluate.average import evenly
from residual.evaluate.error import top_k_error
from residual.evaluate.evaluation import evaluation
from residual.evaluate.score import PIXELS_AT_ONCE, score
from residual.events import Measured, Note, Started
from residual.models.catalog import describe, varied
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.pipeline.run import FEW, Run, Stop
from residual.recipes.plan import Ground, Plan
from residual.recipes.recipe import Recipe
from residual.train import distributed
from residual.train.average import WeightAverage, set_exact_statistics
from residual.train.batch_norm import set_batch_norms
from residual.train.distributed import World, share_of
from residual.train.graph import ALONE, fit_resident
from residual.train.loop import Step, Training, fit
from residual.train.loss import binary_cross_entropy, cross_entropy
from residual.train.optimizer import make_optimizer
from residual.train.sharded import ShardedState
from residual.train.totals import Totals
from residual.weights.card import Card
from residual.weights.safetensors import save
from residual.weights.sources import Loaded, load

GRAPHS = ("cuda",)  # devices on which a whole iteration is captured and replayed


def read_data(plan: Plan, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The images of a plan, in the same splits every time.  progress: told (files read, files in all)."""
    data = open_dataset(
        plan.data, size=plan.size, seed=plan.seed, workers=plan.workers, download=plan.download, progress=progress
    )
    if data.validation is None and plan.recipe.validation:
        data = hold_out(data, plan.recipe.validation, seed=plan.seed)
    return data


class Classification(Run[Plan]):
    """One training of a classifier."""

    data: Dataset
    totals: Totals

    def __init__(self, plan: Plan, path: Path, stop: Stop, world: World, place: str | None = None) -> None:
        super().__init__(plan, path, stop, world, place)
        self.recipe = plan.recipe

    # --- data -> model ---------------------------------------------------------------------------------------

    def open_data(self, progress: Callable[[int, int], None]) -> None:
        """The splits, and what they look like on average."""
        plan, recipe = self.plan, self.recipe
        self.data = read_data(replace(plan, data=self.place), progress)
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
        self.batch = recipe.batch
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
        self.set_pace(recipe.schedule, recipe.length(len(images)), averaged_over=self.statistics_images())

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

    def ground(self) -> Ground:
        return Ground(
            plan=self.plan,
            recipe=self.recipe,
            model=self.model_description,
            data=self.data,
            preprocessing=self.preprocessing,
            precision=self.precision,
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

    def take(self) -> tuple[float, dict[str, float]]:
        """Mean loss, and training error in percent."""
        loss, error = self.totals.take()
        return loss, {"train_error": error}

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
        best = self.chooses(split, error)
        self.write(step, {f"{split}_error": error, "weights": "last" if average is None else "average"})
        return Measured(step=step, split=split, value=error, best=best)

    def files_of(self, step: int) -> list[str]:
        """The names of the images in iteration `step` (counted from 1)."""
        batch = self.recipe.batch
        order = Order(len(self.data.train), self.plan.seed, self.recipe.augmentation.repeats)
        _, indices = order.at(torch.arange((step - 1) * batch, step * batch))
        return [self.data.train.names[index] for index in indices.tolist()]

    # --- evaluate -> record -----------------------------------------------------------------------------------

    def judge(self, which: str, tensors: dict[str, Tensor], step: int) -> dict[str, Any] | None:
        """Write one set of weights, and its evaluation where there are images to evaluate on."""
        with torch.device("meta"):  # draws no random numbers, which another thread may need
            model = ResNet(self.model_description)
        model.to_empty(device="cpu").load_state_dict(self.training.result(tensors))
        self.precision.place(model).eval()
        if self.recipe.exact_statistics:
            set_exact_statistics(model, self.statistics_batches())
        history, found = self.history(which, step), None
        if (tested := self.tested()) is not None:
            split, images = tested
            scores = score(model, images, self.preprocessing, self.device)
            found = evaluation(scores, images, split=split, weights=which, seed=self.plan.seed)
            history |= {"split": split, "images": len(images), "top1_error": found["top1_error"]}
            self.keep_evaluation(found, step, "error", found["top1_error"])
        card = Card(
            name=self.path.name if self.recipe.name == "finetune" else self.plan.model,
            model=self.model_description,
            classes=self.data.classes,
            preprocessing=self.preprocessing,
            history=history,
        )
        save(self.weights_of(which), model.state_dict(), card)
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
