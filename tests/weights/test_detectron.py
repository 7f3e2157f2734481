"""Detectron's pickles compute the same under our names, and a trunk without a classifier says what it lacks."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from residual.weights import detectron
from residual.weights.files import BadWeights
from residual.weights.sources import inspect, load

DEPTHS, WIDTHS, CLASSES = (2, 1, 1, 1), (4, 6, 8, 12), 9


class Theirs:
    """A small ResNet of bottlenecks, as Caffe2's ResNet.py and Detectron2's resnet.py describe it."""

    def __init__(self, layers: Any, msra: bool) -> None:
        self.layers, self.msra = layers, msra
        self.rng = np.random.default_rng(0)
        self.kernels: dict[str, Any] = {}
        self.norms: dict[str, Any] = {}  # scale, shift, mean, variance
        self.convolution("stem", 3, WIDTHS[0], 7)
        c_in = WIDTHS[0]
        for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True), 2):
            for block in range(depth):
                if not block:
                    self.convolution(f"{stage} {block} 1", c_in, 4 * width, 1)
                self.convolution(f"{stage} {block} 2a", c_in, width, 1)
                self.convolution(f"{stage} {block} 2b", width, width, 3)
                self.convolution(f"{stage} {block} 2c", width, 4 * width, 1)
                c_in = 4 * width
        self.bias = self.rng.uniform(-0.2, 0.2, WIDTHS[0]).astype("f4")  # of the stem; MSRA's ResNet-50 has one
        self.fc = self.rng.normal(0, 0.3, (CLASSES, c_in)).astype("f4"), self.rng.normal(0, 0.1, CLASSES).astype("f4")

    def convolution(self, name: str, c_in: int, c_out: int, side: int) -> None:
        kernel = self.rng.normal(0, 1 / np.sqrt(c_in * side**2), (c_out, c_in, side, side))
        self.kernels[name] = kernel.astype("f4")
        ranges = (0.5, 1.5), (-0.3, 0.3), (-0.3, 0.3), (0.5, 1.5)
        self.norms[name] = [self.rng.uniform(*between, c_out).astype("f4") for between in ranges]

    def named(self, dialect: str, *, bias: bool = True, classifier: bool = True) -> dict[str, Any]:
        """The tensors as "detectron" (BN folded), "caffe2" (not folded) or "detectron2" name them."""
        found: dict[str, Any] = {}
        for name, kernel in self.kernels.items():
            scale, shift, mean, variance = self.norms[name]
            if dialect == "detectron2":
                stage, block, branch = name.split() if " " in name else ("", "", "")
                place = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}.get(branch)
                start = f"res{stage}.{block}.{place}" if place else "stem.conv1"
                found[f"{start}.weight"] = kernel
                fields = {"weight": scale, "bias": shift, "running_mean": mean, "running_var": variance}
                found |= {f"{start}.norm.{field}": value for field, value in fields.items()}
                continue
            start = "res{}_{}_branch{}".format(*name.split()) if " " in name else "res_conv1"
            found["conv1_w" if start == "res_conv1" else f"{start}_w"] = kernel
            if dialect == "detectron":
                factor = scale / np.sqrt(variance + 1e-5)
                found |= {f"{start}_bn_s": factor, f"{start}_bn_b": shift - mean * factor}
            else:
                found |= {f"{start}_bn_gamma": scale, f"{start}_bn_beta": shift}
                found |= {f"{start}_bn_running_mean": mean, f"{start}_bn_running_var": variance}
        if bias:
            found["stem.conv1.bias" if dialect == "detectron2" else "conv1_b"] = self.bias
        if classifier:
            names = {"detectron": ("pred_w", "pred_b"), "caffe2": ("fc1000_w", "fc1000_b")}
            found |= dict(zip(names.get(dialect, ("stem.fc.weight", "stem.fc.bias")), self.fc, strict=True))
        return found

    def logits(self, images: Any, *, bias: bool = True) -> Any:
        """In NumPy and float64.  MSRA: stride in the first 1x1, pooling over the edge; else v1.5, padded."""

        def layer(name: str, x: Any, stride: int = 1) -> Any:
            kernel, (scale, shift, mean, variance) = self.kernels[name], self.norms[name]
            y = self.layers.convolve(x, kernel, stride=stride, pad=kernel.shape[2] // 2)
            if name == "stem" and bias:
                y = y + self.layers.per_channel(self.bias)
            y = self.layers.normalise(y, mean=mean, variance=variance, epsilon=1e-5)
            return y * self.layers.per_channel(scale) + self.layers.per_channel(shift)

        x = np.maximum(layer("stem", images, 2), 0)
        if self.msra:
            x = self.layers.max_pool(x, rounding="up")
        else:
            x = self.layers.max_pool(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), rounding="down")  # behind a ReLU
        for stage, depth in enumerate(DEPTHS, 2):
            for block in range(depth):
                stride = 2 if stage > 2 and not block else 1
                first, middle = (stride, 1) if self.msra else (1, stride)
                around = x if block else layer(f"{stage} 0 1", x, stride)
                y = np.maximum(layer(f"{stage} {block} 2a", x, first), 0)
                y = np.maximum(layer(f"{stage} {block} 2b", y, middle), 0)
                x = np.maximum(layer(f"{stage} {block} 2c", y) + around, 0)
        weight, shift = self.fc
        return x.mean((2, 3)) @ np.float64(weight).T + shift


def python2(tensors: dict[str, Any]) -> bytes:
    """The pickle that Python 2 wrote: text and numbers alike are its strings."""

    def string(content: bytes) -> bytes:
        return b"T" + len(content).to_bytes(4, "little") + content

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    entries = b""
    for name, array in tensors.items():
        shape = b"(" + b"".join(map(number, array.shape)) + b"t"
        kind = b"cnumpy\ndtype\n" + string(array.dtype.str[1:].encode()) + b"K\0K\1\x87R(K\3U\1<NNN"
        kind += number(-1) * 2 + b"K\0tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\1btR"
        entries += string(name.encode()) + made + b"(K\1" + shape + kind + b"\x89" + string(array.tobytes()) + b"tb"
    return b"\x80\x02}U\x05blobs}(" + entries + b"usU\3cfgU\5MODEL" + b"s."


@pytest.mark.parametrize(
    "dialect, protocol",
    [("detectron", 0), ("detectron", 2), ("caffe2", 2), ("caffe2", 4), ("detectron2", 3), ("detectron2", 5)],
)
def test_the_converted_network_answers_as_theirs_does(dialect: str, protocol: int, layers: Any, tmp_path: Path) -> None:
    msra = dialect != "detectron2"
    theirs = Theirs(layers, msra)
    tensors = theirs.named(dialect, bias=msra)
    if protocol:
        content = pickle.dumps({"model": tensors, "__author__": "x", "matching_heuristics": True}, protocol)
    else:
        content = python2(tensors | {"conv1_w_momentum": theirs.bias})
    (tmp_path / "x.pkl").write_bytes(content)
    ours = load(tmp_path / "x.pkl")
    images = np.random.default_rng(1).normal(size=(2, 3, 65, 65)).astype("f4")
    with torch.inference_mode():
        found = ours(torch.from_numpy(images)).numpy()
    expected = theirs.logits(images, bias=msra)
    assert layers.disagreement(found, expected) <= 1e-4
    other = Theirs(layers, not msra).logits(images, bias=msra)
    assert layers.disagreement(other, expected) > 1e-2  # guards: the other family's strides do matter
    assert (ours.card.model.stride_in, ours.card.model.stem_pool) == (
        ("first", "ceil") if msra else ("middle", "padded")
    )
    preprocessing = ours.card.preprocessing
    if msra:
        assert (preprocessing.channels, preprocessing.mean[0], preprocessing.std[0]) == ("BGR", 103.53, 1.0)
    else:
        assert (preprocessing.channels, preprocessing.mean[0], preprocessing.std[0]) == ("RGB", 123.675, 58.395)


def test_the_writer_of_python_2_is_read_by_python_too(layers: Any) -> None:
    """Guards the test above."""
    tensors = Theirs(layers, True).named("detectron")
    found = pickle.loads(python2(tensors), encoding="latin1")["blobs"]
    assert all(np.array_equal(found[name], array) for name, array in tensors.items())


@pytest.mark.parametrize("dialect", ["detectron", "caffe2", "detectron2"])
def test_a_trunk_is_inspected_and_not_loaded(dialect: str, layers: Any, tmp_path: Path) -> None:
    path = tmp_path / "trunk.pkl"
    path.write_bytes(pickle.dumps({"model": Theirs(layers, True).named(dialect, classifier=False)}))
    with pytest.raises(BadWeights, match=r"the trunk of a resnet17: \d+ tensors, without the classifier"):
        load(path)
    found = inspect(path)
    assert found["layout"] == "detectron"
    assert "without the classifier" in found["problem"]
    assert {"name": next(iter(Theirs(layers, True).named(dialect))), "shape": [4, 3, 7, 7]} in found["tensors"]


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t.update({"res2_0_branch2a_gn_s": torch.ones(4)}), "res2_0_branch2a_gn_s.*group normalisation"),
        (lambda t: t.update({"rpn_cls_logits_w": torch.ones(4)}), "detectors"),
        (lambda t: t.update({"res_conv1_bn_evil": torch.ones(4)}), "res_conv1_bn_evil"),
        (lambda t: t.update({"stem.conv1.weight": torch.ones(4)}), "two of its tensors have one meaning"),
        (lambda t: t.pop("res2_0_branch2b_w"), "conv2"),
        (lambda t: t.pop("res3_0_branch2b_bn_b"), "missing|does not have"),
        (lambda t: t.pop("res3_0_branch1_w"), "missing"),
        (lambda t: t.pop("pred_b"), "missing"),
        (lambda t: t.update({"pred_w": torch.ones(9)}), "classifier"),
        (lambda t: t.update({"res2_0_branch2b_w": torch.ones(4, 1, 3, 3)}), "another shape"),  # ResNeXt's groups
    ],
)
def test_what_is_not_their_classifier_is_refused(change: Any, reason: str, layers: Any) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in Theirs(layers, True).named("detectron").items()}
    change(tensors)
    with pytest.raises(BadWeights, match=reason):
        detectron.convert(tensors)


def test_a_whole_detector_is_recognised_and_refused() -> None:
    names = {"backbone.bottom_up.res2.0.conv1.weight": torch.ones(1), "roi_heads.box_head.fc1.weight": torch.ones(1)}
    assert detectron.recognises(names)
    with pytest.raises(BadWeights, match="detectors"):
        detectron.convert(names)
