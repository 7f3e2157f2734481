"""A .caffemodel answers under our names as Caffe's own graph does."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch

from residual.models.cost import parameters
from residual.weights import protobuf
from residual.weights.caffe import MEAN, place
from residual.weights.files import BadWeights
from residual.weights.sources import load, read


def put(layer, array):
    """Append an array to a layer's blobs."""
    blob = layer.blobs.add()
    blob.shape.dim.extend(np.shape(array))
    blob.data.extend(np.ravel(array).tolist())


class Writer:
    """A network layer by layer, with random weights and statistics, so that no channel is like another."""

    def __init__(self, caffe, *, eps=None, stated=True, seed=0):
        self.net = caffe["NetParameter"](name="ResNet", input=["data"], input_dim=[1, 3, 224, 224])
        self.rng = np.random.default_rng(seed)
        self.eps, self.stated = eps, stated

    def layer(self, name, kind, bottom, top):
        return self.net.layer.add(
            name=name, type=kind, bottom=[bottom] if isinstance(bottom, str) else bottom, top=[top]
        )

    def convolution(self, name, rest, bottom, c_in, c_out, side, stride, *, bias=False, relu=True):
        """Convolution, BatchNorm, Scale and ReLU, the last three in place; returns the top."""
        layer = self.layer(name, "Convolution", bottom, name)
        put(layer, self.rng.normal(0, (2 / (c_in * side * side)) ** 0.5, (c_out, c_in, side, side)))
        if bias:
            put(layer, self.rng.normal(size=c_out))
        if self.stated:
            settings = layer.convolution_param
            settings.num_output, settings.bias_term = c_out, bias
            settings.kernel_size.append(side)
            settings.pad.append(side // 2)
            settings.stride.append(stride)
        norm = self.layer(f"bn{rest}", "BatchNorm", name, name)
        factor = self.rng.uniform(1, 1000)
        put(norm, factor * self.rng.normal(size=c_out))
        put(norm, factor * self.rng.uniform(0.2, 2, c_out))
        put(norm, [factor])
        norm.batch_norm_param.use_global_stats = True
        if self.eps is not None:
            norm.batch_norm_param.eps = self.eps
        scale = self.layer(f"scale{rest}", "Scale", name, name)
        put(scale, self.rng.uniform(0.5, 1.5, c_out))
        put(scale, self.rng.normal(size=c_out))
        if relu:
            self.layer(f"{name}_relu", "ReLU", name, name)
        return name

    def bottleneck(self, block, bottom, c_in, width, stride, stride_in):
        first, middle = (stride, 1) if stride_in == "first" else (1, stride)
        path = bottom
        if c_in != 4 * width:
            path = self.convolution(
                f"res{block}_branch1", f"{block}_branch1", bottom, c_in, 4 * width, 1, stride, relu=False
            )
        x = self.convolution(f"res{block}_branch2a", f"{block}_branch2a", bottom, c_in, width, 1, first)
        x = self.convolution(f"res{block}_branch2b", f"{block}_branch2b", x, width, width, 3, middle)
        x = self.convolution(f"res{block}_branch2c", f"{block}_branch2c", x, width, 4 * width, 1, 1, relu=False)
        self.layer(f"res{block}", "Eltwise", [path, x], f"res{block}")
        self.layer(f"res{block}_relu", "ReLU", f"res{block}", f"res{block}")
        return f"res{block}"

    def resnet(self, depths=(2, 2, 3, 1), *, bias=True, numbered=False, stride_in="first", classes=7):
        """The released graph, thin.  numbered: blocks are called a, b1, b2 instead of a, b, c."""
        x = self.convolution("conv1", "_conv1", "data", 3, 8, 7, 2, bias=bias)
        pool = self.layer("pool1", "Pooling", x, "pool1")
        pool.pooling_param.kernel_size, pool.pooling_param.stride, pool.pooling_param.pool = 3, 2, 0
        x, c_in = "pool1", 8
        for stage, (depth, width) in enumerate(zip(depths, (4, 6, 8, 10), strict=True)):
            for number in range(depth):
                name = f"b{number}" if numbered and number else "abcdefgh"[number]
                stride = 2 if stage and not number else 1
                x = self.bottleneck(f"{stage + 2}{name}", x, c_in, width, stride, stride_in)
                c_in = 4 * width
        pool = self.layer("pool5", "Pooling", x, "pool5")
        pool.pooling_param.kernel_size, pool.pooling_param.pool = 7, 1
        classifier = self.layer("fc1000", "InnerProduct", "pool5", "fc1000")
        put(classifier, self.rng.normal(0, 0.3, (classes, c_in)))
        put(classifier, self.rng.normal(size=classes))
        self.layer("prob", "Softmax", "fc1000", "prob")
        return self

    def layer_named(self, name):
        return next(layer for layer in self.net.layer if layer.name == name)

    def save(self, folder):
        path = folder / "net.caffemodel"
        path.write_bytes(self.net.SerializeToString())
        return path


@pytest.fixture
def writer(caffe):
    return partial(Writer, caffe)


def answer(path, images, caffe, ops):
    """Caffe's forward pass in NumPy, over the graph that google.protobuf reads from the file."""
    maps = {"data": np.float64(images)}
    for layer in caffe["NetParameter"].FromString(path.read_bytes()).layer:
        x = maps[layer.bottom[0]]
        blobs = [np.array(blob.data, np.float64).reshape(blob.shape.dim) for blob in layer.blobs]
        match layer.type:
            case "Convolution":
                settings = layer.convolution_param
                y = ops.convolve(x, blobs[0], stride=settings.stride[0], pad=settings.pad[0])
                if settings.bias_term:
                    y = y + ops.per_channel(blobs[1])
            case "BatchNorm":
                scale = 0 if blobs[2][0] == 0 else 1 / blobs[2][0]
                epsilon = layer.batch_norm_param.eps if layer.batch_norm_param.HasField("eps") else 1e-5
                y = ops.normalise(x, mean=scale * blobs[0], variance=scale * blobs[1], epsilon=epsilon)
            case "Scale":
                y = x * ops.per_channel(blobs[0]) + ops.per_channel(blobs[1])
            case "ReLU":
                y = np.maximum(x, 0)
            case "Eltwise":
                y = x + maps[layer.bottom[1]]
            case "Pooling":
                y = x.mean((2, 3)) if layer.name == "pool5" else ops.max_pool(x, rounding="up")
            case "InnerProduct":
                y = x @ blobs[0].T + blobs[1]
            case "Softmax":
                y = x
        maps[layer.top[0]] = y
    return maps["fc1000"]


def some_images(side):
    return np.random.default_rng(side).normal(0, 50, (2, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("side", [64, 75, 97])  # the pool's last window leaves the map, and does not
@pytest.mark.parametrize(
    "how", [{}, {"bias": False, "numbered": True}, {"stride_in": "middle"}], ids=["50", "101", "stride in the 3x3"]
)
def test_the_converted_network_answers_as_caffe_does(how, side, tmp_path, layers, writer, caffe):
    path = writer().resnet(**how).save(tmp_path)
    ours = load(path)
    with torch.inference_mode():
        found = ours(torch.from_numpy(some_images(side)))
    assert layers.disagreement(found, answer(path, some_images(side), caffe, layers)) <= 1e-5  # float32 against float64
    assert ours.card.model.stride_in == how.get("stride_in", "first")
    assert ours.card.model.stem_pool == "ceil"


@pytest.mark.parametrize("eps", [1e-3, 2e-5])
def test_another_epsilon_is_part_of_the_variance(eps, tmp_path, layers, writer, caffe):
    path = writer(eps=eps).resnet((1, 1, 1, 1)).save(tmp_path)
    with torch.inference_mode():
        found = load(path)(torch.from_numpy(some_images(64)))
    assert layers.disagreement(found, answer(path, some_images(64), caffe, layers)) <= 1e-5


def test_a_factor_of_zero_means_no_statistics(tmp_path, layers, writer, caffe):
    net = writer().resnet((1, 1, 1, 1))
    net.layer_named("bn5a_branch2c").blobs[2].data[0] = 0
    path = net.save(tmp_path)
    tensors, _ = read(path)
    assert not tensors["stages.3.0.norm3.running_var"].any()
    with torch.inference_mode():
        found = load(path)(torch.from_numpy(some_images(64)))
    assert layers.disagreement(found, answer(path, some_images(64), caffe, layers)) <= 1e-5


def test_the_card_says_what_caffe_expects(tmp_path, writer):
    ours = load(writer().resnet((3, 4, 6, 3)).save(tmp_path))
    card = ours.card
    assert card.name == "resnet50"
    assert card.preprocessing.channels == "BGR"
    assert card.preprocessing.mean == MEAN
    assert (card.preprocessing.resize, card.preprocessing.size, set(card.preprocessing.std)) == (256, 224, {1.0})
    assert card.history["layout"] == "caffe"
    assert parameters(card.model) == sum(tensor.numel() for tensor in ours.parameters())


def test_the_mean_image_beside_the_weights_is_used(tmp_path, writer, caffe):
    path = writer().resnet((1, 1, 1, 1)).save(tmp_path)
    mean = np.random.default_rng(0).uniform(90, 130, (3, 224, 224)).astype(np.float32)
    blob = caffe["BlobProto"](num=1, channels=3, height=224, width=224, data=mean.ravel().tolist())
    (tmp_path / protobuf.MEAN_FILE).write_bytes(blob.SerializeToString())
    card = load(path).card
    assert card.preprocessing.mean == tuple(mean.ravel().tolist())
    assert card.history["mean_file_sha256"] == hashlib.sha256(blob.SerializeToString()).hexdigest()


@pytest.mark.parametrize("shape", [(3, 10, 10), (1, 224, 224), (2, 3, 224, 224), (3, 224)])
def test_a_mean_image_of_another_shape_is_refused(shape, tmp_path, writer, caffe):
    path = writer().resnet((1, 1, 1, 1)).save(tmp_path)
    blob = caffe["BlobProto"](data=np.zeros(shape).ravel().tolist())
    blob.shape.dim.extend(shape)
    (tmp_path / protobuf.MEAN_FILE).write_bytes(blob.SerializeToString())
    with pytest.raises(BadWeights, match=r"mean image ResNet_mean\.binaryproto"):
        load(path)


def test_of_a_larger_mean_image_the_centre_is_taken(tmp_path, writer, caffe):
    path = writer().resnet((1, 1, 1, 1)).save(tmp_path)
    mean = np.arange(3 * 256 * 256, dtype=np.float32).reshape(3, 256, 256)
    blob = caffe["BlobProto"](data=mean.ravel().tolist())
    blob.shape.dim.extend(mean.shape)
    (tmp_path / protobuf.MEAN_FILE).write_bytes(blob.SerializeToString())
    assert load(path).card.preprocessing.mean == tuple(mean[:, 16:240, 16:240].ravel().tolist())


def test_a_file_without_settings_strides_as_the_released_networks_do(tmp_path, writer):
    stated, silent = writer().resnet(), writer(stated=False).resnet()
    (tmp_path / "silent").mkdir()
    (ours, card), (same, other) = read(stated.save(tmp_path)), read(silent.save(tmp_path / "silent"))
    assert card.model == other.model
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    assert "stride" in other.history["assumed"]
    assert "stride" not in card.history["assumed"]


def test_shapes_of_four_sides_as_before_2015_mean_the_same(tmp_path, writer):
    net = writer(stated=False).resnet((1, 1, 1, 1))
    expected, _ = read(net.save(tmp_path))
    for layer in net.net.layer:
        for blob in layer.blobs:
            blob.num, blob.channels, blob.height, blob.width = [1] * (4 - len(blob.shape.dim)) + list(blob.shape.dim)
            blob.ClearField("shape")
    found, _ = read(net.save(tmp_path))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def dilated(writer):
    writer.layer_named("res5a_branch2b").convolution_param.dilation.append(2)


def strided_elsewhere(writer):
    writer.layer_named("res5a_branch2a").convolution_param.stride[0] = 1


def without_border(writer):
    writer.layer_named("res5a_branch2b").convolution_param.pad[0] = 0


def pooled_with_border(writer):
    writer.layer_named("pool1").pooling_param.pad = 1


def averaged(writer):
    writer.layer_named("pool1").pooling_param.pool = 1


def headless(writer):
    writer.net.layer.remove(writer.layer_named("fc1000"))


def two_headed(writer):
    writer.net.layer.add(name="fc_boxes", type="InnerProduct").blobs.extend(writer.layer_named("fc1000").blobs)


def with_another_layer(writer):
    writer.net.layer.add(name="rpn_conv/3x3").blobs.extend(writer.layer_named("res2a_branch2b").blobs)


def with_a_block_twice(writer):
    for layer in [layer for layer in writer.net.layer if "2b_" in layer.name]:
        writer.net.layer.add().CopyFrom(layer)
        writer.net.layer[-1].name = layer.name.replace("2b_", "2b1_")


def without_a_norm(writer):
    writer.net.layer.remove(writer.layer_named("bn3a_branch2b"))


def without_a_blob(writer):
    del writer.layer_named("scale3a_branch2b").blobs[1]


def without_a_block(writer):
    for layer in [layer for layer in writer.net.layer if "3a_" in layer.name]:
        writer.net.layer.remove(layer)


def with_another_width(writer):
    blob = writer.layer_named("scale3a_branch2b").blobs[0]
    blob.shape.dim[0] -= 1
    del blob.data[0]


def with_nan(writer):
    writer.layer_named("res2a_branch2a").blobs[0].data[0] = float("nan")


def with_a_negative_variance(writer):
    writer.layer_named("bn2a_branch2a").blobs[1].data[0] *= -1


def with_an_infinite_factor(writer):
    writer.layer_named("bn2a_branch2a").blobs[2].data[0] = 1e-45


@pytest.mark.parametrize(
    "change, problem",
    [
        (dilated, "dilation of {2}"),
        (strided_elsewhere, "stride at other places"),
        (without_border, "border of {0}"),
        (pooled_with_border, "'pool1' has pad"),
        (averaged, "'pool1' has kind"),
        (headless, "0 layers whose name begins with 'fc'"),
        (two_headed, "2 layers whose name begins with 'fc'"),
        (with_another_layer, "'rpn_conv/3x3'"),
        (with_a_block_twice, "of which there is another"),
        (without_a_norm, "'bn3a_branch2b' has 0 blobs"),
        (without_a_blob, "'scale3a_branch2b' has 1 blobs"),
        (without_a_block, "not numbered from 0"),
        (with_another_width, "another shape"),
        (with_nan, "not finite"),
        (with_a_negative_variance, "negative variance"),
        (with_an_infinite_factor, "not finite"),
    ],
)
def test_a_file_of_another_network_is_refused(change, problem, tmp_path, writer):
    net = writer().resnet((2, 2, 1, 1))
    change(net)
    path = net.save(tmp_path)
    with pytest.raises(BadWeights) as refusal:
        load(path)
    assert problem in str(refusal.value)
    assert str(refusal.value).startswith(repr(str(path)))


@pytest.mark.parametrize(
    "name, conv, norm",
    [
        ("res2a_branch1", "stages.0.0.shortcut.conv", "stages.0.0.shortcut.norm"),
        ("res3d_branch2a", "stages.1.3.conv1", "stages.1.3.norm1"),
        ("res4b22_branch2b", "stages.2.22.conv2", "stages.2.22.norm2"),
        ("res5c_branch2c", "stages.3.2.conv3", "stages.3.2.norm3"),
    ],
)
def test_their_names_say_where_a_layer_stands(name, conv, norm):
    assert place(name) == (conv, norm)


@pytest.mark.parametrize(
    "name", ["res2", "res6a_branch1", "res2a_branch3", "res4b0_branch1", "res4c1_branch1", "conv1"]
)
def test_other_names_stand_nowhere(name):
    assert place(name) is None
