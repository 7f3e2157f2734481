"""A keras-applications .h5 answers under our names as Keras's graph does."""

import h5py
import numpy as np
import pytest
import torch

from residual.weights.caffe import MEAN
from residual.weights.files import BadWeights
from residual.weights.keras import rename
from residual.weights.sources import load, read

ROLES = {  # how the arrays of a convolution, a norm and a dense layer are called
    "Keras 2": (("kernel:0", "bias:0"), ("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0")),
    "Keras 3": (("kernel", "bias"), ("gamma", "beta", "moving_mean", "moving_variance")),
    "Keras 1": (("W:0", "b:0"), ("gamma:0", "beta:0", "running_mean:0", "running_std:0")),
    "built twice": (("kernel_1:0", "bias_1:0"), ("gamma_1:0", "beta_1:0", "moving_mean_1:0", "moving_variance_1:0")),
}
DEPTHS, WIDTHS = (2, 1, 2, 1), (4, 6, 8, 10)


class Theirs:
    """A thin ResNet of Keras: arrays by layer in Keras's order and layout, with its forward pass in NumPy.

    older: the names and the epsilon of resnet50.py instead of those of resnet_common.py.
    """

    def __init__(self, *, older=False, top="probs", classes=7):
        self.older, self.top, self.rng = older, top, np.random.default_rng(0)
        self.epsilon = 1e-3 if older else 1.001e-5
        self.arrays = {}
        self.add(*self.stem, 7, 3, 8)
        c_in = 8
        for stage, (depth, width) in enumerate(zip(DEPTHS, WIDTHS, strict=True)):
            for block in range(depth):
                if not block:
                    self.add(*self.names(stage, block, 0), 1, c_in, 4 * width)
                for number, (side, inside, out) in enumerate(
                    [(1, c_in, width), (3, width, width), (1, width, 4 * width)], start=1
                ):
                    self.add(*self.names(stage, block, number), side, inside, out)
                c_in = 4 * width
        self.arrays[top] = [self.rng.normal(0, 0.3, (c_in, classes)), self.rng.normal(size=classes)]
        self.arrays = {name: [array.astype(np.float32) for array in arrays] for name, arrays in self.arrays.items()}

    @property
    def stem(self):
        return ("conv1", "bn_conv1") if self.older else ("conv1_conv", "conv1_bn")

    def names(self, stage, block, number):
        if self.older:
            place = f"{stage + 2}{'abc'[block]}_branch{('1', '2a', '2b', '2c')[number]}"
            return f"res{place}", f"bn{place}"
        place = f"conv{stage + 2}_block{block + 1}_{number}"
        return f"{place}_conv", f"{place}_bn"

    def add(self, conv, norm, side, c_in, c_out):
        rng = self.rng
        kernel = rng.normal(0, (2 / (c_in * side * side)) ** 0.5, (side, side, c_in, c_out))
        self.arrays[conv] = [kernel, rng.normal(size=c_out)]
        mean, variance = rng.normal(size=c_out), rng.uniform(0.01, 2, c_out)
        self.arrays[norm] = [rng.uniform(0.5, 1.5, c_out), rng.normal(size=c_out), mean, variance]

    def answer(self, images, ops):
        def convolve(x, names, *, stride=1, pad=0):
            (kernel, bias), (gamma, beta, mean, variance) = (self.arrays[name] for name in names)
            y = ops.convolve(x, kernel.transpose(3, 2, 0, 1), stride=stride, pad=pad) + ops.per_channel(bias)
            y = ops.normalise(y, mean=mean, variance=variance, epsilon=self.epsilon)
            return ops.per_channel(gamma) * y + ops.per_channel(beta)

        def relu(x):
            return np.maximum(x, 0)

        x = relu(convolve(images, self.stem, stride=2, pad=3))
        x = ops.max_pool(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), rounding="down")
        for stage, depth in enumerate(DEPTHS):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                names = [self.names(stage, block, number) for number in range(4)]
                path = x if block else convolve(x, names[0], stride=stride)
                x = relu(convolve(x, names[1], stride=stride))
                x = relu(convolve(x, names[2], pad=1))
                x = relu(path + convolve(x, names[3]))
        weight, bias = self.arrays[self.top]
        return x.mean((2, 3)) @ np.float64(weight) + bias

    def save(self, path, *, roles="Keras 2", nest="", backend="tensorflow", **how):
        """As Keras does: a group for each layer with its arrays and their names; how: of each array's storage."""
        with h5py.File(path, "w") as file:
            root = file.create_group(nest) if nest else file
            layers = ["input_1", *self.arrays, "avg_pool"]
            root.attrs["layer_names"] = [name.encode() for name in layers]
            root.attrs["backend"], root.attrs["keras_version"] = backend, "2.2.4"
            for layer in layers:
                group = root.create_group(layer)
                arrays = self.arrays.get(layer, [])
                named = ROLES[roles][len(arrays) > 2]
                whole = f"{layer}_" if roles == "Keras 1" else f"{layer}/"
                group.attrs["weight_names"] = [(whole + name).encode() for name, _ in zip(named, arrays, strict=False)]
                for name, array in zip(named, arrays, strict=False):
                    group.create_dataset(whole + name, data=array, **how)
        return path


