"""The residual unit against its equation, against plain numpy, and against finite differences."""

from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual.models.blocks import Block, PadChannels, make_block, make_shortcut
from residual.models.catalog import describe
from residual.models.description import Description, Order, Shortcut, Unit, units
from residual.models.resnet import initialize

ORDERS, SHORTCUTS = get_args(Order), get_args(Shortcut)
VARIANTS = list(product(("basic", "bottleneck"), ORDERS, SHORTCUTS))


def small(**changes: object) -> Description:
    """Two stages of two blocks, four and five channels: every place a unit can stand in."""
    base = describe("resnet20")
    return replace(base, **({"depths": (2, 2), "widths": (4, 5), "stem_width": 4} | changes))  # type: ignore[arg-type]


def blocks(description: Description) -> list[tuple[Unit, Block]]:
    made = []
    for unit in units(description):
        block = make_block(description, unit)
        initialize(block)
        for module in block.modules():  # a BN that moves things, so that a missing one is seen
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 1.5)
        made.append((unit, block))
    return made


# ---- every variant


@pytest.mark.parametrize("kind, order, shortcut", VARIANTS)
def test_gradients_are_those_of_finite_differences(kind, order, shortcut):
    """In float64, by eps 1e-6, atol 1e-5 and rtol 1e-3, for the input and every parameter of every unit."""
    torch.manual_seed(0)
    for unit, block in blocks(small(block=kind, order=order, shortcut=shortcut)):
        block.double()
        names = [name for name, _ in block.named_parameters()]

        def output(x: Tensor, *values: Tensor, block: Block = block, names: list[str] = names) -> Tensor:
            torch.manual_seed(1)  # the same dropout each time
            return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

        x = torch.randn(2, unit.c_in, 3, 3, dtype=torch.float64, requires_grad=True)
        inputs = (x, *[p.detach().clone().requires_grad_() for p in block.parameters()])
        assert torch.autograd.gradcheck(output, inputs, eps=1e-6, atol=1e-5, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
@pytest.mark.parametrize("order", ["original", "full"])
def test_every_entry_of_the_jacobian_is_that_of_finite_differences(kind, order):
    """The whole matrix, where the test above compares random directions."""
    torch.manual_seed(0)
    for unit, block in blocks(small(block=kind, order=order, shortcut="B")):
        x = torch.randn(2, unit.c_in, 2, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(block.double(), (x,), eps=1e-6, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_block_halves_the_extent_and_sets_the_channels(shortcut, dims):
    *_, (_, block), _ = blocks(small(shortcut=shortcut, dims=dims))
    assert block(torch.randn(2, 4, *[9] * dims)).shape == (2, 5, *[5] * dims)


@pytest.mark.parametrize("kind, order, shortcut", VARIANTS)
def test_a_block_leaves_its_input_as_it_was(kind, order, shortcut):
    for unit, block in blocks(small(block=kind, order=order, shortcut=shortcut)):
        x = torch.randn(2, unit.c_in, 5, 5)
        before = x.clone()
        block(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("kind, order, shortcut", VARIANTS)
def test_channels_last_goes_in_and_comes_out(kind, order, shortcut):
    for unit, block in blocks(small(block=kind, order=order, shortcut=shortcut)):
        x = torch.randn(2, unit.c_in, 6, 6).to(memory_format=torch.channels_last)
        y = block.to(memory_format=torch.channels_last)(x)
        assert y.is_contiguous(memory_format=torch.channels_last)


# ---- the equations


def written_out(block: Block, x: Tensor) -> Tensor:
    """A basic block of each order, as figure 4 of "Identity Mappings" draws it, with an identity shortcut."""
    conv1, norm1, conv2, norm2 = block.conv1, block.norm1, block.conv2, block.norm2
    match block.order:
        case "original":
            return torch.relu(x + norm2(conv2(torch.relu(norm1(conv1(x))))))
        case "bn-after-add":
            return torch.relu(norm2(x + conv2(torch.relu(norm1(conv1(x))))))
        case "relu-before-add":
            return x + torch.relu(norm2(conv2(torch.relu(norm1(conv1(x))))))
        case "relu-only":
            return x + norm2(conv2(torch.relu(norm1(conv1(torch.relu(x))))))
        case "full":
            return x + conv2(torch.relu(norm2(conv1(torch.relu(norm1(x))))))
    raise AssertionError(block.order)


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_is_the_one_that_figure_4_draws(order):
    _, (_, block), *_ = blocks(small(order=order))
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block.eval()(x), written_out(block, x))


def test_where_the_shape_changes_full_pre_activation_shares_its_activation_and_projects_without_norm():
    *_, (_, block), _ = blocks(small(order="full", shortcut="B"))
    x = torch.randn(2, 4, 6, 6)
    shared = torch.relu(block.eval().norm1(x))
    expected = block.shortcut.conv(shared) + block.conv2(torch.relu(block.norm2(block.conv1(shared))))
    assert torch.equal(block(x), expected)
    assert [name for name, _ in block.shortcut.named_children()] == ["conv"]


def test_a_block_is_its_shortcut_plus_its_residual():
    for unit, block in blocks(small(shortcut="B")):
        x = torch.randn(2, unit.c_in, 6, 6)
        assert torch.equal(block.eval()(x), torch.relu(block.shortcut(x) + block.residual(x)))


def test_a_plain_block_is_its_residual_alone():
    for unit, block in blocks(small(shortcut="none")):
        x = torch.randn(2, unit.c_in, 6, 6)
        assert block.shortcut is None
        assert torch.equal(block.eval()(x), torch.relu(block.residual(x)))


def test_without_its_residual_a_block_is_the_identity_on_positive_inputs():
    (_, block), *_ = blocks(small())
    nn.init.zeros_(block.norm2.weight)
    nn.init.zeros_(block.norm2.bias)
    x = torch.rand(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_without_its_residual_a_pre_activation_block_is_the_identity_everywhere():
    _, (_, block), *_ = blocks(small(order="full"))
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("stride_in, strides", [("first", (2, 1, 1)), ("middle", (1, 2, 1))])
def test_a_bottleneck_strides_where_it_is_told(stride_in, strides):
    *_, (_, block), _ = blocks(small(block="bottleneck", shortcut="B", stride_in=stride_in))
    assert (block.conv1.stride[0], block.conv2.stride[0], block.conv3.stride[0]) == strides


# ---- shortcuts


def test_option_a_takes_every_second_pixel_and_puts_the_zeros_after_the_copy():
    x = torch.randn(2, 4, 5, 5)
    y = PadChannels(4, 7, 2)(x)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2])
    assert torch.equal(y[:, 4:], torch.zeros(2, 3, 3, 3))
    assert not list(PadChannels(4, 7, 2).parameters())


def kinds(shortcut: Shortcut) -> list[type[nn.Module]]:
    return [type(block.shortcut) for _, block in blocks(small(shortcut=shortcut))]


def test_options_a_b_and_c_differ_where_the_shape_changes():
    same, changed = nn.Identity, nn.Sequential
    assert kinds("A") == [same, same, PadChannels, same]
    assert kinds("B") == [same, same, changed, same]
    assert kinds("C") == kinds("conv") == [changed] * 4


def test_a_stride_without_new_channels_changes_the_shape_too():
    assert isinstance(make_shortcut("B", 4, 4, 2), nn.Sequential)
    assert isinstance(make_shortcut("A", 4, 4, 2), PadChannels)


def test_constant_scaling_weighs_both_paths():
    for unit, block in blocks(small(shortcut="constant", shortcut_scale=0.5, residual_scale=0.25)):
        x = torch.randn(2, unit.c_in, 6, 6)
        path = x if unit.same_shape else PadChannels(4, 5, 2)(x)
        assert torch.equal(block.eval()(x), torch.relu(0.5 * path + 0.25 * block.residual(x)))


@pytest.mark.parametrize("shortcut", ["exclusive", "shortcut-only"])
def test_a_gate_weighs_the_shortcut_and_an_exclusive_one_f_as_well(shortcut):
    for unit, block in blocks(small(shortcut=shortcut, gate_bias=-1.0)):
        x = torch.randn(2, unit.c_in, 6, 6)
        g = torch.sigmoid(block.eval().gate.conv(x))
        path = x if unit.same_shape else PadChannels(4, 5, 2)(x)
        weight = g if shortcut == "exclusive" else 1.0
        torch.testing.assert_close(block(x), torch.relu((1 - g) * path + weight * block.residual(x)))
        assert torch.equal(block.gate.conv.bias, torch.full((unit.c_out,), -1.0))


def test_a_dropout_shortcut_drops_in_training_only():
    (_, block), *_ = blocks(small(shortcut="dropout"))
    x = torch.rand(2, 4, 6, 6) + 1
    dropped = block.train().shortcut(x)
    assert 0.3 < (dropped == 0).float().mean() < 0.7
    assert torch.equal(block.eval().shortcut(x), x)


def test_dropout_of_a_wide_block_stands_between_its_convolutions():
    (_, block), *_ = blocks(small(order="full", shortcut="B", dropout=0.9))
    seen = []
    block.conv2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block.train()(torch.randn(2, 4, 6, 6))
    assert (seen[0] == 0).float().mean() > 0.85


# ---- stochastic depth


def frozen_norms(block: Block) -> Block:
    """Training, but with BN as in evaluation, so that only the dropping is random."""
    block.train()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return block


@pytest.mark.parametrize("order", ["original", "full"])
def test_a_dropped_block_hands_on_its_shortcut_and_learns_nothing(order):
    *_, (_, block) = blocks(small(stochastic_depth=0.5, order=order))
    block.survival = 0.0
    x = torch.rand(2, 5, 6, 6, requires_grad=True)
    y = block(x)
    y.sum().backward()
    assert torch.equal(y, x)
    assert all(parameter.grad is None for parameter in block.parameters())
    assert torch.equal(x.grad, torch.ones_like(x))


def test_a_block_survives_as_often_as_it_should():
    torch.manual_seed(0)
    *_, (unit, block) = blocks(small(stochastic_depth=0.3))
    assert unit.survival == pytest.approx(0.7)
    kept = np.mean([not block.dropped() for _ in range(5000)])
    assert abs(kept - 0.7) < 4 * (0.7 * 0.3 / 5000) ** 0.5  # four standard errors


def test_evaluation_is_the_expectation_over_the_dropping():
    torch.manual_seed(0)
    *_, (_, block) = blocks(small(stochastic_depth=0.5, order="full"))
    x = torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        expected = block.eval()(x)
        frozen_norms(block)
        mean = torch.stack([block(x) for _ in range(2000)]).mean(dim=0)
        spread = 0.5 * block.residual(x).abs().max() / 2000**0.5
    assert (mean - expected).abs().max() < 4 * spread


# ---- plain numpy


def numpy_convolution(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    pad = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], weight)


def numpy_norm(x: np.ndarray, norm: nn.BatchNorm2d, *, training: bool) -> np.ndarray:
    def column(values: np.ndarray) -> np.ndarray:
        return values.reshape(1, -1, 1, 1)

    mean = x.mean(axis=(0, 2, 3)) if training else norm.running_mean.numpy()
    variance = x.var(axis=(0, 2, 3)) if training else norm.running_var.numpy()
    gamma, beta = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    return column(gamma) * (x - column(mean)) / np.sqrt(column(variance) + 1e-5) + column(beta)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_basic_block_agrees_with_plain_numpy(shortcut, training):
    """To 1e-10 in float64."""
    torch.manual_seed(0)
    for unit, block in blocks(small(shortcut=shortcut)):
        block.double().train(training)
        x = np.random.default_rng(0).standard_normal((3, unit.c_in, 7, 7))
        y = numpy_convolution(x, block.conv1.weight.detach().numpy(), unit.stride)
        y = np.maximum(numpy_norm(y, block.norm1, training=training), 0)
        y = numpy_convolution(y, block.conv2.weight.detach().numpy(), 1)
        y = numpy_norm(y, block.norm2, training=training)
        if unit.same_shape:
            path = x
        elif shortcut == "A":
            path = np.concatenate([x[:, :, ::2, ::2], np.zeros((3, 1, 4, 4))], axis=1)
        else:
            path = numpy_convolution(x, block.shortcut.conv.weight.detach().numpy(), 2)
            path = numpy_norm(path, block.shortcut.norm, training=training)
        ours = block(torch.from_numpy(x)).detach().numpy()
        assert np.abs(ours - np.maximum(path + y, 0)).max() < 1e-10
