"""Images with objects: a detector learns where they are and what they are."""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from residual.data.decode import Pixels
from residual.data.load_objects import GroupedOrder, ObjectBatch, colours, decoded, object_batches
from residual.data.loader import Pool
from residual.data.objects import ObjectImages
from residual.data.open_objects import ObjectDataset, hold_out, open_objects
from residual.data.transforms import Preprocessing, key
from residual.detect.card import Described, DetectorCard, card_of
from residual.detect.cascade import Cascade, CascadeDescription
from residual.detect.catalog import describe_detector, named
from residual.detect.detections import Detections
from residual.detect.detector import Detector, Network, network
from residual.detect.evaluation import evaluate_detector
from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
from residual.detect.found import Found
from residual.detect.imagenet import localization_error
from residual.detect.learner import Learner
from residual.detect.localize import LocalizerDescription, Localizers
from residual.detect.localizer_evaluation import classes_of
from residual.detect.phases import ALTERNATING
from residual.detect.precision import mean_average_precision
from residual.detect.procedure import Procedure
from residual.detect.pyramid import pyramid
from residual.detect.trunk import Trunk, c4, vgg16
from residual.detect.weights import save
from residual.events import Measured, Note, Started
from residual.models.resnet import ResNet
from residual.pipeline.run import FEW, Run
from residual.recipes.detection_plan import DetectionPlan
from residual.recipes.plan import BESIDE_THE_POINT, circumstances, data_description, refuse_other, told
from residual.train import distributed
from residual.train.average import WeightAverage
from residual.train.distributed import share_of
from residual.train.graph import ALONE
from residual.train.loop import Step, Training, fit
from residual.train.optimizer import make_optimizer
from residual.train.precision import Precision
from residual.train.totals import Means
from residual.weights.child import read_apart
from residual.weights.containers import recognise
from residual.weights.files import naming
from residual.weights.sources import load, locate

MARKED = 100_000  # training images whose marks are kept, so that nobody measures on them
QUICKLY = 200  # held-out images of a look while training, evenly spread; all of them are measured at the end


def read_objects(plan: DetectionPlan, progress: Callable[[int, int], None] | None = None) -> ObjectDataset:
    """The images of a plan, in the same splits every time.  progress: told (files read, files in all)."""
    data = open_objects(
        plan.data,
        lists=plan.lists,
        seed=plan.seed,
        size=plan.recipe.side,
        validation=0.0,
        workers=plan.workers,
        progress=progress,
    )
    whole = data.validation is None and data.test is None
    return hold_out(data, plan.recipe.validation, seed=plan.seed) if whole and plan.recipe.validation else data


