"""Networks of fb.resnet.torch compute the same under our names: compared with a walk through their modules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from residual.models.resnet import ResNet
from residual.weights import facebook, torch7
from residual.weights.architecture import as_float32
from residual.weights.card import Card
from residual.weights.files import BadWeights
from residual.weights.sources import inspect, load


class Theirs:
    """Their networks, written from the published description; random weights, no channel like another."""

    def __init__(self, lua: Any, **style: Any) -> None:
        self.lua = lua
        self.style = {
            "order": "original", "block": "basic", "depths": (2, 2, 2), "widths": (4, 8, 16), "stem": "cifar",
            "shortcut": "B", "bias": False, "projection_norm": True, "spread": "var", "eps": 1e-5, "classes": 7,
            "pixels": 8, "library": "cudnn", "stride_in": "middle", "matrix": False, "lead": "theirs",
        } | style  # fmt: skip
        self.rng = np.random.default_rng(0)

    def numbers(self, *shape: int, low: float = -0.2, high: float = 0.2) -> Any:
        return self.lua.tensor(self.rng.uniform(low, high, shape), "Cuda")

    def convolution(self, c_in: int, c_out: int, side: int, stride: int = 1) -> Any:
        scale = 1.5 / np.sqrt(c_in * side**2)
        shape = (c_out, c_in * side**2) if self.style["matrix"] else (c_out, c_in, side, side)
        fields = {"weight": self.numbers(*shape, low=-scale, high=scale), "nInputPlane": c_in, "nOutputPlane": c_out}
        fields |= {"kW": side, "kH": side, "dW": stride, "dH": stride, "padW": side // 2, "padH": side // 2}
        if self.style["bias"]:
            fields["bias"] = self.numbers(c_out)
        return self.module("SpatialConvolution", **fields)

    def norm(self, channels: int) -> Any:
        spread = self.numbers(channels, low=0.5, high=1.5)
        fields = {"weight": self.numbers(channels, low=0.5, high=1.5), "bias": self.numbers(channels)}
        fields |= {"running_mean": self.numbers(channels), f"running_{self.style['spread']}": spread}
        return self.lua.module("nn.SpatialBatchNormalization", **fields, eps=self.style["eps"], momentum=0.1)

    def module(self, kind: str, *children: Any, **fields: Any) -> Any:
        return self.lua.module(f"{self.style['library']}.{kind}", *children, **fields)

    def relu(self) -> Any:
        return self.module("ReLU", inplace=True)

    def sequence(self, *children: Any) -> Any:
        return self.lua.module("nn.Sequential", *children)

    def shortcut(self, c_in: int, c_out: int, stride: int) -> Any:
        kind = self.style["shortcut"]
        if kind == "C" or (kind == "B" and c_in != c_out):
            layers = [self.convolution(c_in, c_out, 1, stride)]
            if self.style["projection_norm"] and self.style["order"] != "full":
                layers.append(self.norm(c_out))
            return self.sequence(*layers)
        if c_in == c_out:
            return self.lua.module("nn.Identity")
        zeros = self.lua.module("nn.MulConstant", constant_scalar=0)
        both = self.lua.module("nn.Concat", self.lua.module("nn.Identity"), zeros, dimension=2)
        return self.sequence(self.lua.module("nn.SpatialAveragePooling", kW=1, kH=1, dW=stride, dH=stride), both)

    def block(self, c_in: int, width: int, stride: int, first: bool) -> Any:
        order, basic = self.style["order"], self.style["block"] == "basic"
        c_out = width if basic else 4 * width
        inner = (stride, 1) if self.style["stride_in"] == "first" else (1, stride)
        if basic:
            convolutions = [self.convolution(c_in, width, 3, stride), self.convolution(width, width, 3)]
        else:
            convolutions = [self.convolution(c_in, width, 1, inner[0]), self.convolution(width, width, 3, inner[1])]
            convolutions.append(self.convolution(width, c_out, 1))
        ahead, residual = [], []
        if order == "full":
            if stride != 1 or (c_in != c_out and not first):
                (residual if self.style["lead"] == "old" else ahead).extend([self.norm(c_in), self.relu()])
            elif not first:
                residual += [self.norm(c_in), self.relu()]
        for number, convolution in enumerate(convolutions, 1):
            last = number == len(convolutions)
            residual.append(convolution)
            if not last or order == "original":
                residual.append(self.norm(c_out if last else width))
            if not last:
                residual.append(self.relu())
        behind = {"original": [], "full": [], "bn-after-add": [self.norm(c_out)]}[order]
        fork = self.lua.module("nn.ConcatTable", self.sequence(*residual), self.shortcut(c_in, c_out, stride))
        end = [] if order == "full" else [self.relu()]
        return self.sequence(*ahead, fork, self.lua.module("nn.CAddTable", inplace=True), *behind, *end)

    def network(self) -> Any:
        style, large = self.style, self.style["stem"] == "imagenet"
        c_in = style["widths"][0]
        layers = [self.convolution(3, c_in, 7 if large else 3, 2 if large else 1), self.norm(c_in), self.relu()]
        if large:
            pool = {"kW": 3, "kH": 3, "dW": 2, "dH": 2, "padW": 1, "padH": 1, "ceil_mode": False}
            layers.append(self.lua.module("nn.SpatialMaxPooling", **pool))
        for stage, (depth, width) in enumerate(zip(style["depths"], style["widths"], strict=True)):
            blocks = []
            for number in range(depth):
                stride = 2 if stage and not number else 1
                blocks.append(self.block(c_in, width, stride, first=not stage and not number))
                c_in = width if style["block"] == "basic" else 4 * width
            layers.append(self.sequence(*blocks))
        if style["order"] == "full":
            layers += [self.norm(c_in), self.relu()]
        pixels = style["pixels"]
        layers.append(self.module("SpatialAveragePooling", kW=pixels, kH=pixels, dW=1, dH=1))
        layers.append(self.lua.module("nn.View", numElements=c_in, numInputDims=3))
        linear = {"weight": self.numbers(style["classes"], c_in), "bias": self.numbers(style["classes"])}
        layers.append(self.lua.module("nn.Linear", **linear))
        return self.sequence(*layers)


def compute(module: Any, x: Any) -> Any:
    """What Torch7 would compute in evaluation, module by module, in float64."""
    fields = module.fields
    inner = [fields["modules"][place] for place in sorted(fields.get("modules", {}))]

    def own(name: str) -> Tensor:
        tensor = fields[name]
        return torch.from_numpy(tensor.storage.numbers.reshape(tensor.size)).double()

    match module.kind.split(".")[1]:
        case "Sequential":
            for child in inner:
                x = compute(child, x)
            return x
        case "ConcatTable":
            return [compute(child, x) for child in inner]
        case "Concat":
            return torch.cat([compute(child, x) for child in inner], fields["dimension"] - 1)
        case "CAddTable":
            return sum(x)
        case "Identity" | "Copy":
            return x
        case "MulConstant":
            return x * fields["constant_scalar"]
        case "ReLU":
            return x.clamp(min=0)
        case "LogSoftMax":
            return x.log_softmax(1)
        case "SpatialConvolution":
            weight = own("weight").reshape(fields["nOutputPlane"], fields["nInputPlane"], fields["kH"], fields["kW"])
            bias = own("bias") if "bias" in fields else None
            return functional.conv2d(x, weight, bias, fields["dW"], fields["padW"])
        case "SpatialBatchNormalization":
            if "running_std" in fields:  # the reciprocal, whatever its name
                factor = own("running_std")
            else:
                factor = 1 / (own("running_var") + fields["eps"]).sqrt()
            if "weight" in fields:
                factor = factor * own("weight")
            y = (x - own("running_mean")[:, None, None]) * factor[:, None, None]
            return y + own("bias")[:, None, None] if "bias" in fields else y
        case "SpatialMaxPooling":
            return functional.max_pool2d(x, fields["kW"], fields["dW"], fields["padW"], ceil_mode=fields["ceil_mode"])
        case "SpatialAveragePooling":
            return functional.avg_pool2d(x, fields["kW"], fields["dW"])
        case "View":
            return x.reshape(len(x), -1)
        case "Linear":
            return functional.linear(x, own("weight"), own("bias"))
    raise AssertionError(module.kind)


def convert(net: Any, lua: Any, tmp_path: Path) -> tuple[ResNet, Card]:
    (tmp_path / "theirs.t7").write_bytes(lua.write(net))
    arrays = torch7.read(tmp_path / "theirs.t7")
    tensors, _ = as_float32({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    assert facebook.recognises(tensors)
    tensors, card = facebook.convert(tensors)
    ours = ResNet(card.model)
    ours.load_state_dict(tensors)
    return ours.eval(), card


def agree(net: Any, ours: ResNet, side: int) -> bool:
    """To 1e-4 of the largest logit: float32 against float64."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = compute(net, images.double()), ours(images)
    assert expected.std() > 0.01 * expected.abs().max()  # not one number for all classes
    return bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


