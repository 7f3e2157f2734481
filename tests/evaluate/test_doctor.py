"""Two small networks are trained on drawn photographs, then said to be something else, one fault at a time."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual.data.decode import Pixels
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.evaluate.doctor import (
    Claim,
    Examination,
    examine,
)
from residual.models.description import Description
from residual.models.resnet import ResNet

CLASSES = ("heron", "apple", "Daisy", "cat", "fig", "gull", "boat", "elm")
SORTED = tuple(sorted(CLASSES))
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BLUE_FIRST = (103.939, 116.779, 123.68)
ONE, HALF, NOTHING = (1.0, 1.0, 1.0), (127.5, 127.5, 127.5), (0.0, 0.0, 0.0)
COUNT = 64  # images that the doctor is shown

RED = Claim(
    model=Description(
        block="bottleneck",
        depths=(1, 2, 2, 1),
        widths=(8, 8, 16, 16),
        stem="imagenet",
        stem_width=16,
        stride_in="middle",
        classes=len(CLASSES),
        image=40,
    ),
    preprocessing=Preprocessing(size=40, resize=46, mean=MEAN, std=STD),
)
BLUE = Claim(
    model=replace(RED.model, stride_in="first", stem_pool="ceil"),
    preprocessing=Preprocessing(size=40, resize=46, channels="BGR", interpolation="bicubic", mean=BLUE_FIRST, std=ONE),
)


def photograph(number: int, seed: int) -> tuple[Pixels, int]:
    """A drawn one, and its class: a striped disc between a blue sky and a brown ground, in noise that falls as 1/f."""
    rng = np.random.default_rng((seed, number))
    label = number % len(CLASSES)
    high, wide = rng.integers(52, 80, 2)
    down, across = np.fft.fftfreq(high)[:, None], np.fft.rfftfreq(wide)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1
    noise = rng.normal(size=(2, 3, high, frequency.shape[1]))
    texture = np.fft.irfft2((noise[0] + 1j * noise[1]) / frequency ** rng.uniform(0.9, 1.5), s=(high, wide))
    bright, warm, green = texture / texture.std((1, 2), keepdims=True)
    y, x = np.linspace(0, 1, high)[:, None], np.linspace(0, 1, wide)[None]
    sky = 1 / (1 + np.exp((y - rng.uniform(0.2, 0.8)) * 30)) + 0 * x
    image = np.stack([150 - 60 * sky + 14 * warm, 120 + 10 * sky + 4 * green, 80 + 100 * sky - 16 * warm]) + 38 * bright
    middle, radius = rng.uniform(0.35, 0.65, 2), rng.uniform(0.2, 0.35)
    turn = np.pi * (label % 4) / 4 + rng.normal() * 0.1
    along = np.cos(turn) * x + np.sin(turn) * y
    stripes = 45 * np.sin(2 * np.pi * along * rng.uniform(6, 9) + rng.uniform(0, 6))
    colour = np.array([60, 20, -50] if label < 4 else [-40, 25, 10])[:, None, None]
    disc = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2
    image = np.where(disc, image / 2 + 64 + stripes + colour, image) * rng.uniform(0.7, 1.15) + rng.normal(0, 12)
    image = image + rng.normal(0, 3, image.shape)
    return np.ascontiguousarray(np.clip(image, 0, 255).astype(np.uint8).transpose(1, 2, 0)), label


def photographs(count: int, seed: int) -> tuple[list[Pixels], Tensor]:
    drawn = [photograph(number, seed) for number in range(count)]
    return [pixels for pixels, _ in drawn], torch.tensor([label for _, label in drawn])


def trained(claim: Claim, images: list[Pixels], labels: Tensor, *, epochs: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """The weights of the claimed network after some epochs on these images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNet(claim.model)
        shown = Normalize(claim.preprocessing)(
            torch.from_numpy(np.stack([prepare(image, claim.preprocessing) for image in images]))
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        steps, step = epochs * (len(images) // 32), 0
        for _ in range(epochs):
            for some in torch.randperm(len(images)).split(32):
                optimizer.param_groups[0]["lr"] = 0.1 * min(1, (step + 1) / 15) * (1 - step / steps)
                step += 1
                loss = nn.functional.cross_entropy(model(shown[some]), labels[some])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.state_dict()


@dataclass(frozen=True)
class Ward:
    """Trained weights and images that they were not trained on."""

    red: dict[str, Tensor]
    blue: dict[str, Tensor]
    images: list[Pixels]
    labels: Tensor

    def examine(self, claim: Claim, weights: str, draw: int = 0, labels: Tensor | None = None) -> Examination:
        some = slice(draw * COUNT, (draw + 1) * COUNT)
        return examine(
            getattr(self, weights),
            claim,
            self.images[some],
            None if labels is None else labels[some],
            classes=CLASSES,
        )


@pytest.fixture(scope="module")
def ward() -> Ward:
    """Two networks of unlike settings."""
    images, labels = photographs(640, seed=0)
    others, answers = photographs(6 * COUNT, seed=1)
    return Ward(trained(RED, images, labels), trained(BLUE, images, labels), others, answers)


def network(claim: Claim, **changes: Any) -> Claim:
    return replace(claim, model=replace(claim.model, **changes))


def shown(claim: Claim, **changes: Any) -> Claim:
    return replace(claim, preprocessing=replace(claim.preprocessing, **changes))


UNLABELLED: dict[str, tuple[str, Claim, str]] = {  # whose weights, what they are said to be, what is wrong
    "v1.5 said to be v1": ("red", network(RED, stride_in="first"), "stride"),
    "v1 said to be v1.5": ("blue", network(BLUE, stride_in="middle"), "stride"),
    "RGB said to be BGR": ("red", shown(RED, channels="BGR", mean=MEAN[::-1], std=STD[::-1]), "channels"),
    "BGR said to be RGB": ("blue", shown(BLUE, channels="RGB", mean=BLUE_FIRST[::-1]), "channels"),
    "mean forgotten": ("red", shown(RED, mean=NOTHING), "mean and scale"),
    "mean in the order of the other colours": ("red", shown(RED, mean=MEAN[::-1]), "mean and scale"),
    "std forgotten": ("red", shown(RED, std=ONE), "mean and scale"),
    "-1..1 for standardised": ("red", shown(RED, mean=HALF, std=HALF), "mean and scale"),
    "ceil pooling for padded": ("red", network(RED, stem_pool="ceil"), "stem pooling"),
    "bilinear for bicubic": ("blue", shown(BLUE, interpolation="bilinear"), "resize filter"),
}
LABELLED = {  # the label of each image, for a network whose outputs stand otherwise than the card says
    "classes shifted by one": (torch.arange(8) + 1) % 8,
    "classes sorted otherwise": torch.tensor([SORTED.index(name) for name in CLASSES]),
}


def faults(found: Examination) -> set[str]:
    return {one.setting for one in found.findings if one.verdict == "faulty"}


def test_at_least_eleven_of_twelve_planted_faults_are_named_and_nothing_else(ward: Ward):
    named = {}
    for fault, (weights, claim, setting) in UNLABELLED.items():
        named[fault] = faults(ward.examine(claim, weights)) == {setting}
    for fault, order in LABELLED.items():
        believed = order.argsort()[ward.labels]  # what is called class k is answered by output order[k]
        found = ward.examine(RED, "red", labels=believed)
        named[fault] = faults(found) == {"class order"} and found.order == tuple(order.tolist())
    assert len(named) == 12
    assert sum(named.values()) >= 11, [fault for fault, right in named.items() if not right]


@pytest.mark.parametrize(("weights", "claim"), [("red", RED), ("blue", BLUE)])
def test_sound_weights_raise_no_alarm_on_six_draws_of_images(ward: Ward, weights: str, claim: Claim):
    for draw in range(6):
        found = ward.examine(claim, weights, draw, ward.labels)
        assert faults(found) == set(), (draw, found.findings)
        assert (found.corrected, found.order) == (claim, None)
