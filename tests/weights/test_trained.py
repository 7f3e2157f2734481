"""The networks that come with residual are what their cards say."""

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

import residual
from residual.data.sources import open_dataset
from residual.evaluate.error import top_k_error
from residual.evaluate.score import score
from residual.weights import trained
from residual.weights.files import BadWeights

NAMES = trained.names()


def test_there_are_some() -> None:
    assert "resnet20_cifar10" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_found_by_its_name_and_tells_its_history(name: str) -> None:
    model = residual.load(name)
    network, data = name.split("_")
    assert model.card.name == network
    assert model.card.model == residual.describe(network)
    assert not model.training
    history = model.card.history
    assert {"recipe", "seed", "commit", "iterations", "top1_error", "split", "images"} <= history.keys()
    assert (data, history["split"], history["images"]) == ("cifar10", "test", 10_000)
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_its_error_on_a_sample_is_the_one_it_tells(name: str, shared_data: Path) -> None:
    model = residual.load(name)
    images = open_dataset(str(shared_data / "cifar10_small"), workers=1).test
    assert images is not None
    wrong = round(top_k_error(score(model, images, model.card.preprocessing)) / 100 * len(images))
    told = model.card.history["top1_error"]
    assert binomtest(wrong, len(images), told / 100).pvalue > 1e-4, f"{wrong} of {len(images)}, told {told} %"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_it_is_in_its_card(name: str) -> None:
    card, said = residual.load(name).card, trained.claim(name)
    assert (said["network"], said["weights"]) == (card.name, name)
    assert said["top1_error"] == card.history["top1_error"]


def test_a_file_of_that_name_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("resnet20_cifar10").write_text("no weights")
    with pytest.raises(BadWeights, match="'resnet20_cifar10' was not read"):
        residual.load("resnet20_cifar10")


def test_a_name_that_nobody_trained_says_which_there_are() -> None:
    with pytest.raises(BadWeights, match=r"there is no such file.*resnet20_cifar10"):
        residual.load("resnet20_cifar11")