SMALL = {
    "CIFAR, option A": {"shortcut": "A"},
    "CIFAR, option B": {"depths": (1, 1, 1)},
    "option C": {"shortcut": "C"},
    "before cudnn 4: biases": {"bias": True},
    "as released: no BN in the projections, biases": {"bias": True, "projection_norm": False},
    "matrices, nn": {"library": "nn", "matrix": True},
    "1 / sqrt(variance + epsilon)": {"spread": "std"},
    "another epsilon": {"eps": 1e-3},
    "BN behind the addition": {"order": "bn-after-add", "bias": True, "projection_norm": False},
    "BN behind the addition and in the projections": {"order": "bn-after-add", "block": "bottleneck"},
    "stride in the first 1x1": {"block": "bottleneck", "stride_in": "first"},
    "bottlenecks": {"block": "bottleneck", "bias": True},
    "pre-activation": {"order": "full"},
    "pre-activation, option A": {"order": "full", "shortcut": "A"},
    "pre-activation, bottlenecks": {"order": "full", "block": "bottleneck"},
    "pre-activation, one unit a stage": {"order": "full", "depths": (1, 1, 1)},
}


@pytest.mark.parametrize("style", SMALL.values(), ids=SMALL)
def test_a_converted_network_answers_as_theirs_does(style: dict[str, Any], lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua, **style).network()
    ours, card = convert(net, lua, tmp_path)
    assert agree(net, ours, 32)
    assert (card.model.image, card.preprocessing.size, card.preprocessing.channels) == (32, 32, "RGB")
    assert len(card.classes) == 7


