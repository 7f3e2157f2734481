"""evaluation.json: complete, plain, and a pure function of the scores."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.images import Images
from residual.evaluate.evaluation import evaluation
from residual.evaluate.score import Scores
from residual.records import read_json, write_json

CLASSES = ("a", "b", "c", "d", "e", "f")


def made(count: int = 40, channels: int = 3, classes: tuple[str, ...] = CLASSES) -> tuple[Scores, Images]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(len(classes), (count,), generator=generator)
    images = Images(
        pixels=torch.randint(256, (count, 5, 5, channels), generator=generator, dtype=torch.uint8),
        labels=labels,
        classes=classes,
        names=tuple(f"{classes[label]}/{i}.png" for i, label in enumerate(labels)),
    )
    logits = torch.randn(count, len(classes), generator=generator)
    logits[torch.arange(count), labels] += 1
    return Scores(logits, labels), images


def test_it_holds_what_the_report_reads_and_survives_json(tmp_path: Path) -> None:
    scores, images = made()
    found = evaluation(scores, images, split="test", weights="average", seed=3)
    write_json(tmp_path / "evaluation.json", found)
    assert read_json(tmp_path / "evaluation.json", dict) == found
    assert set(found) == {
        "split", "weights", "images", "top1_error", "top5_error", "interval", "ece", "per_class", "confusion",
        "reliability", "mistakes",
    }  # fmt: skip
    assert (found["split"], found["weights"], found["images"]) == ("test", "average", 40)
    wrong = sum(row[j] for i, row in enumerate(found["confusion"]) for j in range(6) if i != j)
    assert found["top1_error"] == pytest.approx(100 * wrong / 40)
    assert sum(sum(row) for row in found["confusion"]) == sum(row["count"] for row in found["reliability"]) == 40
    assert found["interval"][0] < found["top1_error"] < found["interval"][1]
    assert found == evaluation(scores, images, split="test", weights="average", seed=3)


def test_five_classes_or_fewer_have_no_top_5_error() -> None:
    assert "top5_error" not in evaluation(*made(classes=CLASSES[:5]), split="test")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_worst_mistakes_come_first_with_their_pictures(channels: int) -> None:
    scores, images = made(channels=channels)
    found = evaluation(scores, images, split="test", mistakes=4)["mistakes"]
    assert len(found) == 4
    sure = [mistake["probability"] for mistake in found]
    assert sure == sorted(sure, reverse=True)
    assert sure[0] == float(scores.probabilities.amax(1)[scores.wrong].max())
    for mistake in found:
        place = images.names.index(mistake["name"])
        assert mistake["truth"] == mistake["name"][0] != mistake["predicted"]
        picture = np.asarray(Image.open(BytesIO(base64.b64decode(mistake["png"])))).reshape(5, 5, channels)
        assert np.array_equal(picture, images.pixels[place].numpy())


def test_of_many_classes_there_is_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    many = tuple(map(str, range(2001)))
    found = evaluation(*made(classes=many), split="test")
    assert found["confusion"] == []
    assert len(found["per_class"]) == 2001
    assert len(evaluation(*made(classes=many[:2000]), split="test")["confusion"]) == 2000


def test_a_perfect_network_has_no_mistakes_and_no_certainty() -> None:
    _, images = made()
    scores = Scores(9 * torch.nn.functional.one_hot(images.labels, 6).float(), images.labels)
    found = evaluation(scores, images, split="test")
    assert found["mistakes"] == []
    assert found["top1_error"] == found["interval"][0] == 0
    assert found["interval"][1] == pytest.approx(8.8, abs=0.1)


def test_scores_of_other_images_are_refused() -> None:
    scores, images = made()
    with pytest.raises(ValueError, match="other images"):
        evaluation(scores, images.select(torch.arange(39)), split="test")
    with pytest.raises(ValueError, match="other images"):
        evaluation(Scores(scores.logits, scores.labels.roll(1)), images, split="test")


def test_a_diverged_network_is_refused() -> None:
    scores, images = made()
    scores.logits[3, 2] = float("nan")
    with pytest.raises(ValueError, match="1 of 40 images is not finite"):
        evaluation(scores, images, split="test")
