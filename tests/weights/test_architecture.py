from dataclasses import replace

import pytest
import torch

from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.weights.architecture import as_float32, check_shapes, check_values, expected
from residual.weights.pickles import BadWeights

SMALL = replace(describe("resnet8"), classes=3)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return ResNet(SMALL).state_dict()


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_the_network_s_own_tensors_are_accepted(tensors):
    check_shapes(shapes(tensors), SMALL)
    check_values(tensors, SMALL)


def test_what_is_expected_takes_no_memory_and_draws_no_random_numbers():
    state = torch.random.get_rng_state()
    found = expected(describe("resnet1202"))
    assert all(tensor.is_meta for tensor in found.values())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "other, reason",
    [
        (replace(SMALL, depths=(2, 1, 1)), "too few|missing"),
        (replace(SMALL, classes=2), "another shape"),
        (replace(SMALL, depths=(10**6,) * 3), "too few: the weights are of another network"),
    ],
)
def test_weights_of_another_network_are_refused(tensors, other, reason):
    with pytest.raises(BadWeights, match=reason):
        check_shapes(shapes(tensors), other)


def test_a_tensor_too_many_or_too_few_is_named(tensors):
    with pytest.raises(BadWeights, match=r"does not have, the first is 'extra' \(3,\)"):
        check_shapes(shapes(tensors) | {"extra": (3,)}, SMALL)
    del tensors["stem.norm.bias"]
    tensors["classifier.weight.more"] = torch.zeros(3, 64)  # as many numbers as before
    with pytest.raises(BadWeights, match=r"does not have, the first is 'classifier\.weight\.more'"):
        check_shapes(shapes(tensors), SMALL)
    renamed = shapes(tensors)
    del renamed["classifier.weight.more"]
    with pytest.raises(BadWeights, match=r"too few|'stem\.norm\.bias'"):
        check_shapes(renamed, SMALL)


@pytest.mark.parametrize(
    "name, spoil, reason",
    [
        ("classifier.weight", lambda t: t.double(), "torch.float64, the network has torch.float32"),
        ("stem.conv.weight", lambda t: t.index_fill(0, torch.tensor([0]), float("nan")), "27 of 432 values"),
        ("classifier.bias", lambda t: t - float("inf"), "3 of 3 values that are not finite"),
        ("stem.norm.running_var", lambda t: t - 2, "a negative variance"),
    ],
)
def test_values_that_no_training_leaves_are_refused_by_name(tensors, name, spoil, reason):
    with pytest.raises(BadWeights, match=f"'{name}'.*{reason}"):
        check_values(tensors | {name: spoil(tensors[name])}, SMALL)


def test_halves_become_floats_and_are_told_and_counters_stay():
    converted, kinds = as_float32({"a": torch.ones(2).half(), "b": torch.ones(2), "n": torch.tensor(5)})
    assert [tensor.dtype for tensor in converted.values()] == [torch.float32, torch.float32, torch.int64]
    assert kinds == ["float16"]