class Detection(Run[DetectionPlan]):
    """One training of a detector, a cascade or a localizer."""

    data: ObjectDataset
    totals: Means
    start: "TrainedTrunk | None" = None
    judged: tuple[int, dict[str, Any]] | None = None  # the step whose weights were evaluated, and what was found

    # --- data -> model ---------------------------------------------------------------------------------------

    def open_data(self, progress: Callable[[int, int], None]) -> None:
        """The splits; the network's classes are the data's.  A trunk that will not do is refused before it is read."""
        begun = (self.path / "run.json").is_file()  # then all of the trunk is in the checkpoint; its file may be gone
        if not begun:
            self.plan.refuse_new()
        if self.plan.trunk is not None and not begun:
            self.start = trained_trunk(self.plan.trunk, self.plan.model)
        self.data = read_objects(replace(self.plan, data=self.place), progress)
        self.mean_and_std = colours(self.data.train, workers=self.plan.workers)

    def build(self, then: dict[str, Any] | None) -> None:
        """The detector for these classes, its optimizer and its pace.  then: run.json of a resumed run."""
        plan, recipe, images = self.plan, self.plan.recipe, self.data.train
        share_of(self.world.shard(torch.arange(recipe.batch)), 0, 1)  # refuses a batch that cannot be shared
        self.procedure = Procedure(
            side=recipe.side,
            longest=max(recipe.augmentation.longer, recipe.side),
            shrink=recipe.augmentation.shrink,
        )
        with ALONE:
            torch.manual_seed(key(plan.seed, 0))  # decides the initial weights
            net = self.network(then)
        for split, part in self.data.splits().items():
            refuse_unfit(part, split, localizes=self.card.localizer is not None)
        if self.card.masks and not images.outlined:
            raise ValueError(
                f"{plan.model} learns masks, but not every object of {plan.data} has an outline; outline them, or "
                "train a faster_rcnn, which needs boxes alone"
            )
        learner = self.learner = Learner(net, self.card, in_turn=recipe.in_turn)
        self.precision.place(learner)
        average = None if recipe.average is None else WeightAverage(learner, recipe.average, every=recipe.average_every)
        optimizer = make_optimizer(learner, recipe.optimizer)
        shared = distributed.share(learner, self.world, drops=True)
        self.training = Training(learner, optimizer, average, shared=shared)
        self.totals = Means(self.device)
        # An untrained detector finds something everywhere, so looking at an image takes longer than training on it.
        self.set_pace(recipe.schedule, recipe.length(len(images)), most_looked_at=QUICKLY, guess=3.0)

    def network(self, then: dict[str, Any] | None) -> Network:
        """The network with random weights, or on a trained trunk; and its card."""
        if then is not None:
            self.card = msgspec.convert(then["card"], DetectorCard)
            return network(self.card.described)
        plan, recipe, way, start = self.plan, self.plan.recipe, named(self.plan.model), self.start
        described = describe_detector(
            plan.model,
            self.data.classes,
            side=recipe.side,
            anchors=recipe.anchors,
            norm=recipe.norm,
            frozen=start is not None and recipe.trained == "frozen",
            trunk=start.net.description if start is not None and isinstance(start.net, ResNet) else None,
        )
        mean, std = self.mean_and_std if start is None else (start.mean, start.std)
        self.card = card_of(
            described, name=plan.model, classes=self.data.classes, mean=mean, std=std, procedure=self.procedure
        )
        if start is None:
            return network(described)
        return on_trunk(described, start.net, fpn=way.pyramid)

    def ground(self) -> "DetectionGround":
        """The plan on its data."""
        return DetectionGround(plan=self.plan, card=self.card, data=self.data, precision=self.precision)

    # --- train -----------------------------------------------------------------------------------------------

    def started(self) -> Started:
        """What is told when all stands."""
        return Started(
            run=self.path,
            network=self.plan.model,
            parameters=sum(p.numel() for p in self.learner.net.parameters()),
            images={name: len(images) for name, images in self.data.splits().items()},
            size=self.plan.recipe.side,
            problems=tuple((problem.path, problem.reason) for problem in self.data.problems),
            device=f"{self.device} in {self.precision.format}",
            step=self.training.step,
            square=False,
        )

    def remarks(self) -> Iterator[Note]:
        """What a user should know of these images before the numbers come."""
        for note in self.data.notes:
            yield Note(note)
        if self.plan.trunk is None:
            yield Note("the network begins with random weights; a classifier trained before is given with --trunk RUN")
        held = self.held_out()
        if held is not None and len(held[1]) < FEW:
            yield Note(f"there are only {len(held[1])} {held[0]} images, so its numbers are rough")

    def steps(self, *, check_every: int | None) -> Iterator[Step]:
        """The loop from here on; of a training in four steps, one loop for each."""
        if not self.plan.recipe.in_turn:
            yield from self.loop(self.pace.rate, check_every)
            return
        quarter = self.pace.iterations / len(ALTERNATING)
        for number in range(len(ALTERNATING)):
            first, last = round(number * quarter), round((number + 1) * quarter)
            if self.training.step >= last:
                continue
            self.learner.begin(number, anew=self.training.step == first)
            if self.training.step == first:
                forget_momentum(self.training)

            def rate(step: int, first: int = first, last: int = last) -> float:
                return float(self.plan.recipe.schedule.at((step - first) / (last - first)))

            for step in self.loop(rate, check_every):
                yield step
                if step.number >= last:
                    break

    def loop(self, rate_at: Callable[[int], float], check_every: int | None) -> Iterator[Step]:
        recipe = self.plan.recipe
        batches = object_batches(
            self.data.train,
            recipe.augmentation,
            batch=recipe.batch,
            seed=self.plan.seed,
            start=self.training.step,
            workers=self.plan.workers,
            masks=self.card.masks,
            shard=self.world.shard,
        )
        return fit(
            self.training,
            batches,
            self.loss_of,
            rate_at,
            seed_at=self.seed_of,
            precision=self.precision,
            clip=recipe.clip,
            check_every=check_every,
        )

    def loss_of(self, model: torch.nn.Module, batch: ObjectBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the batch costs, and its parts."""
        loss, parts = model(batch)
        return loss, parts

    def seed_of(self, step: int) -> int:
        """Of which anchors and regions are trained on in iteration `step`."""
        return key(self.plan.seed, step) if self.world.leads else key(self.plan.seed, step, self.world.rank)

    def count(self, step: Step) -> None:
        """Add an iteration to the running totals."""
        self.totals.add({"loss": step.loss, **step.measures}, self.world)

    def take(self) -> tuple[float, dict[str, float]]:
        """The mean loss, and its parts."""
        means = self.totals.take()
        loss = means.pop("loss")
        return loss, means

    def look(self, step: int) -> Measured | None:
        """Measure on some of the held-out images now: mean average precision, or the error of a localizer."""
        held = self.held_out()
        if held is None:
            return None
        split, images = held
        began = time.monotonic()
        average = self.training.average
        learner = self.training.model if average is None else average.model
        assert isinstance(learner, Learner)
        count = min(QUICKLY, len(images))
        some = images.select([number * len(images) // count for number in range(count)])
        if not any((~here.aside).any() for here in some.objects):
            return None  # nothing to be found on these
        with self.precision.autocast():
            value, measure = quickly(Detector(self.card, learner.net).eval(), some, self.plan.workers)
        self.budget.seconds_per_image = (time.monotonic() - began) / len(some)
        best = self.chooses(split, value if measure == "error" else 100 - value)
        name = f"{split}_error" if measure == "error" else f"{split}_map50"
        self.write(step, {name: value, "weights": "last" if average is None else "average"})
        return Measured(step=step, split=split, value=value, best=best, measure=measure)

    def files_of(self, step: int) -> list[str]:
        """The names of the images in iteration `step` (counted from 1)."""
        varied = self.plan.recipe.augmentation
        order = GroupedOrder(self.data.train.sizes, varied, batch=self.batch, seed=self.plan.seed)
        return [self.data.train.names[index] for index in order.at(step - 1)[1].tolist()]

    # --- evaluate -> record -----------------------------------------------------------------------------------

    def judge(self, which: str, tensors: dict[str, Tensor], step: int) -> dict[str, Any] | None:
        """Write one set of weights, and its evaluation where there are images to evaluate on."""
        weights = {
            name.removeprefix("net."): value
            for name, value in self.training.result(tensors).items()
            if name.startswith("net.")
        }
        net = network(self.card.described)
        net.load_state_dict(weights)
        self.precision.place(net).eval()
        path, history = self.weights_of(which), self.history(which, step) | {"trunk": self.plan.trunk}
        save(path, weights, replace(self.card, history=history))  # whatever becomes of the evaluation
        if (tested := self.tested()) is None:
            return None
        split, images = tested
        if self.judged is not None and self.judged[0] == step:  # the last weights are the best ones
            found = self.judged[1] | {"weights": which}
        else:
            detector = Detector(self.card, net).eval()
            found = evaluate_detector(detector, images, split=split, weights=which, workers=self.plan.workers)
        self.judged = (step, found)
        localizes = found["task"] == "localization"
        name, value = ("error", found["given_class_error"]) if localizes else ("map50", found["map50"])
        history |= {"split": split, "images": len(images), name: value}
        self.keep_evaluation(found, step, name, value)
        save(path, weights, replace(self.card, history=history))
        return found


@dataclass(frozen=True, kw_only=True)
class DetectionGround:
    """A plan with all that was found when it met its data and its machine."""

    plan: DetectionPlan
    card: DetectorCard
    data: ObjectDataset
    precision: Precision

    def description(self, run: Path, *, processes: int, environment: dict[str, Any]) -> dict[str, Any]:
        """run.json: everything there is to know about this run before it begins."""
        data = self.data
        return {
            "name": run.name,
            "task": "detection" if self.card.localizer is None else "localization",
            "plan": asdict(self.plan),
            "model": {"name": self.plan.model, **asdict(self.card.described)},
            "card": msgspec.to_builtins(self.card),
            "recipe": asdict(self.plan.recipe),
            "data": {
                **data_description(data),
                "train_images": "".join(sorted(data.train.marks)[:MARKED]),
                "objects": {name: sum(map(len, images.objects)) for name, images in data.splits().items()},
                "notes": list(data.notes),
            },
            "procedure": asdict(self.card.procedure),
            "seed": self.plan.seed,
            **circumstances(self.precision, processes=processes, environment=environment),
            "stages": [],
        }

    def identity(self) -> str:
        """What a checkpoint must agree with to be of this run: all that decides the numbers."""
        as_read = msgspec.convert(asdict(self.plan), DetectionPlan)  # 40 passes are 40.0 when they come back
        plan = {name: value for name, value in told(as_read).items() if name not in BESIDE_THE_POINT}
        decisive: list[Any] = [plan, msgspec.to_builtins(self.card)]
        decisive += [self.data.train.fingerprint, self.precision.bfloat16, self.precision.device.type]
        return hashlib.sha256(msgspec.json.encode(decisive, order="deterministic")).hexdigest()

    def refuse_other(self, then: dict[str, Any], run: Path) -> None:
        """A resumed run must see the images it began with, and the arithmetic.  then: its run.json."""
        fingerprints = {split: images.fingerprint for split, images in self.data.splits().items()}
        refuse_other(then, run, fingerprints, self.precision, where=self.plan.data)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedTrunk:
    """A trained classifier, and the mean and standard deviation of RGB values in 0 to 1 that it expects."""

    net: torch.nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def trained_trunk(source: str, model: str) -> TrainedTrunk:
    """The classifier of a run folder or weights file, which must be the trunk that the detector's name says."""
    wanted = named(model).trunk
    if wanted == "vgg16":
        return trained_vgg16(source)
    net = load(source)
    mine, theirs = ((each.block, each.depths, each.widths) for each in (net.description, wanted))
    if mine != theirs:
        raise ValueError(
            f"{source} holds {net.card.name} ({mine[0]} blocks {mine[1]}, widths {mine[2]}), but {model} stands on "
            f"{theirs[0]} blocks {theirs[1]}, widths {theirs[2]}; name the detector after its trunk, or give another"
        )
    mean, std = of_rgb(net, net.card.preprocessing, source)
    return TrainedTrunk(net=net, mean=mean, std=std)


def of_rgb(
    net: ResNet, told: Preprocessing, source: str
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation in 0 to 1; a network that expects BGR has its first filters turned to RGB."""
    if told.channels == "L" or len(told.mean) != 3:
        what = "grey images" if told.channels == "L" else "images less a mean per pixel, which have one size"
        raise ValueError(f"the network in {source} was made for {what}; a detector sees colours, at any size")
    mean, std = ([value / 255 for value in values] for values in (told.mean, told.std))
    if told.channels == "BGR":
        with torch.no_grad():
            weight = next(module.weight for module in net.modules() if isinstance(module, torch.nn.Conv2d))
            weight.copy_(weight.flip(1))
        mean, std = mean[::-1], std[::-1]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def trained_vgg16(source: str) -> TrainedTrunk:
    """torchvision's VGG-16, from a file of its weights."""
    from torchvision.models import vgg16 as build

    path = locate(source)
    with naming(path):
        tensors = read_apart(path, recognise(path))
    net = build(weights=None)
    try:
        net.load_state_dict(tensors)
    except RuntimeError as problem:
        raise ValueError(
            f"{source} does not hold torchvision's VGG-16 ({str(problem).splitlines()[1].strip()}); give the file that "
            "torchvision publishes, or leave --trunk out"
        ) from None
    return TrainedTrunk(net=net, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def on_trunk(described: Described, trunk: torch.nn.Module, *, fpn: bool) -> Network:
    """The described network on a trained classifier, whose modules it takes."""

    def stage() -> Trunk:
        if not isinstance(trunk, ResNet):
            return vgg16(trunk)
        if fpn:
            assert isinstance(described, DetectorDescription)
            assert described.pyramid is not None
            return pyramid(trunk, described.pyramid)
        return c4(trunk)

    match described:
        case DetectorDescription():
            return FasterRCNN(described, stage())
        case CascadeDescription():
            return Cascade(described, stage())
        case LocalizerDescription():
            assert isinstance(trunk, ResNet)
            twin = ResNet(trunk.description)
            twin.load_state_dict(trunk.state_dict())
            return Localizers(described, (trunk, twin))


def refuse_unfit(images: ObjectImages, split: str, *, localizes: bool) -> None:
    """Refuse, before anything is trained, images on which nothing could be learned or measured."""
    if not any((~here.aside).any() for here in images.objects):
        raise ValueError(
            f"the {split} images have no object that counts, so nothing could be learned or measured on them; give "
            "them annotations or leave them out of the data"
        )
    if localizes:
        try:
            classes_of(images)
        except ValueError as problem:
            raise ValueError(f"{split}: {problem}") from None


def forget_momentum(training: Training) -> None:
    """Begin the step's running means anew, as a new optimizer would."""
    for state in training.optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


def quickly(detector: Detector, images: ObjectImages, workers: int) -> tuple[float, str]:
    """Percent and what of: mAP@.5 of boxes, or the error of a localizer whose class is given."""
    net = detector.net
    with Pool(workers=workers) as pool:
        seen = decoded(images, iter(range(len(images))), pool)
        if isinstance(net, Localizers):
            guesses = [
                given_class(net, detector, pixels, int(here.labels[0]))
                for pixels, here in zip(seen, images.objects, strict=True)
            ]
            return localization_error(guesses, images.objects, 1), "error"
        answers = [replace(detector.find(pixels).detections(), masks=None) for pixels in seen]
    return mean_average_precision(answers, images.objects, len(images.classes), form="area")[0], "mAP@.5"


def given_class(net: Localizers, detector: Detector, pixels: Pixels, label: int) -> Detections:
    """A localizer's one guess for a class that is given."""
    box = net.place(detector.prepared(pixels), label, detector.card.procedure.side)
    return Found(box[None].cpu(), torch.tensor([label]), torch.ones(1)).detections()
