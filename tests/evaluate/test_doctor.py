"""Two small networks are trained on drawn photographs, then said to be something else, one fault at a time."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual.data.decode import Pixels
from residual.data.transforms import Normalize, Preprocessing, prepare
from residual.evaluate.doctor import Claim, Examination, examine
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
        ready = prepared(claim, images)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
        steps, step = epochs * (len(images) // 32), 0
        for _ in range(epochs):
            for some in torch.randperm(len(images)).split(32):
                optimizer.param_groups[0]["lr"] = 0.1 * min(1, (step + 1) / 15) * (1 - step / steps)
                step += 1
                loss = nn.functional.cross_entropy(model(ready[some]), labels[some])
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


def test_sound_weights_raise_no_alarm(ward: Ward):
    for weights, claim, draws in (("red", RED, range(6)), ("blue", BLUE, range(2))):
        for draw in draws:
            found = ward.examine(claim, weights, draw, ward.labels)
            assert faults(found) == set(), (weights, draw, found.findings)
            assert (found.corrected, found.order) == (claim, None)


def test_two_faults_at_once_are_both_corrected(ward: Ward):
    turned = shown(network(RED, stride_in="first"), channels="BGR", mean=MEAN[::-1], std=STD[::-1])
    found = ward.examine(turned, "red")
    assert faults(found) == {"stride", "channels"}
    assert found.corrected == RED
    assert found.misfit[1] < found.misfit[0] / 2


def test_what_so_few_images_cannot_tell_comes_with_how_many_would(ward: Ward):
    (finding,) = (one for one in ward.examine(RED, "red").findings if one.setting == "resize filter")
    assert finding.verdict == "cannot tell"
    assert finding.needed is not None
    assert finding.needed > 4 * COUNT


def test_the_same_images_give_the_same_findings(ward: Ward):
    assert ward.examine(RED, "red", labels=ward.labels) == ward.examine(RED, "red", labels=ward.labels)


# --- without training ---------------------------------------------------------------------------------


def measured(claim: Claim, images: list[Pixels]) -> dict[str, Tensor]:
    """Untrained weights whose batch norms stored the statistics of these images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(claim.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches, here of one
    with torch.no_grad():
        model.train()(prepared(claim, images))
    return model.state_dict()


def prepared(claim: Claim, images: list[Pixels]) -> Tensor:
    return Normalize(claim.preprocessing)(
        torch.from_numpy(np.stack([prepare(image, claim.preprocessing) for image in images]))
    )


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return photographs(48, seed=2)[0]


def test_images_of_the_right_size_say_nothing_of_the_filter(images: list[Pixels]):
    squares = [prepare(image, RED.preprocessing) for image in images]
    as_they_are = shown(RED, resize=40)
    found = examine(measured(as_they_are, squares), as_they_are, squares)
    (finding,) = (one for one in found.findings if one.setting == "resize filter")
    assert (finding.verdict, finding.because) == ("cannot tell", "these images come out the same either way")


def test_a_network_for_grey_images_has_no_order_of_colours(images: list[Pixels]):
    grey = [image.mean(2, keepdims=True).astype(np.uint8) for image in images]
    claim = Claim(
        model=replace(RED.model, channels=1),
        preprocessing=Preprocessing(size=40, resize=46, channels="L", mean=(127.5,), std=(127.5,)),
    )
    weights = measured(claim, grey)
    assert "channels" not in {one.setting for one in examine(weights, claim, grey).findings}
    assert faults(examine(weights, shown(claim, std=(1.0,)), grey)) == {"mean and scale"}


def test_nothing_is_judged_where_no_mean_and_scale_fits(images: list[Pixels]):
    strange = shown(RED, mean=(10.0, 200.0, 90.0), std=(9.0, 90.0, 30.0))
    found = examine(measured(strange, images), RED, images)
    assert {one.verdict for one in found.findings} == {"cannot tell"}
    assert found.corrected == RED


def test_a_mean_for_every_pixel_is_turned_with_the_colours(images: list[Pixels]):
    per_pixel = tuple(value for value in MEAN for _ in range(40 * 40))
    claim = shown(RED, mean=per_pixel)
    found = examine(measured(RED, images), shown(claim, channels="BGR", mean=per_pixel[::-1], std=STD[::-1]), images)
    assert found.corrected == claim


def test_too_few_images_and_norms_without_statistics_are_refused(images: list[Pixels]):
    with pytest.raises(ValueError, match="15 images are too few"):
        examine({}, RED, images[:15])
    with torch.random.fork_rng():
        fresh = ResNet(RED.model).state_dict()
    with pytest.raises(ValueError, match="carry no statistics"):
        examine(fresh, RED, images)