def some_images(side):
    return np.random.default_rng(side).normal(0, 50, (2, 3, side, side)).astype(np.float32)


def disagreement(path, theirs, side, layers):
    with torch.inference_mode():
        found = load(path)(torch.from_numpy(some_images(side)))
    return layers.disagreement(found, theirs.answer(some_images(side), layers))


@pytest.mark.parametrize("side", [64, 75, 97])
@pytest.mark.parametrize("older", [False, True], ids=["resnet_common", "resnet50"])
def test_the_converted_network_answers_as_keras_does(older, side, tmp_path, layers):
    theirs = Theirs(older=older, top="fc1000" if older else "predictions")
    assert disagreement(theirs.save(tmp_path / "theirs.h5"), theirs, side, layers) <= 1e-5  # float32, not float64


@pytest.mark.parametrize(
    "older, how",
    [
        (True, {"roles": "Keras 1"}),
        (False, {"roles": "Keras 3"}),
        (False, {"roles": "built twice"}),
        (False, {"nest": "model_weights"}),
        (False, {"nest": "model_weights/resnet50"}),
        (False, {"compression": "gzip", "shuffle": True}),
        (False, {"chunks": True}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_the_same_weights_saved_in_other_ways_are_the_same_network(older, how, tmp_path):
    theirs = Theirs(older=older, top="dense_1")
    if "chunks" in how or "compression" in how:
        how = dict(how, maxshape=None)
    expected, card = read(theirs.save(tmp_path / "plain.h5"))
    found, same = read(theirs.save(tmp_path / "other.h5", **how))
    assert same.model == card.model
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_half_precision_is_read_and_said(tmp_path):
    theirs = Theirs()
    with h5py.File(theirs.save(tmp_path / "half.h5"), "r+") as file:
        for layer, arrays in theirs.arrays.items():
            for name, array in zip(list(file[layer].attrs["weight_names"]), arrays, strict=True):
                del file[layer][name]
                file[layer].create_dataset(name, data=array.astype(np.float16))
    _, card = read(tmp_path / "half.h5")
    assert card.history["stored_as"] == "float16"


def test_the_card_says_what_keras_expects(tmp_path):
    card = load(Theirs().save(tmp_path / "theirs.h5")).card
    assert card.preprocessing.channels == "BGR"
    assert card.preprocessing.mean == MEAN
    assert set(card.preprocessing.std) == {1.0}
    assert card.history["layout"] == "keras"
    assert (card.model.stride_in, card.model.stem_pool, card.model.stem_bias) == ("first", "padded", False)


def test_a_file_without_a_classifier_is_refused(tmp_path):
    theirs = Theirs()
    del theirs.arrays["probs"]
    with pytest.raises(BadWeights, match="notop"):
        load(theirs.save(tmp_path / "notop.h5"))


def test_a_file_with_two_dense_layers_is_refused(tmp_path):
    theirs = Theirs()
    theirs.arrays["dense"] = theirs.arrays["probs"]
    with pytest.raises(BadWeights, match="second dense layer"):
        load(theirs.save(tmp_path / "two.h5"))


def test_kernels_of_theano_are_refused(tmp_path):
    with pytest.raises(BadWeights, match="mirrored"):
        load(Theirs().save(tmp_path / "theano.h5", backend="theano"))


def test_version_2_is_refused_by_its_name(tmp_path):
    theirs = Theirs()
    theirs.arrays["conv2_block1_preact_bn"] = theirs.arrays["conv1_bn"]
    with pytest.raises(BadWeights, match="version 2"):
        load(theirs.save(tmp_path / "v2.h5"))


def test_a_layer_of_another_network_is_refused(tmp_path):
    theirs = Theirs()
    theirs.arrays["block1_sepconv1_bn"] = theirs.arrays["conv1_bn"]
    with pytest.raises(BadWeights, match="block1_sepconv1_bn"):
        load(theirs.save(tmp_path / "other.h5"))


@pytest.mark.parametrize("missing", ["conv1_bn", "conv3_block1_2_conv", "conv5_block1_0_bn"])
def test_a_missing_layer_is_missed(missing, tmp_path):
    theirs = Theirs()
    theirs.arrays[missing] = []
    with pytest.raises(BadWeights, match="missing"):
        load(theirs.save(tmp_path / "less.h5"))


@pytest.mark.parametrize("layer", ["conv1_bn", "conv4_block2_3_conv", "probs"])
def test_numbers_that_are_not_finite_are_refused(layer, tmp_path):
    theirs = Theirs()
    theirs.arrays[layer][1][0] = np.nan
    with pytest.raises(BadWeights, match="not finite"):
        load(theirs.save(tmp_path / "nan.h5"))


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("conv1_conv/conv1_conv/kernel:0", "stem.conv.weight"),
        ("conv3_block2_0_bn/conv3_block2_0_bn/gamma:0", "stages.1.1.shortcut.norm.weight"),
        ("bn2a_branch2a/bn2a_branch2a_running_std:0", "stages.0.0.norm1.running_var"),
        ("model_weights/res4b12_branch2b/res4b12_branch2b_W_1:0", "stages.2.12.conv2.weight"),
        ("probs/probs/bias:0", "classifier.bias"),
    ],
)
def test_their_names_say_where_an_array_belongs(theirs, ours):
    assert rename(theirs)[0] == ours
