"""torchvision's networks answer here as they do there, and go back bit for bit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision.models
from torch import nn

from residual.models.catalog import describe, list_models
from residual.models.resnet import ResNet
from residual.weights import imagenet
from residual.weights import torchvision as layout
from residual.weights.architecture import expected
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.safetensors import save
from residual.weights.sources import convert, export, inspect, load, read

NAMES = {  # theirs: what we call the network
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50_v1_5",
    "resnet101": "resnet101_v1_5",
    "resnet152": "resnet152_v1_5",
    "wide_resnet50_2": "wide_resnet50_2",
    "wide_resnet101_2": "wide_resnet101_2",
}


def their(name: str, **settings: Any) -> nn.Module:
    return getattr(torchvision.models, name)(weights=None, **settings)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_known_by_its_shapes(name: str) -> None:
    with torch.device("meta"):
        state = their(name, num_classes=7).state_dict()
    assert layout.recognises(state)
    tensors, card = layout.convert(state)
    assert (card.name, card.model) == (NAMES[name], replace(describe(NAMES[name]), classes=7))
    assert {key: t.shape for key, t in tensors.items()} == {key: t.shape for key, t in expected(card.model).items()}


@pytest.mark.parametrize("name, side", [("resnet18", 65), ("resnet50", 64), ("wide_resnet50_2", 64)])
def test_it_answers_as_theirs_does(name: str, side: int, tmp_path: Path, foreign: Any) -> None:
    theirs = foreign.perturbed(their(name, num_classes=20))
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    assert foreign.difference(load(tmp_path / "x.pth"), theirs, side) < 1e-5


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "nest",
    [
        lambda state: {"state_dict": state, "epoch": 9},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}, "args": None},
    ],
    ids=["state_dict", "model and module"],
)
def test_checkpoints_of_their_training_are_read(
    zipped: bool, nest: Callable[[Any], Any], tmp_path: Path, foreign: Any
) -> None:
    theirs = foreign.perturbed(their("resnet18", num_classes=3))
    torch.save(nest(theirs.state_dict()), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert foreign.difference(load(tmp_path / "x.pth"), theirs) < 1e-5


def test_a_thousand_classes_are_imagenet_s_and_the_card_says_what_it_assumes(tmp_path: Path) -> None:
    torch.save(their("resnet18").state_dict(), tmp_path / "x.pth")
    found = inspect(tmp_path / "x.pth")
    assert (found["layout"], found["container"]) == ("torchvision", "torch.save")
    assert found["card"]["classes"][0] == "tench"
    assert found["card"]["preprocessing"]["resize"] == 256
    assumed = found["card"]["history"]["assumed"]
    for told in ("first weights", "red green blue", "stride in the 3x3", "residual weights doctor"):
        assert told in assumed


@pytest.mark.parametrize("whose", ["torchvision", "timm"])
def test_a_3x3_stem_under_these_names_is_not_guessed_at(whose: str, tmp_path: Path) -> None:
    """Here with pooling behind it, which our networks for small images do not have."""
    theirs = their("resnet18", num_classes=3)
    theirs.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    with pytest.raises(BadWeights, match=r"first convolution is 3x3, .*nor whether pooling follows; .*stem=\"cifar\""):
        read(tmp_path / "x.pth", layout=whose)


@pytest.mark.parametrize("to, suffix", [("torchvision", ".pth"), ("timm", ".safetensors")])
def test_the_way_there_and_back_changes_no_bit(suffix: str, to: str, tmp_path: Path, foreign: Any) -> None:
    state = foreign.perturbed(their("resnet50", num_classes=5)).state_dict()
    state["bn1.num_batches_tracked"] += 7
    torch.save(state, tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors")
    export(tmp_path / "ours.safetensors", tmp_path / f"back{suffix}", layout=to)
    if suffix == ".pth":
        back = torch.load(tmp_path / f"back{suffix}", weights_only=True)
    else:
        back = safetensors.torch.load_file(tmp_path / f"back{suffix}")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    their("resnet50", num_classes=5).load_state_dict(back)


def test_their_names_undo_ours() -> None:
    for name in ("resnet18", "resnet50_v1_5"):
        for ours in expected(describe(name)):
            assert layout.ours(layout.theirs(ours)) == ours


@pytest.mark.parametrize(
    "name",
    ["layer1.0.conv4.weight", "layer01.0.conv1.weight", "layer0.0.conv1.weight", "fc.weight\n", "fc", "bn1.x", ""],
)
def test_other_names_are_not_theirs(name: str) -> None:
    assert layout.ours(name) is None


def test_files_from_before_batches_were_counted_are_read(tmp_path: Path, foreign: Any) -> None:
    theirs = foreign.perturbed(their("resnet18", num_classes=3))
    state = {name: t for name, t in theirs.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "x.pth")
    assert foreign.difference(load(tmp_path / "x.pth"), theirs) < 1e-5


@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnext50_32x4d", "groups"),
        ("resnet50d", "three 3x3"),
        ("seresnet50", "weigh their channels"),
    ],
)
def test_relatives_are_refused_by_name(name: str, reason: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        state = (their(name) if hasattr(torchvision.models, name) else timm.create_model(name)).state_dict()
    assert layout.recognises(state)
    with pytest.raises(BadWeights, match=reason):
        layout.convert(state)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: [s.pop("fc.weight"), s.pop("fc.bias")], "no classifier"),
        (lambda s: s.pop("fc.bias"), r"1 tensors are missing .*'classifier\.bias'"),
        (lambda s: s.pop("layer2.0.downsample.0.weight"), "too few: .* or some are missing"),
        (lambda s: s.pop("layer2.0.conv2.weight"), r"stages\.1\.0\.conv2\.weight.* is missing"),
        (lambda s: s.update({"layer1.5.conv1.weight": torch.zeros(64, 64, 3, 3)}), "without a gap"),
        (lambda s: s.update({"layer1.x": torch.zeros(1)}), r"1 tensors are not of torchvision's ResNets.*'layer1\.x'"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 3, 5, 5)}), "5x5; a ResNet's is 7x7"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64)}), "has shape"),
        (lambda s: s.update({"fc.weight": torch.zeros(0, 128)}), "has shape"),
        (lambda s: s["layer2.1.bn2.running_var"].fill_(-1), "negative variance"),
        (lambda s: s["fc.bias"].fill_(float("inf")), "not finite"),
    ],
)
def test_what_is_not_whole_is_refused(change: Callable[[Any], Any], reason: str, tmp_path: Path) -> None:
    kept = ("conv1", "bn1", "layer1", "layer2", "fc")  # two stages are a network too, and quickly written
    state = {name: t for name, t in their("resnet18", num_classes=3).state_dict().items() if name.startswith(kept)}
    state["fc.weight"] = state["fc.weight"][:, :128].clone()
    change(state)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(BadWeights, match=reason):
        load(tmp_path / "x.pth")


def test_what_was_read_by_another_process_can_be_trained_on(tmp_path: Path) -> None:
    """Its numbers are a file's, mapped; a step of training must reach the network and nothing else."""
    torch.save(their("resnet18", num_classes=3).state_dict(), tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    model = load(tmp_path / "x.pth").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    again = load(tmp_path / "x.pth")
    assert not torch.equal(model.classifier.weight, again.classifier.weight)
    assert model.get_buffer("stem.norm.num_batches_tracked") == 1
    assert (tmp_path / "x.pth").read_bytes() == before


def test_half_precision_is_read_and_told(tmp_path: Path, foreign: Any) -> None:
    theirs = foreign.perturbed(their("resnet18", num_classes=3))
    state = {name: t.half() if t.is_floating_point() else t for name, t in theirs.state_dict().items()}
    torch.save(state, tmp_path / "x")
    _, card = read(tmp_path / "x")
    assert card.history["stored_as"] == "float16"
    assert foreign.difference(load(tmp_path / "x"), theirs) < 0.05


@pytest.mark.parametrize(
    "name, changes, reason",
    [
        ("resnet50", {}, "strides in the first 1x1"),
        ("resnet20", {}, "3 stages"),
        ("plain18", {}, "shortcuts are 'none'"),
        ("resnet18", {"stem_pool": "ceil"}, "without a border"),
        ("resnet18", {"stem_bias": True}, "has a bias"),
        ("resnet18", {"stem": "cifar"}, "one 3x3"),
        ("resnet18", {"widths": (32, 64, 128, 256)}, "widths"),
        ("resnet50_v1_5", {"order": "bn-after-add"}, "order"),
    ],
)
def test_a_network_that_they_do_not_have_is_not_exported(
    name: str, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    model = replace(describe(name), classes=2, **changes)
    pictures = replace(imagenet.TORCHVISION, size=64, resize=None)
    card = Card(name=name, model=model, classes=("a", "b"), preprocessing=pictures)
    save(tmp_path / "ours.safetensors", ResNet(model).state_dict(), card)
    with pytest.raises(BadWeights, match=f"cannot be written for torchvision or timm: .*{reason}"):
        export(tmp_path / "ours.safetensors", tmp_path / "theirs.pth", layout="torchvision")
    assert not (tmp_path / "theirs.pth").exists()


def test_an_unknown_layout_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="'caffe'; there are: torchvision, timm"):
        export(tmp_path, tmp_path / "x", layout="caffe")


def test_every_network_of_the_catalog_that_they_have_goes_there(tmp_path: Path) -> None:
    """Loaded by their own class, strictly."""
    for theirs, ours in NAMES.items():
        assert ours in list_models()
        with torch.device("meta"):
            made = layout.export(expected(describe(ours)), Card(
                name=ours, model=describe(ours), classes=imagenet.classes(1000), preprocessing=imagenet.TORCHVISION
            ))  # fmt: skip
            their(theirs).load_state_dict(made, assign=True)
