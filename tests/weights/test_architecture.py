from dataclasses import replace

import pytest
import torch
from torch import nn

from residual.models.catalog import catalog, describe
from residual.models.resnet import ResNet
from residual.weights import architecture
from residual.weights.architecture import (
    as_float32,
    catalog_name,
    check_shapes,
    check_values,
    count_batches,
    expected,
    fixed_norm,
    fold_bias,
    fold_epsilon,
    renamed,
    shapes_of,
)
from residual.weights.files import BadWeights

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


# --- from tensors to a description ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, known in catalog.items()  # of images, shapes tell only what a stem is usually for
        if known.shortcut == "B" and known.order == "original" and not name.startswith("small_")
    ],
)
@pytest.mark.parametrize("classes", [1, 1000])
def test_a_network_with_option_b_is_known_by_its_shapes(name, classes):
    known = replace(describe(name), classes=classes)
    found = architecture.describe(shapes_of(expected(known)), stride_in=known.stride_in)
    assert found == known
    assert catalog_name(found) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"depths": (1, 2, 1)},
        {"depths": (3, 24, 36, 3), "widths": (64, 128, 256, 512)},
        {"block": "bottleneck", "inner": 1.5},
        {"block": "bottleneck", "stride_in": "middle", "order": "bn-after-add"},
        {"stem_width": 8, "channels": 1, "stem_bias": True},
        {"stem": "imagenet", "image": 224, "stem_pool": "ceil"},
    ],
)
def test_other_networks_with_option_b_are_known_too(changes):
    known = replace(SMALL, shortcut="B", **changes)
    what_shapes_do_not_tell = {field: getattr(known, field) for field in ("stride_in", "stem_pool", "order")}
    assert architecture.describe(shapes_of(expected(known)), **what_shapes_do_not_tell) == known


def test_a_network_of_no_name_is_called_by_its_layers():
    assert catalog_name(replace(describe("resnet50_v1_5"), depths=(3, 24, 36, 3))) == "resnet200"
    assert catalog_name(replace(describe("resnet18"), depths=(1, 1, 1, 1))) == "resnet10"
    assert catalog_name(replace(describe("resnet50"), stem_pool="ceil", classes=3)) == "resnet50"


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"stem.conv.weight": None}, "'stem.conv.weight' .* is missing"),
        ({"stem.conv.weight": (16, 3, 11, 11)}, "first convolution is 11x11"),
        ({"stem.conv.weight": (16, 3, 7, 3)}, "7x3"),
        ({"classifier.weight": (10, 64, 1, 1)}, r"has shape \(10, 64, 1, 1\)"),
        ({"classifier.weight": (0, 64)}, "has shape"),
        ({"stages.1.0.conv2.weight": None}, "is missing"),
        ({"stages.1.5.conv1.weight": (1, 1, 1, 1)}, "numbered from 0 without a gap"),
        ({"stages.4.0.conv1.weight": (1, 1, 1, 1)}, "numbered from 0 without a gap"),
        ({"stages.0.0.conv3.weight": (63, 16, 1, 1)}, "is missing|multiple of four"),
    ],
)
def test_shapes_of_no_network_are_refused(change, reason):
    shapes_now = shapes_of(expected(SMALL)) | change
    with pytest.raises(BadWeights, match=reason):
        architecture.describe({name: shape for name, shape in shapes_now.items() if shape is not None})


def test_no_tensors_are_no_network():
    with pytest.raises(BadWeights, match="without a gap"):
        architecture.describe({})


# --- to the network that we build -----------------------------------------------------------------------------


@torch.no_grad()
def test_folding_changes_no_answer():
    """A convolution with a bias before a norm with another epsilon, and ours without bias: the same function."""
    rng = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8, eps=1.001e-5)
    conv.bias.copy_(torch.randn(8, generator=rng))
    norm.running_mean.copy_(torch.randn(8, generator=rng))
    norm.running_var.copy_(torch.rand(8, generator=rng) * 1e-4)  # so small that the epsilon counts
    tensors = {
        f"{part}.{name}": t.clone() for part, m in (("c", conv), ("n", norm)) for name, t in m.state_dict().items()
    }
    fold_bias(tensors, "c", "n")
    fold_epsilon(tensors, "n", 1.001e-5)
    ours, ours_norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
    ours.load_state_dict({"weight": tensors["c.weight"]})
    ours_norm.load_state_dict({name.removeprefix("n."): t for name, t in tensors.items() if name.startswith("n.")})
    images = torch.randn(2, 3, 9, 9, generator=rng)
    expected_ = norm.double().eval()(conv.double()(images.double()))
    found = ours_norm.eval()(ours(images)).double()
    assert (found - expected_).abs().max() <= 1e-5 * expected_.abs().max()


@torch.no_grad()
def test_a_fixed_norm_multiplies_and_adds():
    scale, shift = torch.randn(6), torch.randn(6)
    norm = nn.BatchNorm2d(6).eval()
    norm.load_state_dict(fixed_norm(scale, shift), strict=False)
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(norm(x), x * scale[:, None, None] + shift[:, None, None])


def test_a_bias_of_another_length_is_refused():
    with pytest.raises(BadWeights, match="has 3 biases, the norm behind it 4 means"):
        fold_bias({"c.bias": torch.ones(3), "n.running_mean": torch.ones(4)}, "c", "n")


def test_batches_are_counted_from_0_where_nobody_counted():
    tensors = {
        "a.running_mean": torch.ones(1),
        "b.running_mean": torch.ones(1),
        "b.num_batches_tracked": torch.tensor(7),
    }
    count_batches(tensors)
    assert (tensors["a.num_batches_tracked"].item(), tensors["b.num_batches_tracked"].item()) == (0, 7)


def test_two_tensors_are_never_given_one_name():
    with pytest.raises(BadWeights, match="two of its tensors have the same place in a zoo"):
        renamed({"a": torch.ones(1), "A": torch.ones(1)}, str.lower, "a zoo")
    with pytest.raises(BadWeights, match=r"1 tensors are not of a zoo, the first is 'b' \(2,\)"):
        renamed({"a": torch.ones(1), "b": torch.ones(2)}, {"a": "x"}.get, "a zoo")
