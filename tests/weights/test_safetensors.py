"""Our file: what was saved comes back whole, and nothing else does."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.records import CannotWrite
from residual.weights.card import Card, from_json, to_json
from residual.weights.files import BadWeights
from residual.weights.safetensors import KEY, MAX_HEADER, header, read, read_bare, read_header, save, save_half

SMALL = replace(describe("resnet8"), classes=3)
CARD = Card(
    name="resnet8",
    model=SMALL,
    classes=("cat", "dog", "Ünïcøde 🐈"),
    preprocessing=Preprocessing(size=32, mean=(1.5, 2.5, 3.5), std=(60.1, 61, 62)),
    history={"seed": 3, "recipe": {"name": "paper"}},
)


def net(name: str = "resnet8", classes: int = 3) -> ResNet:
    torch.manual_seed(0)
    return ResNet(replace(describe(name), classes=classes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save(path, net().state_dict(), CARD)
    return path


def test_weights_and_card_come_back(path: Path) -> None:
    tensors, card = read(path)
    assert card == CARD
    expected = net().state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_channels_last_weights_are_saved_in_their_order(tmp_path: Path) -> None:
    model = net().to(memory_format=torch.channels_last)
    save(tmp_path / "m.safetensors", model.state_dict(), CARD)
    tensors, _ = read(tmp_path / "m.safetensors")
    assert torch.equal(tensors["stem.conv.weight"], net().stem.conv.weight)


def test_any_reader_of_safetensors_can_open_it(path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()[KEY])["classes"] == list(CARD.classes)
    assert safetensors.torch.load_file(path).keys() == net().state_dict().keys()


def test_the_same_network_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    save(tmp_path / "again.safetensors", net().state_dict(), CARD)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_card_of_a_preactivation_wide_or_plain_net_comes_back() -> None:
    for name in ("preresnet164", "wide_resnet28_10", "plain20", "resnet50_v1_5"):
        model = describe(name)
        card = Card(
            name=name,
            model=model,
            classes=tuple(map(str, range(model.classes))),
            preprocessing=Preprocessing(size=model.image, resize=256, channels="BGR"),
        )
        assert from_json(to_json(card)) == card


@pytest.mark.parametrize(
    "name, classes, reason",
    [("resnet14", 3, "another depth"), ("resnet8", 4, "number of classes"), ("preresnet8", 3, "another")],
)
def test_weights_of_another_network_are_not_written(name: str, classes: int, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=f"was not written: .*{reason}"):
        save(tmp_path / "x.safetensors", net(name, classes).state_dict(), CARD)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    state = net().state_dict()
    state["classifier.bias"][1] = float("inf")
    with pytest.raises(BadWeights, match=r"'classifier\.bias' has 1 of 3 values that are not finite"):
        save(tmp_path / "x.safetensors", state, CARD)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="nowhere"):
        save(tmp_path / "nowhere" / "x.safetensors", net().state_dict(), CARD)


def test_half_is_half_of_the_size_and_comes_back_in_float32_rounded_once(path: Path, tmp_path: Path) -> None:
    save_half(tmp_path / "half.safetensors", net().state_dict(), CARD)
    tensors, card = read(tmp_path / "half.safetensors")
    assert card == replace(CARD, history=CARD.history | {"stored_as": "float16"})
    numbers = sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())
    saved = path.stat().st_size - (tmp_path / "half.safetensors").stat().st_size
    assert abs(saved - 2 * numbers) < 200  # the headers tell different places
    for name, tensor in net().state_dict().items():
        assert tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(tensors[name], tensor, rtol=2**-11, atol=2**-25)


def test_weights_too_large_for_half_are_not_written(tmp_path: Path) -> None:
    state = net().state_dict()
    state["classifier.bias"][1] = 70_000.0
    with pytest.raises(BadWeights, match=r"'classifier\.bias' has values above 65,504.*write it in float32"):
        save_half(tmp_path / "x.safetensors", state, CARD)
    assert not (tmp_path / "x.safetensors").exists()


def forged(change: Callable[[dict[str, torch.Tensor]], Any], path: Path, card: str | None = None) -> Path:
    state = net().state_dict()
    change(state)
    safetensors.torch.save_file(state, path, {"format": "pt", KEY: to_json(CARD) if card is None else card})
    return path


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda s: s.pop("stages.1.0.norm1.running_mean"), "missing"),
        (lambda s: s.update(extra=torch.zeros(2)), "1 tensors the network .* does not have, .*'extra'"),
        (lambda s: s.update({"classifier.bias": torch.zeros(4)}), "another shape"),
        (lambda s: s.update({"classifier.bias": torch.zeros(3).half()}), "float16"),
        (lambda s: s["classifier.bias"].fill_(float("nan")), "not finite"),
        (lambda s: s["stem.norm.running_var"].fill_(-1.0), "negative variance"),
        (lambda s: s.clear(), "too few"),
    ],
)
def test_a_file_that_is_not_the_network_on_its_card_is_refused(
    change: Callable[[dict[str, torch.Tensor]], Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BadWeights, match=reason):
        read(forged(change, tmp_path / "x.safetensors"))


def nothing(_: object) -> None:
    pass


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda c: "{", "card cannot be read"),
        (lambda c: "[" * 100_000, "card cannot be read"),
        (lambda c: json.dumps(c | {"classes": ["a"]}), "1 classes, its network has 3"),
        (lambda c: json.dumps(c | {"format": 2}), "format 2"),
        (lambda c: json.dumps(c | {"clases": []}), r"nobody reads: \$\.clases"),
        (lambda c: json.dumps(c | {"model": c["model"] | {"depht": 1}}), r"nobody reads: \$\.model\.depht"),
        (
            lambda c: json.dumps(c | {"preprocessing": c["preprocessing"] | {"crop": 0.875}}),
            r"nobody reads: \$\.preprocessing\.crop",
        ),
        (lambda c: json.dumps(c | {"model": c["model"] | {"depths": [2, 1, 1]}}), "too few"),
        (lambda c: json.dumps(c | {"model": c["model"] | {"depths": [10**15, 1, 1]}}), "too few"),
        (lambda c: json.dumps(c | {"model": c["model"] | {"widths": [16, 32, 10**15]}}), "too few"),
        (lambda c: json.dumps(c | {"model": c["model"] | {"shortcut": "D"}}), "shortcut"),
        (lambda c: json.dumps(c | {"model": c["model"] | {"stem_width": "16"}}), "stem_width"),
        (lambda c: json.dumps(c | {"preprocessing": c["preprocessing"] | {"std": [0, 1, 1]}}), "std"),
        (lambda c: json.dumps(c | {"preprocessing": c["preprocessing"] | {"channels": "L"}}), "mean"),
        (lambda c: json.dumps({k: v for k, v in c.items() if k != "preprocessing"}), "preprocessing"),
        (lambda c: json.dumps(c | {"preprocessing": c["preprocessing"] | {"size": 10**9}}), "1000000000"),
        (
            lambda c: json.dumps(c | {"preprocessing": c["preprocessing"] | {"resize": 31}}),
            "32 pixels cut from 31",
        ),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(
    change: Callable[[dict[str, Any]], str], reason: str, tmp_path: Path
) -> None:
    text = change(json.loads(to_json(CARD)))
    with pytest.raises(BadWeights, match=reason):
        read(forged(nothing, tmp_path / "x.safetensors", text))


def test_a_file_without_a_card_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(net().state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(BadWeights, match="no card"):
        read(tmp_path / "x.safetensors")


def test_every_truncation_is_refused(path: Path, tmp_path: Path) -> None:
    whole, cut = path.read_bytes(), tmp_path / "cut.safetensors"
    for length in [0, 4, 8, 100, 2000, len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(BadWeights, match="sound safetensors"):
            read(cut)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"{}", b'{"a": 1}', b'{"a": {}}', b'{"__metadata__": {"residual": 1}}', b"\xff\xfe",
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4]}}',
        b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(BadWeights):
        read(path)


def test_a_longer_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BadWeights, match="sound safetensors"):
        read(path)


def test_a_header_as_long_as_a_network_never_has_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = b"{" + b" " * MAX_HEADER + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BadWeights, match="its header has 16,777,218 bytes; the limit is 16,777,216"):
        read(path)


def test_only_the_header_is_read_for_a_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, taken = path.read_bytes(), []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            taken.append(super().read(size))
            return taken[-1]

        def fileno(self) -> int:
            return file.fileno()

    expected = read_header(whole)
    with path.open("rb") as file:
        monkeypatch.setattr("residual.weights.safetensors.open_file", lambda path: Counting(whole))
        assert header(path) == expected
    assert sum(map(len, taken)) == 16 + int.from_bytes(whole[:8], "little") < len(whole) / 2


def test_numbers_that_pytorch_does_not_have_are_refused_by_type(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(BadWeights, match="numbers of type 'F4', which PyTorch does not have"):
        read_bare(path)
