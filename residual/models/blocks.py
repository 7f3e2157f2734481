"""The residual unit: y = shortcut(x) + F(x), in every form of the papers.

Shapes: N images, C channels, * one to three spatial axes.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from residual.models.description import GATED, PROJECTED, Description, Shortcut, Unit


class Block(nn.Module):
    """What all units share: the addition, its gate, and dropping the whole of F in some steps.

    (N, c_in, *) -> (N, c_out, *); each spatial axis is divided by the unit's stride, rounded up.

    `lead` says where the activation ahead of a pre-activation unit's first convolution stands: "own" is
    inside F, "shared" is ahead of both paths (then `residual` and `shortcut` expect what `activate` returns),
    "none" is the first unit's, whose activation is in the stem.
    """

    def __init__(self, description: Description, unit: Unit) -> None:
        super().__init__()
        kind, dims = description.shortcut, description.dims
        c_in, c_out, stride = unit.c_in, unit.c_out, unit.stride
        self.order = description.order
        self.lead = unit.lead
        self.shortcut = make_shortcut(
            kind,
            c_in,
            c_out,
            stride,
            dims=dims,
            normed=self.order != "full",
            scale=description.shortcut_scale,
        )
        gated = kind in GATED
        self.gate = Gate(c_in, c_out, stride, bias=description.gate_bias, dims=dims) if gated else None
        self.exclusive = kind == "exclusive"
        self.residual_scale = description.residual_scale
        self.survival = unit.survival

    def forward(self, x: Tensor) -> Tensor:
        if self.lead == "shared":
            x = self.activate(x)
        if self.shortcut is None:
            return self.finish(self.residual(x))
        if self.dropped():
            return self.finish(self.shortcut(x).clone())  # a copy, for `finish` works in place
        h, y = self.shortcut(x), self.scaled(self.residual(x))
        if self.gate is not None:
            g = self.gate(x)
            h, y = (1 - g) * h, g * y if self.exclusive else y
        return self.finish(h + y)

    def residual(self, x: Tensor) -> Tensor:
        """F(x), the part that is learned."""
        raise NotImplementedError

    def dropped(self) -> bool:
        """Stochastic depth: whether this step, for its whole mini-batch, goes without F."""
        return self.training and self.survival < 1 and bool(torch.rand(()) >= self.survival)

    def scaled(self, y: Tensor) -> Tensor:
        """F as it counts in the sum: times its constant and, in evaluation, its probability of survival."""
        scale = self.residual_scale if self.training else self.residual_scale * self.survival
        return y if scale == 1 else scale * y

    # Of the chain conv-BN-ReLU-conv-BN-ReLU, three orders differ only in how much of the last BN-ReLU comes
    # before the addition (`close`) and how much after it (`finish`).

    def close(self, x: Tensor) -> Tensor:
        """From the last convolution to the addition."""
        match self.order:
            case "bn-after-add":
                return x
            case "relu-before-add":
                return torch.relu(self.last_norm(x))
            case _:
                return as_tensor(self.last_norm(x))

    def finish(self, y: Tensor) -> Tensor:
        """From the addition to the next block."""
        match self.order:
            case "original":
                return relu(y)
            case "bn-after-add":
                return relu(self.last_norm(y))
            case _:
                return y

    def activate(self, x: Tensor) -> Tensor:
        """What stands ahead of a pre-activation unit's first convolution; not in place, the sum goes on."""
        return torch.relu(x)

    @property
    def last_norm(self) -> nn.Module:
        raise NotImplementedError


class Basic(Block):
    """Two 3x3 convolutions, BN behind each: ResNet-18, ResNet-34 and the CIFAR networks."""

    def __init__(self, description: Description, unit: Unit) -> None:
        super().__init__(description, unit)
        dims = description.dims
        self.conv1 = convolution(unit.c_in, unit.c_out, 3, unit.stride, dims=dims)
        self.norm1 = norm(unit.c_out, dims=dims)
        self.dropout = nn.Dropout(description.dropout)
        self.conv2 = convolution(unit.c_out, unit.c_out, 3, dims=dims)
        self.norm2 = norm(unit.c_out, dims=dims)

    def residual(self, x: Tensor) -> Tensor:
        if self.lead == "own":
            x = self.activate(x)
        x = relu(self.norm1(self.conv1(x)))
        return self.close(self.conv2(self.dropout(x)))

    @property
    def last_norm(self) -> nn.Module:
        return self.norm2


class Bottleneck(Block):
    """1x1 down, 3x3, 1x1 up, BN behind each: ResNet-50, -101 and -152."""

    def __init__(self, description: Description, unit: Unit) -> None:
        super().__init__(description, unit)
        dims, (first, middle) = description.dims, strides(description, unit)
        self.conv1 = convolution(unit.c_in, unit.inner, 1, first, dims=dims)
        self.norm1 = norm(unit.inner, dims=dims)
        self.conv2 = convolution(unit.inner, unit.inner, 3, middle, dims=dims)
        self.norm2 = norm(unit.inner, dims=dims)
        self.conv3 = convolution(unit.inner, unit.c_out, 1, dims=dims)
        self.norm3 = norm(unit.c_out, dims=dims)

    def residual(self, x: Tensor) -> Tensor:
        if self.lead == "own":
            x = self.activate(x)
        x = relu(self.norm1(self.conv1(x)))
        x = relu(self.norm2(self.conv2(x)))
        return self.close(self.conv3(x))

    @property
    def last_norm(self) -> nn.Module:
        return self.norm3


