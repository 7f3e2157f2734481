"""What trainings and exams cost on this machine: two small networks are timed, all others follow from arithmetic.

    seconds per image = a * multiply-adds + b * layers

A wide shallow and a narrow deep network tell a from b; both have images of 32 pixels.  Of detectors a small one is
timed on small and on large images, and b is what an image costs besides (arithmetic.py).  It is measured in as many
threads as a job has, once to learn and once to look, in the number format of the recipe.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from residual.data.load_objects import object_batches
from residual.data.scenes import draw_scenes
from residual.detect.card import card_of
from residual.detect.catalog import describe_detector
from residual.detect.detector import Detector, network
from residual.detect.learner import Learner
from residual.detect.procedure import Procedure
from residual.models.catalog import cifar
from residual.models.cost import layers, macs
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.pipeline.detection import QUICKLY
from residual.recipes.detection import at_side, modern_small
from residual.recipes.recipe import Recipe
from residual.reproduce.arithmetic import Load, learned, looked
from residual.reproduce.data import source
from residual.reproduce.exam import Way
from residual.reproduce.experiment import AnySetting, DetectionSetting
from residual.reproduce.store import iterations, training_images
from residual.train.graph import Iteration
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision, pick_device, pick_precision

LOOKS = 20  # at held-out images in the middle of a training of full length
TOGETHER = 128  # images
DETECTS = "detector "  # how a kind of what detects begins
NARROW, WIDE = cifar(20), replace(cifar(8), widths=(32, 64, 128), stem_width=32)
SMALL, LARGE = (
    DetectionSetting(
        model="faster_rcnn_small_c4",
        recipe=replace(modern_small(), batch=2, augmentation=at_side(modern_small().augmentation, side)),
        data="scenes:16",
    )
    for side in (64, 256)
)


@dataclass(frozen=True, kw_only=True)
class Price:
    """Seconds per image: of one multiply-add, and of one layer."""

    mac: float
    layer: float

    def of(self, load: Load) -> float:
        """Seconds per image."""
        return self.mac * load.macs + self.layer * load.layers


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What learning from an image and looking at one cost, by number format and, of detectors, by `kind_of` theirs;
    beginning and ending a run, in seconds.
    """

    learning: dict[str, Price]
    looking: dict[str, Price]
    start: float = 3.0

    def seconds(self, setting: AnySetting) -> float:
        """A whole training: its iterations, its looks at held-out images, its evaluation."""
        kind, held = kind_of(setting), source(setting.data).held
        if isinstance(setting, DetectionSetting):
            at_the_end = 2 * held
        else:
            results = 2 if setting.recipe.validation else 1
            at_the_end = results * (held + 2 * min(setting.recipe.exact_statistics, training_images(setting)))
        images = looks(setting) * looked_at(setting) + at_the_end
        learning = iterations(setting) * batch_of(setting) * self.learning[kind].of(learned(setting))
        return self.start + learning + images * self.looking[kind].of(looked(setting))

    def examining(self, way: Way, settings: Sequence[AnySetting]) -> float:
        """An exam of networks that were trained so, in seconds."""
        per_image = self.looking[kind_of(settings[0])].of(way.load(settings))
        return self.start + way.images(settings[0]) * per_image if per_image else 0.0


def kind_of(setting: AnySetting) -> str:
    """What is timed together: number formats, of detectors for themselves."""
    detects = isinstance(setting, DetectionSetting)
    return f"{DETECTS}{setting.recipe.precision}" if detects else str(setting.recipe.precision)


def calibrate(kinds: set[str], *, device: str, seconds: float = 1.0) -> Calibration:
    """Time two networks for about `seconds` each, of every kind."""
    place = pick_device(device)
    learning, looking = {}, {}
    known: dict[tuple[bool, Precision], tuple[Price, Price]] = {}
    for kind in sorted(kinds):
        name, detects = kind.removeprefix(DETECTS), kind.startswith(DETECTS)
        assert name in ("float32", "bfloat16", "auto")
        precision = pick_precision(name, place)  # type: ignore[arg-type]
        if (detects, precision) not in known:
            known[detects, precision] = _prices(precision, seconds, detects=detects)
        learning[kind], looking[kind] = known[detects, precision]
    return Calibration(learning=learning, looking=looking)


def looks(setting: AnySetting) -> int:
    """How often a training looks at held-out images: less often where that would take a tenth of its time or more.

    A look at an image takes about a third of what learning from it does.
    """
    seen = iterations(setting) * batch_of(setting)
    return max(2, min(LOOKS, int(0.3 * seen / max(1, looked_at(setting)))))


def batch_of(setting: AnySetting) -> int:
    """Images in an iteration."""
    recipe = setting.recipe
    return recipe.for_few(training_images(setting)).batch if isinstance(recipe, Recipe) else recipe.batch


