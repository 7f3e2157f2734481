"""What a container's reader hands on arrives number for number, or is refused before it is written."""

import io

import numpy as np
import pytest
import safetensors.torch
import torch

from residual.weights import arrays
from residual.weights.arrays import BFLOAT16, TYPES, write
from residual.weights.files import BadWeights


def written(**named: arrays.Array) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    write(file, named, 1 << 20)
    return safetensors.torch.load(file.getvalue())


@pytest.mark.parametrize("dtype", [d for d in TYPES if d != BFLOAT16], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_arrives_in_either_byte_order(dtype: np.dtype, order: str) -> None:
    values = (np.arange(24) % 2 if dtype.kind == "b" else np.arange(24)).astype(dtype.newbyteorder(order)).reshape(4, 6)
    found = written(whole=values, turned=values.T, part=values[1:3, ::2], one=values[2, 2], none=values[:0])
    for name, expected in (("whole", values), ("turned", values.T), ("part", values[1:3, ::2]), ("one", values[2, 2])):
        np.testing.assert_array_equal(found[name].numpy(), expected)
    assert found["none"].shape == (0, 6)


def test_bfloat16_arrives_bit_for_bit() -> None:
    expected = torch.randn(3, 5).to(torch.bfloat16)
    found = written(w=expected.view(torch.int16).numpy().view("<u2").view(BFLOAT16))
    assert torch.equal(found["w"], expected)


def test_large_arrays_arrive_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "PIECE", 50)
    values = np.random.default_rng(0).normal(size=(7, 4, 3)).astype("f4")
    np.testing.assert_array_equal(written(w=values, flag=np.array(True))["w"].numpy(), values)


def test_numbers_lie_at_multiples_of_their_size() -> None:
    found = written(a=np.ones(3, "u1"), b=np.ones(3, "f8"), c=np.ones(1, "f2"), d=np.ones(5, "f4"))
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in found.values())


@pytest.mark.parametrize(
    "array, reason",
    [
        (np.ones(2, complex), "complex128, which is no number that a network has"),
        (np.array(["text"]), "<U4"),
        (np.array([object()]), "object"),
        (np.broadcast_to(np.float32(1), (1 << 40,)), "unfold to more than"),
        (np.ones((1,) * 9), "9 axes"),
    ],
)
def test_what_no_network_holds_is_refused(array: arrays.Array, reason: str) -> None:
    file = io.BytesIO()
    with pytest.raises(BadWeights, match=reason):
        write(file, {"w": array}, 1 << 20)
    assert not file.getvalue()


def test_too_many_arrays_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MAX_TENSORS", 2)
    with pytest.raises(BadWeights, match="3 tensors; the limit is 2"):
        write(io.BytesIO(), dict.fromkeys("abc", np.ones(1)), 1 << 20)
