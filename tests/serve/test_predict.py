"""Predictions: one answer for every file, from the pixels that training saw."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import decode, fit
from residual.data.sources import open_dataset
from residual.data.transforms import Normalize, Preprocessing, prepare, view
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.serve.predict import Prediction, predict, probabilities
from residual.weights.card import Card
from residual.weights.sources import load

CARD = Card(
    name="resnet8",
    model=replace(describe("resnet8"), classes=4, image=16),
    classes=("ant", "bee", "cat", "dog"),
    preprocessing=Preprocessing(size=16, mean=(120, 110, 100), std=(60, 60, 60)),
)


@pytest.fixture(scope="module")
def model() -> ResNet:
    torch.manual_seed(0)
    return ResNet(CARD.model)


def picture(path: Path, side: int = 16, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(256, size=(side, side + 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_file_gets_its_classes_most_probable_first(model: ResNet, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    (answer,) = predict(model, CARD, [path], top=4, workers=0)
    assert answer.path == str(path)
    assert answer.problem is None
    assert sorted(answer.classes) == sorted(CARD.classes)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert sum(answer.probabilities) == pytest.approx(1)
    pixels = prepare(decode(path.read_bytes()), CARD.preprocessing)
    with torch.inference_mode():
        expected = model(Normalize(CARD.preprocessing)(torch.from_numpy(pixels.copy())[None])).softmax(1)[0]
    assert answer.probabilities[0] == pytest.approx(float(expected.max()), abs=1e-6)
    assert answer.classes[0] == CARD.classes[int(expected.argmax())]


def test_top_is_at_most_the_number_of_classes(model: ResNet, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    assert [len(next(predict(model, CARD, [path], top=top, workers=0)).classes) for top in (1, 3, 9)] == [
        1,
        3,
        4,
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_images_are_told_of_in_their_place(model: ResNet, tmp_path: Path, workers: int) -> None:
    paths = [picture(tmp_path / f"{i}.png", seed=i) for i in range(5)]
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    paths[3].write_bytes(b"hello")
    os.mkfifo(tmp_path / "pipe")
    asked = [*paths, tmp_path / "absent.png", tmp_path / "pipe", tmp_path / "a\0b"]
    answers = list(predict(model, CARD, asked, batch=2, workers=workers))
    assert [answer.path for answer in answers] == [str(path) for path in asked]
    assert [answer.problem is None for answer in answers] == [
        True,
        False,
        True,
        False,
        True,
        False,
        False,
        False,
    ]
    assert all(bool(answer.problem) != bool(answer.classes) for answer in answers)
    for place, reason in [(1, "cut short"), (3, "not an image"), (5, "No such file"), (6, "regular file")]:
        assert reason in str(answers[place].problem)


def test_the_batch_does_not_change_the_answers(model: ResNet, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", side=16 + i, seed=i) for i in range(5)]
    whole = list(predict(model, CARD, paths, batch=5, workers=0))
    single = list(predict(model, CARD, paths, batch=1, workers=0))
    for one, other in zip(whole, single, strict=True):
        assert one.classes == other.classes
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_folders_are_searched_to_the_bottom_in_order_of_names(model: ResNet, tmp_path: Path) -> None:
    (tmp_path / "b" / "deep").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for name in ("c.png", "b/deep/x.png", "b/a.png", "a.png", ".hidden/x.png", ".thumb.png"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "b" / "again").symlink_to(tmp_path)
    (tmp_path / "z.png").symlink_to(tmp_path / "nowhere.png")
    answers = list(predict(model, CARD, [tmp_path], workers=0))
    found = {str(Path(answer.path).relative_to(tmp_path)): answer.problem is None for answer in answers}
    assert found == {
        "a.png": True, "b/a.png": True, "b/deep/x.png": True, "c.png": True, "notes.txt": False, "z.png": False,
    }  # fmt: skip
    assert list(found) == sorted(found)


def test_an_empty_folder_is_told_of(model: ResNet, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    (tmp_path / "empty" / "still").mkdir(parents=True)
    answers = list(predict(model, CARD, [tmp_path / "empty", path, tmp_path / "empty"], workers=0))
    assert [answer.problem for answer in answers] == [
        "a folder without files",
        None,
        "a folder without files",
    ]
    assert [answer.path for answer in answers] == [
        str(tmp_path / "empty"),
        str(path),
        str(tmp_path / "empty"),
    ]


def test_an_image_can_come_on_standard_input(model: ResNet, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png")
    stdin = io.BytesIO(path.read_bytes())
    piped, filed, empty = predict(model, CARD, ["-", path, "-"], stdin=stdin, workers=0)
    assert piped == replace(filed, path="-")
    assert empty == Prediction(path="-", problem="the file is empty")


def test_names_that_are_no_text_are_given_back_as_they_are(model: ResNet, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\n.png"
    Path(os.fsdecode(name)).write_bytes(picture(tmp_path / "x.png").read_bytes())
    (answer,) = predict(model, CARD, [os.fsdecode(name)], workers=1)
    assert os.fsencode(answer.path) == name
    assert answer.problem is None


@pytest.mark.parametrize("resize", [None, 16, 18, 21])
@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (16, 16), (10, 9), (33, 16)])
def test_the_pool_hands_on_what_prepare_would_make_of_the_whole_image(
    shape: tuple[int, int], resize: int | None
) -> None:
    """So the bytes are those of training, which stores what the pool hands on and takes its centre."""
    preprocessing = Preprocessing(size=16, resize=resize)
    pixels = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    stored = fit(pixels, view(preprocessing))
    assert stored.shape[:2] == (resize or 16, resize or 16)
    assert np.array_equal(prepare(stored, preprocessing), prepare(pixels, preprocessing))


def test_prediction_sees_the_very_bytes_that_training_stored(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            picture(tmp_path / kind / f"{i}.jpg", side=70 + 13 * i, seed=i)
    data = open_dataset(str(tmp_path), size=48)
    side = data.train.shape[0]
    preprocessing = Preprocessing(size=48, resize=side)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            seen.extend(x)
            return torch.zeros(len(x), 4)

    card = replace(CARD, preprocessing=preprocessing)
    normalize = Normalize(preprocessing)
    for images in data.splits().values():
        paths = [tmp_path / name for name in images.names]
        seen.clear()
        assert all(answer.problem is None for answer in predict(Spy(), card, paths, workers=0))
        assert torch.equal(torch.stack(seen), normalize(images.fetch(torch.arange(len(images)))))


def test_a_network_without_a_finite_answer_is_told_of(tmp_path: Path) -> None:
    model = ResNet(CARD.model)
    nn.init.constant_(model.classifier.bias, float("nan"))
    (answer,) = predict(model, CARD, [picture(tmp_path / "x.png")], workers=0)
    assert "not finite" in str(answer.problem)


def test_settings_that_count_nothing_are_refused(model: ResNet) -> None:
    with pytest.raises(ValueError, match="top is 0"):
        next(predict(model, CARD, ["x"], top=0))


def test_the_published_resnet20_names_915_of_1000_small_images(shared_data: Path) -> None:
    model = load(shared_data / "weights" / "resnet20-12fca82f.th")
    folder = shared_data / "cifar10_small" / "test"
    answers = list(predict(model, model.card, [folder], batch=250, top=1))
    assert len(answers) == 1000
    assert sum(answer.classes == (Path(answer.path).parent.name,) for answer in answers) == 915


def test_devices_without_float64_answer_too() -> None:
    class OnMps(Tensor):
        """As on Apple's GPUs: doubles exist only after the way to the CPU."""

        def double(self) -> Tensor:  # type: ignore[override]
            raise TypeError("MPS does not have float64")

        def cpu(self) -> Tensor:  # type: ignore[override]
            return self.as_subclass(Tensor)

    class There(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[1.0, 2.0, 3.0]]).as_subclass(OnMps)

    found = probabilities(There(), Normalize(CARD.preprocessing), torch.zeros(1, 16, 16, 3, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).softmax(1))