RELEASED_50 = {
    "depths": (3, 4, 6, 3), "block": "bottleneck", "order": "bn-after-add", "bias": True, "projection_norm": False,
}  # fmt: skip
IMAGENET = {
    "resnet18": ({"depths": (2, 2, 2, 2), "bias": True, "projection_norm": False}, "original"),
    "resnet34": ({"depths": (3, 4, 6, 3)}, "original"),
    "resnet50": (RELEASED_50, "bn-after-add"),
    "resnet101": ({"depths": (3, 4, 23, 3), "block": "bottleneck"}, "original"),
    "preresnet200": ({"depths": (3, 24, 36, 3), "block": "bottleneck", "order": "full"}, "full"),
}


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenets_depths_and_orders_are_recognised(name: str, lua: Any, tmp_path: Path) -> None:
    style, order = IMAGENET[name]
    net = Theirs(lua, **style, stem="imagenet", widths=(4, 6, 8, 12), pixels=2).network()
    ours, card = convert(net, lua, tmp_path)
    assert agree(net, ours, 64)
    assert (card.name, card.model.order, card.model.image) == (name, order, 64)
    assert card.model.stride_in == ("middle" if "block" in style else "first")
    assert card.preprocessing.resize == 73  # 256 to 224


def test_the_preprocessing_of_imagenet_is_theirs(lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua, stem="imagenet", depths=(1, 1, 1, 1), widths=(4, 6, 8, 12), pixels=7).network()
    preprocessing = convert(net, lua, tmp_path)[1].preprocessing
    assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation) == (224, 256, "bicubic")
    assert np.allclose(np.array(preprocessing.mean) / 255, (0.485, 0.456, 0.406), atol=1e-6)
    assert np.allclose(np.array(preprocessing.std) / 255, (0.229, 0.224, 0.225), atol=1e-6)


@pytest.mark.parametrize("depth, units", [(20, 3), (110, 18)])
def test_cifars_networks_have_its_classes(depth: int, units: int, lua: Any, tmp_path: Path) -> None:
    style = {"depths": (units,) * 3, "widths": (16, 32, 64), "shortcut": "A", "classes": 10}
    net = Theirs(lua, **style).network()
    ours, card = convert(net, lua, tmp_path)
    assert agree(net, ours, 32)
    assert (card.name, card.classes[:2]) == (f"resnet{depth}", ("airplane", "automobile"))
    assert card.preprocessing.mean == (125.3, 123.0, 113.9)