def looked_at(setting: AnySetting) -> float:
    """Held-out images of a look in the middle of a training."""
    data = source(setting.data)
    if isinstance(setting, DetectionSetting):
        return min(QUICKLY, data.held)
    return data.train * setting.recipe.validation or data.held


def mean(found: list[Calibration]) -> Calibration:
    """Of several processes that measured at the same time."""

    def average(which: Literal["learning", "looking"]) -> dict[str, Price]:
        prices = [getattr(each, which) for each in found]
        return {
            name: Price(
                mac=sum(price[name].mac for price in prices) / len(prices),
                layer=sum(price[name].layer for price in prices) / len(prices),
            )
            for name in prices[0]
        }

    return Calibration(learning=average("learning"), looking=average("looking"), start=found[0].start)


def _prices(precision: Precision, seconds: float, *, detects: bool) -> tuple[Price, Price]:
    """Of learning and of looking."""
    if detects:
        (learn1, look1), (learn2, _) = (_timed_detector(each, precision, seconds) for each in (SMALL, LARGE))
        learning = _price([learned(SMALL), learned(LARGE)], learn1, learn2)
        forward = learning.mac / 3  # how many regions a small detector judges in testing, nobody knows before
        return learning, Price(mac=forward, layer=max(0.0, look1 - forward * looked(SMALL).macs))
    (learn1, look1), (learn2, look2) = (_timed(each, precision, seconds) for each in (NARROW, WIDE))
    loads = [Load(macs(each, 32), layers(each)) for each in (NARROW, WIDE)]
    return _price(loads, learn1, learn2), _price(loads, look1, look2)


def _price(loads: Sequence[Load], narrow: float, wide: float) -> Price:
    """The line through both times; where it would make one of them free, all is charged to the other."""
    (m1, l1), (m2, l2) = ((load.macs, load.layers) for load in loads)
    determinant = m1 * l2 - m2 * l1
    mac, layer = (narrow * l2 - wide * l1) / determinant, (m1 * wide - m2 * narrow) / determinant
    if mac <= 0:
        return Price(mac=0.0, layer=max(narrow / l1, wide / l2))
    if layer < 0:
        return Price(mac=max(narrow / m1, wide / m2), layer=0.0)
    return Price(mac=mac, layer=layer)


def _timed(description: Description, precision: Precision, seconds: float) -> tuple[float, float]:
    """Seconds per image of learning and of looking."""
    model = ResNet(description)
    precision.place(model)
    optimizer = make_optimizer(model, Sgd())
    images = torch.randn(TOGETHER, 3, 32, 32, device=precision.device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(TOGETHER, dtype=torch.int64, device=precision.device)

    def learn() -> tuple[Tensor, dict[str, Tensor]]:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach(), {}

    def look() -> None:
        with torch.inference_mode(), precision.autocast():
            model(images)

    learning = _per_call(Iteration(learn, precision.device), precision, seconds)  # captured where training is
    model.eval()
    return learning / TOGETHER, _per_call(look, precision, seconds / 4) / TOGETHER


def _timed_detector(setting: DetectionSetting, precision: Precision, seconds: float) -> tuple[float, float]:
    """The same of a small detector on drawn scenes."""
    recipe, scenes = setting.recipe, draw_scenes(4, size=setting.recipe.side)
    described = describe_detector(
        setting.model, scenes.classes, side=recipe.side, anchors=recipe.anchors, norm=recipe.norm
    )
    card = card_of(
        described,
        name=setting.model,
        classes=scenes.classes,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        procedure=Procedure(side=recipe.side),
    )
    learner = Learner(network(described), card)
    precision.place(learner)
    optimizer = make_optimizer(learner, recipe.optimizer)
    batches = object_batches(scenes, recipe.augmentation, batch=recipe.batch, seed=0, start=0, workers=0)

    def learn() -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss, _ = learner(next(batches))
        loss.backward()
        optimizer.step()

    learning = _per_call(learn, precision, seconds)
    detector = Detector(card, learner.net).eval()
    assert scenes.pixels is not None
    pixels = scenes.pixels[0]
    return learning / recipe.batch, _per_call(lambda: detector.find(pixels), precision, seconds / 4)


def _per_call(work: Callable[[], object], precision: Precision, seconds: float) -> float:
    def settled() -> float:
        if precision.device.type == "cuda":
            torch.cuda.synchronize(precision.device)
        return time.monotonic()

    work()  # the first call finds algorithms and takes memory
    began, calls = settled(), 0
    while True:
        work()
        calls += 1
        now = settled()
        if now - began >= seconds and calls >= 2:
            return (now - began) / calls
