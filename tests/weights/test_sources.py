"""One door for every file of weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.weights import akamaster
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.safetensors import save
from residual.weights.sources import EXPORTS, LAYOUTS, assembled, convert, inspect, load, read

CARD = Card(
    name="resnet8",
    model=replace(describe("resnet8"), classes=2),
    classes=("cat", "dog"),
    preprocessing=Preprocessing(size=32),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    torch.manual_seed(1)
    save(folder / "model.safetensors", ResNet(CARD.model).state_dict(), CARD)
    return folder


def test_a_run_folder_and_its_file_load_alike(run: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    one, other = load(run), load(str(run / "model.safetensors"))
    assert isinstance(one, ResNet)
    assert one.card == CARD
    assert not one.training
    with torch.inference_mode():
        assert torch.equal(one(images), other(images))


def test_a_loaded_network_can_be_trained_on(run: Path) -> None:
    model = load(run).train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None and p.device.type == "cpu" for p in model.parameters())
    assert model.get_buffer("stem.norm.num_batches_tracked") == 1


def test_loading_draws_no_random_numbers(run: Path) -> None:
    before = torch.get_rng_state()
    load(run)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_file_may_be_replaced_while_its_network_lives(run: Path) -> None:
    model = load(run)
    kept = model.classifier.weight.clone()
    (run / "model.safetensors").write_bytes(b"\0" * 4096)
    assert torch.equal(model.classifier.weight, kept)


def test_a_pinned_hash_is_checked(run: Path) -> None:
    found = inspect(run)["sha256"]
    assert load(run, sha256=found).card == load(run, sha256=found[:8].upper()).card
    with pytest.raises(BadWeights, match=f"has sha256 {found}, expected 00"):
        load(run, sha256="00000000")


@pytest.mark.parametrize("pin", ["", "12", "1234567", "0x123456", "12345678 ", "0" * 65])
def test_a_hash_that_pins_nothing_is_refused(pin: str, run: Path) -> None:
    with pytest.raises(BadWeights, match="pins no file: it has eight to 64 digits"):
        load(run, sha256=pin)


def test_of_a_file_of_ours_no_hash_is_taken_that_nobody_published(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr("residual.weights.sources.hashed", lambda file, algorithm: taken.append(algorithm) or "0" * 64)
    load(run)
    assert taken == []
    inspect(run)
    assert taken == ["sha256"]


@pytest.mark.parametrize("named", [layout.NAME for layout in LAYOUTS if layout is not akamaster])
def test_a_layout_whose_names_it_does_not_have_is_refused(named: str, tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "linear.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(BadWeights, match=rf"not those of {named}'s networks \(conv1.weight, linear.weight, ...\)"):
        read(tmp_path / "x.pth", layout=named)
    assert "leave the layout out" in inspect(tmp_path / "x.pth", layout=named)["problem"]


def test_inspect_says_whose_file_it_is_and_what_it_expects(run: Path) -> None:
    found = inspect(run)
    json.dumps(found)
    assert (found["layout"], found["container"]) == ("residual", "safetensors")
    assert found["card"]["preprocessing"]["size"] == 32
    assert len(found["tensors"]) == len(load(run).state_dict())


def test_convert_makes_a_file_of_ours_that_answers_alike(shared_data: Path, tmp_path: Path) -> None:
    theirs = shared_data / "weights" / "resnet20-12fca82f.th"
    card = convert(theirs, tmp_path / "ours.safetensors")
    assert card.history["sha256"].startswith("12fca82f")
    assert inspect(theirs)["layout"] == "akamaster"
    ours = load(tmp_path / "ours.safetensors")
    assert ours.card == card
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(ours(images), load(theirs)(images))


def test_inspect_describes_what_cannot_be_converted(tmp_path: Path) -> None:
    names = {"conv1.weight", "layer1.0.conv1.weight", "fc.weight", "fc.bias"}
    torch.save({name: torch.zeros(1) for name in names}, tmp_path / "resnet18.pth")
    found = inspect(tmp_path / "resnet18.pth")
    json.dumps(found)
    assert found["layout"] == "torchvision"
    assert "card" not in found
    with pytest.raises(BadWeights, match="has shape"):
        load(tmp_path / "resnet18.pth")


def test_inspect_tells_what_is_wrong_with_a_file_of_ours(run: Path) -> None:
    path = run / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4])
    assert "sound safetensors" in inspect(path)["problem"]


@pytest.mark.parametrize(
    "source, reason",
    [
        ("resnet20", "'resnet20' was not read: this is the name of a network, not a file"),
        ("nothing", "'nothing' was not read: there is no such file"),
        ("a\0b", "was not read"),
        ("x" * 5000, "was not read: File name too long"),
    ],
)
def test_what_is_not_there_is_refused_with_the_way_out(source: str, reason: str) -> None:
    with pytest.raises(BadWeights, match=reason):
        load(source)


def test_folders_that_hold_no_weights_are_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(BadWeights, match=r"no run\.json"):
        load(tmp_path)
    (run / "model.safetensors").unlink()
    with pytest.raises(BadWeights, match=r"no model\.safetensors yet.*--resume"):
        load(run)


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"note": "x"}}, tmp_path / "x.pt")
    with pytest.raises(BadWeights, match="no named tensors"):
        load(tmp_path / "x.pt")


def test_every_layout_has_a_name_of_its_own() -> None:
    names = [layout.NAME for layout in LAYOUTS]
    assert len({*names, "residual", "unknown"}) == len(names) + 2
    assert EXPORTS.keys() <= set(names)


def test_another_card_makes_another_network_of_the_same_numbers(tmp_path: Path) -> None:
    """What a file does not tell can be tried: here, where a bottleneck strides."""
    torch.manual_seed(0)
    model = replace(describe("resnet50_v1_5"), depths=(1, 1), widths=(8, 16), stem_width=8, classes=2)
    card = Card(name="small", model=model, classes=("a", "b"), preprocessing=Preprocessing(size=64))
    save(tmp_path / "x.safetensors", ResNet(model).state_dict(), card)
    tensors, card = read(tmp_path / "x.safetensors")
    moved = assembled(tensors, replace(card, model=replace(card.model, stride_in="first")))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(assembled(tensors, card)(images), load(tmp_path / "x.safetensors")(images))
        assert not torch.allclose(moved(images), assembled(tensors, card)(images))
    assert moved.description == moved.card.model != card.model


def test_a_file_of_no_container_is_described_and_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"<!DOCTYPE html>")
    found = inspect(tmp_path / "x.pth")
    json.dumps(found)
    assert (found["layout"], found["container"], found["tensors"]) == ("unknown", None, [])
    with pytest.raises(BadWeights, match=r"x\.pth' was not read: it begins with b'<!DOCTYP'"):
        load(tmp_path / "x.pth")


def test_names_of_nobody_are_shown(tmp_path: Path) -> None:
    torch.save({"encoder.w": torch.zeros(2), "a": torch.ones(1)}, tmp_path / "x.pth")
    found = inspect(tmp_path / "x.pth")
    assert {"name": "encoder.w", "shape": [2]} in found["tensors"]
    assert "its names (a, encoder.w, ...) are of no layout we convert; there are: akamaster" in found["problem"]


def test_our_names_without_a_card_are_not_guessed_at(tmp_path: Path) -> None:
    torch.save(ResNet(CARD.model).state_dict(), tmp_path / "x.pth")
    with pytest.raises(BadWeights, match="our names but no card"):
        load(tmp_path / "x.pth")