def test_what_does_not_change_the_answer_is_passed_over(lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua).network()
    layers = net.fields["modules"]
    layers[len(layers) + 1] = lua.module("cudnn.LogSoftMax")
    wrapped = lua.module("nn.Sequential", lua.module("nn.Copy"), net)
    ours, _ = convert(wrapped, lua, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert (ours(images).log_softmax(1) - compute(net, images.double())).abs().max() < 1e-4


def test_a_norm_without_scale_and_one_with_dead_channels_are_read(lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua, spread="std").network()
    norms = [net.fields["modules"][2], net.fields["modules"][4].fields["modules"][1].fields["modules"][1]]
    del norms[0].fields["weight"], norms[0].fields["bias"]
    norms[0].fields["running_std"].storage.numbers[:2] = 1 / np.sqrt(1e-5), 400  # no variance, and less than none
    ours, _ = convert(net, lua, tmp_path)
    assert agree(net, ours, 32)


def at(net: Any, place: str) -> Any:
    for number in map(int, place.split(".")):
        net = net.fields["modules"][number]
    return net


def changed(place: str, **fields: Any) -> Callable[[Any], None]:
    return lambda net: at(net, place).fields.update(fields)


def renamed(place: str, kind: str) -> Callable[[Any], None]:
    return lambda net: setattr(at(net, place), "kind", kind)


def without(place: str, name: str) -> Callable[[Any], None]:
    return lambda net: at(net, place).fields.pop(name)


def shortened(net: Any) -> None:
    """The first unit has one convolution only."""
    path = at(net, f"{UNIT}.1").fields["modules"]
    for number in (3, 4, 5):
        del path[number]


UNIT = "4.1.1"  # the first unit's fork; its paths are .1 and .2


@pytest.mark.parametrize(
    "style, change, reason",
    [
        ({}, renamed("3", "nn.Tanh"), "'nn.Tanh', which has no place"),
        ({}, renamed("4", "nn.gModule"), "'nn.gModule', which has no place"),
        ({}, renamed(f"{UNIT}.1.3", "nn.Dropout"), r"4\.1\.1\.1\.3 is of class 'nn.Dropout'"),
        ({}, renamed("4.1.2", "nn.CMulTable"), "CMulTable"),
        ({}, renamed("3", "nn.Identity"), "where the ResNets of fb.resnet.torch have a relu"),
        ({}, renamed("4.1.3", "nn.Identity"), "have a relu"),
        ({}, renamed(f"{UNIT}.1.5", "nn.Identity"), "a fork where|have a norm"),
        ({}, renamed("9", "nn.Identity"), "its layers end where"),
        ({}, renamed("7", "nn.SpatialMaxPooling"), "have a average|have a"),
        ({}, changed("1", dW=2, dH=2), r"kernel, stride and padding"),
        ({}, changed("1", groups=2), "in groups"),
        ({}, shortened, "units have \\[1, 2\\] convolutions"),
        ({}, changed(f"{UNIT}.1.1", padW=0), "kernel, stride and padding"),
        ({}, changed(f"{UNIT}.1.4", dW=2), "kernel, stride and padding|units"),
        ({}, changed("7", padW=1), "without border"),
        ({}, changed("7", kW=3000, kH=3000), "images would have"),
        ({}, changed("7", kW=0, kH=0), "images would have"),
        ({"stem": "imagenet", "pixels": 2}, changed("4", padW=0), "kernel, stride and padding"),
        ({"stem": "imagenet", "pixels": 2}, changed("4", ceil_mode=True), "kernel, stride and padding"),
        ({}, without("1", "weight"), "has no tensor 'weight'"),
        ({}, without("9", "weight"), "has no tensor 'weight'"),
        ({}, without("2", "running_mean"), "has no tensor 'running_mean'"),
        ({}, without("2", "running_var"), "has no tensor 'running_std'"),
        ({}, without("2", "bias"), "has no tensor 'bias'"),
        ({"shortcut": "A"}, changed("5.1.1.2.1", dW=1), "kernel, stride and padding"),
        ({"shortcut": "A"}, changed("5.1.1.2.2.2", constant_scalar=1), "'nn.MulConstant', which has no place"),
        ({"shortcut": "A", "widths": (4, 12, 24)}, lambda net: None, "doubles 4 channels to 12"),
        ({"shortcut": "B"}, renamed("5.1.1.2", "nn.Identity"), r"the shortcut beside its module 5\.1\.1\.1\.1"),
        ({"order": "full", "bias": True}, lambda net: None, "has a bias and no norm behind it"),
        ({"order": "full", "lead": "old"}, lambda net: None, "an earlier version of fb.resnet.torch"),
    ],
)
def test_what_is_not_their_network_is_refused(
    style: dict[str, Any], change: Callable[[Any], None], reason: str, lua: Any, tmp_path: Path
) -> None:
    net = Theirs(lua, **style).network()
    change(net)
    with pytest.raises(BadWeights, match=reason):
        convert(net, lua, tmp_path)


@pytest.mark.parametrize(
    "place, name, shape, reason",
    [
        ("1", "weight", (4, 3, 5, 5), "stem"),
        ("1", "weight", (4, 3), "have shape"),
        ("1", "weight", (2, 4, 3, 3, 3), "have shape"),
        ("2", "running_mean", (5,), "not of one length"),
        ("2", "bias", (1,), "not of one length"),
        ("4.1.1.1.4", "weight", (6, 4, 3, 3), "shortcut beside"),
        ("9", "weight", (7, 15), "classifier"),
        ("9", "bias", (6,), "classifier"),
    ],
)
def test_tensors_of_another_shape_are_refused(
    place: str, name: str, shape: tuple[int, ...], reason: str, lua: Any, tmp_path: Path
) -> None:
    net = Theirs(lua).network()
    at(net, place).fields[name] = lua.tensor(np.full(shape, 0.1), "Cuda")
    with pytest.raises(ValueError, match=reason):
        convert(net, lua, tmp_path)


def test_whole_numbers_for_weights_are_refused(lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua).network()
    at(net, "9").fields["weight"] = lua.tensor(np.ones((7, 16)), "Byte")
    with pytest.raises(BadWeights, match="uint8, not fractions"):
        convert(net, lua, tmp_path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"1":{}}', b'{"":{}}', b'{"":{"class":7}}', b"\xff", b"[" * 9999])
def test_modules_that_are_not_ours_to_read_are_refused(text: bytes) -> None:
    with pytest.raises(BadWeights):
        facebook.convert({torch7.TREE: torch.frombuffer(bytearray(text or b" "), dtype=torch.uint8)})


def test_a_file_is_loaded_by_its_path_and_inspected(lua: Any, tmp_path: Path) -> None:
    net = Theirs(lua, shortcut="A", bias=True).network()
    (tmp_path / "model_best.t7").write_bytes(lua.write(net))
    assert agree(net, load(tmp_path / "model_best.t7"), 32)
    found = inspect(tmp_path / "model_best.t7")
    assert (found["layout"], found["container"]) == ("fb.resnet.torch", "Torch7 (.t7)")
    assert found["card"]["model"]["shortcut"] == "A"
    assert {"name": "1.weight", "shape": [4, 3, 3, 3]} in found["tensors"]


def places(module: Any, place: str = "") -> list[str]:
    """Every module's place within a network."""
    inner = sorted(module.fields.get("modules", {}))
    below = [f"{place}.{number}".removeprefix(".") for number in inner]
    return below + [p for number, b in zip(inner, below, strict=True) for p in places(at(module, str(number)), b)]


@pytest.mark.parametrize("style", ["CIFAR, option A", "pre-activation, bottlenecks", "BN behind the addition"])
@pytest.mark.parametrize("kind", ["nn.Identity", "nn.SpatialBatchNormalization"])
def test_whatever_is_still_read_answers_as_the_file_says(style: str, kind: str, lua: Any, tmp_path: Path) -> None:
    """Any module made another: the network is refused, or computes the same as the changed modules."""
    refused = read = 0
    for place in places(Theirs(lua, **SMALL[style]).network()):
        net = Theirs(lua, **SMALL[style]).network()
        at(net, place).kind = kind
        try:
            ours, _ = convert(net, lua, tmp_path)
        except BadWeights:
            refused += 1
            continue
        read += 1
        assert agree(net, ours, 32), place
    assert refused > read  # a ReLU that stays a ReLU is read
