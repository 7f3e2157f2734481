"""What a training costs on this machine: two small networks are timed, and all others follow from their arithmetic.

    seconds per image = a * multiply-adds + b * layers

A wide shallow and a narrow deep network tell a from b; both have images of 32 pixels.  It is measured in as many
threads as a job has, once to learn and once to look, in the number format of the recipe.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from residual.models.catalog import cifar
from residual.models.cost import layers, macs
from residual.models.description import Description
from residual.models.resnet import ResNet
from residual.reproduce.data import source
from residual.reproduce.experiment import Setting
from residual.reproduce.store import iterations, training_images
from residual.train.graph import Iteration
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision, pick_device, pick_precision

LOOKS = 20  # at held-out images in the middle of a training of full length
TOGETHER = 128  # images
NARROW, WIDE = cifar(20), replace(cifar(8), widths=(32, 64, 128), stem_width=32)


@dataclass(frozen=True, kw_only=True)
class Price:
    """Seconds per image: of one multiply-add, and of one layer."""

    mac: float
    layer: float

    def of(self, description: Description, size: int) -> float:
        """Seconds per image of `size` pixels a side."""
        return self.mac * macs(description, size) + self.layer * layers(description)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What learning from an image and looking at one cost, by number format; beginning and ending a run, in seconds."""

    learning: dict[str, Price]
    looking: dict[str, Price]
    start: float = 3.0

    def seconds(self, setting: Setting) -> float:
        """A whole training: its iterations, its looks at held-out images, its evaluation."""
        recipe, data = setting.recipe, source(setting.data)
        size = setting.size or data.size
        batch = recipe.for_few(training_images(setting)).batch
        learned = iterations(setting) * batch
        held = data.train * recipe.validation or data.held
        results = 2 if recipe.validation else 1
        looked = looks(setting) * held + results * (
            data.held + 2 * min(recipe.exact_statistics, training_images(setting))
        )
        learning = self.learning[recipe.precision].of(setting.description, size)
        return self.start + learned * learning + looked * self.looking[recipe.precision].of(setting.description, size)


def calibrate(formats: set[str], *, device: str, seconds: float = 1.0) -> Calibration:
    """Time both networks for about `seconds` each in every number format."""
    place = pick_device(device)
    learning, looking, known = {}, {}, {}
    for name in sorted(formats):
        assert name in ("float32", "bfloat16", "auto")
        precision = pick_precision(name, place)  # type: ignore[arg-type]
        if precision not in known:
            times = [_timed(each, precision, seconds) for each in (NARROW, WIDE)]
            known[precision] = _price(times[0][0], times[1][0]), _price(times[0][1], times[1][1])
        learning[name], looking[name] = known[precision]
    return Calibration(learning=learning, looking=looking)


def looks(setting: Setting) -> int:
    """How often a training looks at held-out images: less often where that would take a tenth of its time or more.

    A look at an image takes about a third of what learning from it does.
    """
    images, data = training_images(setting), source(setting.data)
    learned = iterations(setting) * setting.recipe.for_few(images).batch
    held = data.train * setting.recipe.validation or data.held
    return max(2, min(LOOKS, int(0.3 * learned / max(1, held))))


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


def _price(narrow: float, wide: float) -> Price:
    """The line through both times; where it would make one of them free, all is charged to the other."""
    costs = [(macs(each, 32), layers(each)) for each in (NARROW, WIDE)]
    (m1, l1), (m2, l2) = costs
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