class PreActivationBasic(Block):
    """BN and ReLU ahead of each of two 3x3 convolutions; nothing touches the sum."""

    def __init__(self, description: Description, unit: Unit) -> None:
        super().__init__(description, unit)
        dims = description.dims
        self.norm1 = nn.Identity() if self.lead == "none" else norm(unit.c_in, dims=dims)
        self.conv1 = convolution(unit.c_in, unit.c_out, 3, unit.stride, dims=dims)
        self.norm2 = norm(unit.c_out, dims=dims)
        self.dropout = nn.Dropout(description.dropout)
        self.conv2 = convolution(unit.c_out, unit.c_out, 3, dims=dims)

    def residual(self, x: Tensor) -> Tensor:
        if self.lead == "own":
            x = self.activate(x)
        x = relu(self.norm2(self.conv1(x)))
        return as_tensor(self.conv2(self.dropout(x)))

    def activate(self, x: Tensor) -> Tensor:
        return relu(self.norm1(x))


class PreActivationBottleneck(Block):
    """BN and ReLU ahead of each of 1x1, 3x3, 1x1 convolutions; nothing touches the sum."""

    def __init__(self, description: Description, unit: Unit) -> None:
        super().__init__(description, unit)
        dims, (first, middle) = description.dims, strides(description, unit)
        self.norm1 = nn.Identity() if self.lead == "none" else norm(unit.c_in, dims=dims)
        self.conv1 = convolution(unit.c_in, unit.inner, 1, first, dims=dims)
        self.norm2 = norm(unit.inner, dims=dims)
        self.conv2 = convolution(unit.inner, unit.inner, 3, middle, dims=dims)
        self.norm3 = norm(unit.inner, dims=dims)
        self.conv3 = convolution(unit.inner, unit.c_out, 1, dims=dims)

    def residual(self, x: Tensor) -> Tensor:
        if self.lead == "own":
            x = self.activate(x)
        x = relu(self.norm2(self.conv1(x)))
        x = relu(self.norm3(self.conv2(x)))
        return as_tensor(self.conv3(x))

    def activate(self, x: Tensor) -> Tensor:
        return relu(self.norm1(x))


def make_block(description: Description, unit: Unit) -> Block:
    """The unit as a module, of the kind and order that the description tells."""
    kinds: dict[tuple[str, bool], type[Block]] = {
        ("basic", False): Basic,
        ("bottleneck", False): Bottleneck,
        ("basic", True): PreActivationBasic,
        ("bottleneck", True): PreActivationBottleneck,
    }
    return kinds[description.block, description.order == "full"](description, unit)


def make_shortcut(
    kind: Shortcut,
    c_in: int,
    c_out: int,
    stride: int,
    *,
    dims: int = 2,
    normed: bool = True,
    scale: float = 1.0,
) -> nn.Module | None:
    """The path around a block, or None for a plain block; `Description` explains the kinds.

    normed: BN after a projection; full pre-activation has none.  scale: of the kind "constant".
    A gated path's gate belongs to the block, because an exclusive one weighs F too.
    """
    same_shape = c_in == c_out and stride == 1
    if kind == "none":
        return None
    if kind in PROJECTED or (kind == "B" and not same_shape):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = convolution(c_in, c_out, 1, stride, dims=dims)
        if normed:
            layers["norm"] = norm(c_out, dims=dims)
        return nn.Sequential(layers)
    path = nn.Identity() if same_shape else PadChannels(c_in, c_out, stride, dims=dims)
    match kind:
        case "constant":
            return nn.Sequential(path, Scale(scale))
        case "dropout":
            return nn.Sequential(path, nn.Dropout(0.5))  # the rate of "Identity Mappings", table 1
        case _:
            return path


class PadChannels(nn.Module):
    """Option A where the shape changes: every `stride`-th pixel, zero channels after the real ones.

    (N, c_in, *) -> (N, c_out, *); each spatial axis is divided by `stride`, rounded up.  Learns nothing.
    """

    def __init__(self, c_in: int, c_out: int, stride: int, *, dims: int = 2) -> None:
        super().__init__()
        assert c_out >= c_in, "a description refuses to pad with a negative number of channels"
        self.sample = (slice(None), slice(None), *[slice(None, None, stride)] * dims)
        self.padding = (0, 0) * dims + (0, c_out - c_in)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[self.sample], self.padding)


class Scale(nn.Module):
    """A constant times x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class Gate(nn.Module):
    """g(x) = sigmoid(1x1 convolution of x + bias): one gate for each output value, between 0 and 1."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, bias: float, dims: int = 2) -> None:
        super().__init__()
        self.conv = convolution(c_in, c_out, 1, stride, dims=dims, bias=True)
        self.first_bias = bias  # at -6 the shortcut starts almost open

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


def convolution(
    c_in: int, c_out: int, kernel: int, stride: int = 1, *, dims: int = 2, bias: bool = False
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the extent at stride 1.  No bias: BN follows and would remove it."""
    kinds: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    conv: nn.Conv1d | nn.Conv2d | nn.Conv3d = kinds[dims](c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
    return conv


def norm(channels: int, *, dims: int = 2) -> nn.Module:
    """Batch normalization, at the identity (gamma 1, beta 0) before training."""
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return kinds[dims](channels)


def strides(description: Description, unit: Unit) -> tuple[int, int]:
    """A bottleneck's strides in its first 1x1 and in its 3x3.

    The paper's Caffe models stride in the first 1x1; fb.resnet.torch and torchvision in the 3x3 ("v1.5").
    """
    return (unit.stride, 1) if description.stride_in == "first" else (1, unit.stride)


def relu(x: Tensor) -> Tensor:
    """ReLU in place, which saves a copy: only on what BN or an addition has just made."""
    return functional.relu(x, inplace=True)


def as_tensor(output: Any) -> Tensor:
    """A module's output as the tensor it is; `nn.Module` does not say so to the type checker."""
    assert isinstance(output, Tensor)
    return output
