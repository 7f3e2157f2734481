"""The table of published files against the publishers' own tables, and claims that follow a hash."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models

from residual.weights import published
from residual.weights.files import BadWeights
from residual.weights.published import PUBLISHED, by_hash, claim, find
from residual.weights.sources import inspect, load, obtain


def test_torchvision_s_rows_are_those_of_its_own_table() -> None:
    for known in PUBLISHED:
        if known.family != "torchvision":
            continue
        theirs = torchvision.models.get_model_weights(known.network)[known.weights.partition("/")[2]]
        metrics = theirs.meta["_metrics"]["ImageNet-1K"]
        assert known.url == theirs.url
        assert known.file == f"{known.network}-{known.hashes[0]}.pth"
        assert (known.top1, known.top5) == pytest.approx((100 - metrics["acc@1"], 100 - metrics["acc@5"]))
        assert [known.preprocessing.resize] == theirs.transforms().resize_size


def test_without_a_word_torchvision_s_newest_are_meant_as_by_torchvision() -> None:
    for network in {known.network for known in PUBLISHED if known.family == "torchvision"}:
        assert find(network, "torchvision").url == torchvision.models.get_model_weights(network).DEFAULT.url


def test_timm_s_rows_are_those_of_its_own_table() -> None:
    timm = pytest.importorskip("timm")
    for known in PUBLISHED:
        if known.family != "timm":
            continue
        theirs = timm.get_pretrained_cfg(f"{known.network}.{known.weights.partition('/')[2]}")
        assert theirs.url.rpartition("/")[2] == known.file
        assert (theirs.crop_pct, theirs.interpolation) == (0.95, known.preprocessing.interpolation)
        assert known.preprocessing.resize == int(known.preprocessing.size / theirs.crop_pct)


def test_every_row_is_one_file_with_a_hash_of_its_own() -> None:
    prefixes = [prefix for known in PUBLISHED for prefix in known.hashes]
    assert len(set(prefixes)) == len(prefixes)
    assert len({(known.network, known.weights) for known in PUBLISHED}) == len(PUBLISHED)
    assert len({(known.family, known.file) for known in PUBLISHED}) == len(PUBLISHED)
    for known in PUBLISHED:
        assert known.url.startswith("https://")
        assert known.algorithm == ("md5" if len(known.hashes[0]) == 32 else "sha256")
        assert known.hashes[0] in known.file or known.algorithm == "md5"
        assert all(set(prefix) <= set("0123456789abcdef") and len(prefix) >= 8 for prefix in known.hashes)


@pytest.mark.parametrize(
    "network, weights, file",
    [
        ("resnet50", "torchvision/IMAGENET1K_V1", "resnet50-0676ba61.pth"),
        ("resnet50_v1_5", "torchvision", "resnet50-11ad3fa6.pth"),
        ("resnet50", "timm/a2_in1k", "resnet50_a2_0-a2746f79.pth"),
        ("resnet20", "akamaster", "resnet20-12fca82f.th"),
        ("resnet152", "keras", "resnet152_weights_tf_dim_ordering_tf_kernels.h5"),
    ],
)
def test_a_file_is_found_by_network_and_publisher(network: str, weights: str, file: str) -> None:
    assert find(network, weights).file == file


@pytest.mark.parametrize(
    "network, weights, reason",
    [
        ("resnet50", "caffe2", "no weights 'caffe2' of resnet50 are known; there are: torchvision/IMAGENET1K_V2, "),
        ("resnet51", "torchvision", "no published weights of 'resnet51' are known; there are some of: resnet18"),
        ("resnet20", "torchvision", "there are: akamaster/cifar10"),
    ],
)
def test_what_nobody_published_is_refused_with_what_there_is(network: str, weights: str, reason: str) -> None:
    with pytest.raises(BadWeights, match=reason):
        find(network, weights)


def test_a_claim_follows_the_hash_and_nothing_else(tmp_path: Path, shared_data: Path) -> None:
    theirs = shared_data / "weights" / "resnet20-12fca82f.th"
    (tmp_path / "renamed").write_bytes(theirs.read_bytes())
    found = inspect(tmp_path / "renamed")
    assert found["published"]["top1_error"] == 8.27
    assert found["card"]["history"]["published"] == found["published"]
    changed = torch.load(theirs, map_location="cpu", weights_only=True)
    changed["state_dict"]["module.linear.bias"] += 1
    torch.save(changed, tmp_path / "resnet20-12fca82f.th")
    assert "published" not in inspect(tmp_path / "resnet20-12fca82f.th")


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_published_file_s_images_are_those_it_was_published_for(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "x.pth")
    digest = hashlib.new(algorithm, (tmp_path / "x.pth").read_bytes()).hexdigest()
    row = replace(find("resnet50", "torchvision"), network="resnet18", hashes=(digest[:8],), algorithm=algorithm)
    assert load(tmp_path / "x.pth").card.preprocessing.resize == 256
    monkeypatch.setattr(published, "PUBLISHED", (row,))
    card = load(tmp_path / "x.pth").card
    assert card.preprocessing.resize == 232
    assert card.history["published"] == claim(row)
    assert "assumed" not in card.history
    assert by_hash({"sha256": "0" * 64, "md5": "0" * 32}) is None


def test_nothing_is_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    command = "residual weights download resnet50 torchvision/IMAGENET1K_V2"
    with pytest.raises(BadWeights, match=f"nothing is fetched unasked; fetch them: {command}"):
        load("resnet50", weights="torchvision")
    assert not (tmp_path / "cache").exists()


def test_what_was_fetched_once_is_taken_from_the_disk(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path))

    def fetch(url: str, target: Path, **asked: Any) -> None:
        assert (url, asked["digest"]) == (find("resnet20", "akamaster").url, "12fca82f")
        target.parent.mkdir(parents=True)
        target.write_bytes((shared_data / "weights" / target.name).read_bytes())

    monkeypatch.setattr("residual.weights.sources.fetch", fetch)
    path = obtain("resnet20", "akamaster", download=True)
    assert path == tmp_path / "weights" / "akamaster" / "resnet20-12fca82f.th"
    monkeypatch.delattr("residual.weights.sources.fetch")
    assert load("resnet20", weights="akamaster").card.history["published"]["top1_error"] == 8.27


def test_what_was_fetched_is_checked_again_when_it_is_used(
    tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path))
    cached = tmp_path / "weights" / "akamaster" / "resnet20-12fca82f.th"
    cached.parent.mkdir(parents=True)
    changed = torch.load(shared_data / "weights" / cached.name, map_location="cpu", weights_only=True)
    changed["state_dict"]["module.linear.bias"] += 1
    torch.save(changed, cached)
    command = "residual weights download resnet20 akamaster/cifar10"
    for download in (False, True):
        with pytest.raises(BadWeights, match=f"begins with 12fca82f: .*delete it and fetch it again: {command}"):
            load("resnet20", weights="akamaster", download=download)
