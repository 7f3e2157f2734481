"""Scores on disk are scores: combined again they give what the network gave, bit for bit."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from residual.data.transforms import Preprocessing
from residual.evaluate.evaluation import evaluation
from residual.evaluate.kept import KEY, Contents, Kept, Seen, holds_scores, keep_scores, open_scores, rescore
from residual.evaluate.look import combined
from residual.evaluate.protocol import Protocol, one_crop, ten_crop
from residual.evaluate.score import Scores
from residual.evaluate.views import names

TEN = ten_crop(one_crop(Preprocessing(size=224, resize=256)))
ONE = one_crop(Preprocessing(size=224, resize=256))


def said(protocols: tuple[Protocol, ...], seed: int = 0) -> list[Tensor]:
    """What networks said of seven images in three classes."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(7, len(names(protocol)), 3, generator=generator) for protocol in protocols]


def contents(protocols: tuple[Protocol, ...]) -> Contents:
    return Contents(
        names=tuple(f"{number}.png" for number in range(7)),
        classes=("a", "b", "c"),
        split="test",
        networks=tuple(Seen(weights="w", protocol=one, views=tuple(names(one))) for one in protocols),
    )


LABELS = torch.arange(7) % 3


def kept(path: Path, protocols: tuple[Protocol, ...], seed: int = 0, labels: Tensor = LABELS) -> Kept:
    views = said(protocols, seed)
    batches = ([view[start : start + 3] for view in views] for start in (0, 3, 6))
    assert sum(len(batch[0]) for batch in keep_scores(path, contents(protocols), labels, batches)) == 7
    return open_scores(path)


@pytest.mark.parametrize("protocols", [(TEN,), (TEN, ONE)], ids=["one network", "two networks"])
@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("at_once", [1 << 28, 1])
def test_kept_scores_are_combined_as_the_network_s_own(tmp_path: Path, protocols, average, at_once, monkeypatch):
    monkeypatch.setattr("residual.evaluate.kept.READ_AT_ONCE", at_once)
    file = kept(tmp_path / "scores.safetensors", protocols)
    assert holds_scores(file.path)
    scores = rescore([file], average)
    assert torch.equal(scores.logits, combined(said(protocols), average))
    assert torch.equal(scores.labels, LABELS)
    assert scores.protocol == replace(TEN, average=average)


def test_without_another_average_the_protocol_decides(tmp_path: Path):
    file = kept(tmp_path / "scores.safetensors", (replace(TEN, average="logits"),))
    assert torch.equal(rescore([file]).logits, rescore([file], "logits").logits)


def test_several_files_are_an_ensemble(tmp_path: Path):
    first, second = kept(tmp_path / "1.safetensors", (TEN,)), kept(tmp_path / "2.safetensors", (ONE,), seed=1)
    expected = combined([*said((TEN,)), *said((ONE,), seed=1)], "probabilities")
    assert torch.equal(rescore([first, second]).logits, expected)


def test_any_reader_of_safetensors_can_open_it(tmp_path: Path):
    file = kept(tmp_path / "scores.safetensors", (TEN, ONE))
    tensors = safetensors.torch.load_file(file.path)
    assert torch.equal(tensors["logits"], torch.cat(said((TEN, ONE)), dim=1))
    with safetensors.safe_open(file.path, "pt") as opened:
        told = json.loads(opened.metadata()[KEY])
    assert [len(network["views"]) for network in told["networks"]] == [10, 1]
    assert told["networks"][0]["protocol"]["corners"] == "square"


def test_they_are_evaluated_without_pictures(tmp_path: Path):
    file = kept(tmp_path / "scores.safetensors", (TEN,))
    found = evaluation(rescore([file]), file, split="test", weights="file")
    assert found["protocol"]["name"] == "ten-crop"
    assert {mistake["name"] for mistake in found["mistakes"]} <= set(file.names)
    assert {mistake["png"] for mistake in found["mistakes"]} == {""}


def test_scores_that_break_off_leave_no_file(tmp_path: Path):
    def broken() -> Iterator[list[Tensor]]:
        yield [view[:3] for view in said((TEN,))]
        raise RuntimeError("the network fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        list(keep_scores(tmp_path / "scores.safetensors", contents((TEN,)), LABELS, broken()))
    abandoned = keep_scores(tmp_path / "scores.safetensors", contents((TEN,)), LABELS, broken())
    next(abandoned)
    abandoned.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["names", "classes", "labels"])
def test_scores_of_other_images_are_not_combined(tmp_path: Path, what: str):
    first, second = kept(tmp_path / "1.safetensors", (TEN,)), kept(tmp_path / "2.safetensors", (TEN,))
    if what == "labels":
        second = replace(second, labels=second.labels.flip(0))
    else:
        told = replace(second.contents, **{what: getattr(second.contents, what)[::-1]})
        second = replace(second, contents=told)
    with pytest.raises(ValueError, match=r"2\.safetensors holds scores of other images"):
        rescore([first, second])


def damaged(metadata: object, shape: tuple[int, ...] = (7, 10, 3)) -> bytes:
    tensors = {"labels": LABELS, "logits": torch.zeros(shape)}
    return safetensors.torch.save(tensors, {KEY: json.dumps(metadata)})


WHOLE = {
    "names": list("1234567"), "classes": ["a", "b", "c"], "split": "test", "format": 1,
    "networks": [{"weights": "w", "views": names(TEN), "protocol": {"name": "one-crop", "size": 224}}],
}  # fmt: skip


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "no file of scores"),
        (damaged(WHOLE)[:-9], "no file of scores"),
        (safetensors.torch.save({"labels": LABELS}), "no file of scores"),
        (damaged([]), "no file of scores"),
        (damaged(WHOLE | {"format": 2}), "format 2"),
        (damaged(WHOLE | {"networks": []}), "no network"),
        (damaged(WHOLE | {"surprise": 1}), "surprise"),
        (damaged(WHOLE | {"classes": ["c"] * 100_001}), "of 100,001 classes; the limit is 100,000"),
        (damaged(WHOLE, (7, 9, 3)), r"\(7, 9, 3\)"),
        (damaged(WHOLE | {"names": ["1"]}), "damaged"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, data: bytes, reason: str):
    path = tmp_path / "scores.safetensors"
    path.write_bytes(damaged(WHOLE))
    assert isinstance(rescore([open_scores(path)]), Scores)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        open_scores(path)


def test_weights_are_no_scores(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(3)}, {"residual": "{}"}))
    assert not holds_scores(path)
    assert not holds_scores(tmp_path / "absent")
    assert not holds_scores(tmp_path)
