"""Caffe's files come back as google.protobuf wrote them; bytes that are no such message are refused."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.weights.files import BadWeights
from residual.weights.protobuf import MAX_FIELDS, MAX_LAYERS, MEAN_FILE, read, read_blob, read_net, recognises

floats = st.floats(width=32, allow_nan=False)
shapes = st.lists(st.integers(0, 4), max_size=4)
names = st.text(min_size=1, max_size=20)


def varint(number):
    """A whole number as the format writes it."""
    number &= (1 << 64) - 1
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number, content):
    """A field of bytes, or of a whole number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(shape, content):
    """A BlobProto whose packed floats are `content`."""
    return field(7, field(1, b"".join(map(varint, shape)))) + field(5, content)


def net(*blobs, name=b"conv"):
    """A NetParameter of one layer."""
    return field(100, field(1, name) + b"".join(field(7, blob) for blob in blobs))


ONE = blob([1], struct.pack("<f", 1))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_network_comes_back_whatever_wrote_its_arrays(caffe, data):
    message = caffe["NetParameter"](name="net", input=["data"])
    expected = {}
    for name in data.draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        old, double, legacy = (data.draw(st.booleans()) for _ in range(3))
        layer = (message.layers if old else message.layer).add(name=name)
        for index in range(data.draw(st.integers(1, 3))):
            shape = tuple(data.draw(st.lists(st.integers(0, 4), min_size=4, max_size=4) if legacy else shapes))
            array = np.array(data.draw(st.lists(floats, min_size=(n := int(np.prod(shape))), max_size=n)))
            added = layer.blobs.add(diff=[1, 2, 3])
            (added.double_data if double else added.data).extend(array.tolist())
            if legacy:
                added.num, added.channels, added.height, added.width = shape
            else:
                added.shape.dim.extend(shape)
            expected[f"{name}/{index}"] = array.reshape(shape)
    found = read_net(message.SerializeToString())
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(floats, max_size=40), max_size=5), st.data())
def test_packed_and_single_numbers_may_alternate(caffe, pieces, data):
    """As the format has it: packed or not, in as many pieces as there are, the numbers follow each other."""
    kind = data.draw(st.sampled_from(["data", "double_data"]))
    content = b""
    for piece in pieces:
        message = caffe[data.draw(st.sampled_from(["BlobProto", "LooseBlobProto"]))]()
        getattr(message, kind).extend(piece)
        content += message.SerializeToString()
    numbers = [number for piece in pieces for number in piece]
    content += field(7, field(1, varint(len(numbers))))
    found = read_blob(content)
    assert found.tolist() == numbers
    assert list(getattr(caffe["BlobProto"].FromString(content), kind)) == numbers


def test_a_million_single_numbers_are_one_step(caffe):
    numbers = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
    single = np.empty(len(numbers), np.dtype([("key", "u1"), ("value", "<f4")]))  # without padding
    single["key"], single["value"] = 5 << 3 | 5, numbers
    data = field(7, field(1, varint(len(numbers)))) + single.tobytes()
    found = read_blob(data)
    assert np.array_equal(found, numbers)
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


def test_packed_numbers_are_views_of_the_file():
    data = net(blob([3], np.arange(3, dtype="<f4").tobytes()))
    assert np.shares_memory(read_net(data)["conv/0"], np.frombuffer(data, np.uint8))


def test_what_a_layer_says_of_itself_comes_back(caffe):
    message = caffe["NetParameter"]()
    layer = message.layer.add(name="conv")
    layer.blobs.add(data=[1.0]).shape.dim.append(1)
    layer.convolution_param.stride.extend([2, 2])
    layer.convolution_param.pad.append(3)
    message.layer.add(name="bn").batch_norm_param.eps = 1e-3
    message.layer.add(name="pool").pooling_param.kernel_size = 3
    found = {name: array.tolist() for name, array in read_net(message.SerializeToString()).items()}
    assert found == {
        "conv/0": [1.0],
        "conv/stride": [2, 2],
        "conv/pad": [3],
        "bn/eps": [np.float32(1e-3)],
        "pool/kernel": [3],
    }


def test_fields_we_do_not_know_are_stepped_over_however_deep_they_nest():
    deep = b""
    for _ in range(5_000):
        deep = field(15, deep)
    assert read_net(field(9, deep) + net(ONE)).keys() == {"conv/0"}


def test_every_beginning_of_a_file_is_refused_or_holds_less():
    data = net(blob([2, 3], bytes(24))) + net(ONE, name=b"fc")
    layers = {len(net(blob([2, 3], bytes(24)))): {"conv/0"}, len(data): {"conv/0", "fc/0"}}
    for end in range(len(data) + 1):
        if end in layers:
            assert read_net(data[:end]).keys() == layers[end]
        else:
            with pytest.raises(BadWeights):
                read_net(data[:end])


@pytest.mark.parametrize(
    "data, problem",
    [
        (b"", "no layers with weights"),
        (field(1, b"net"), "no layers with weights"),
        (net(), "no layers with weights"),
        (net(ONE, name=b""), "no name"),
        (net(ONE, name=b"\xff"), "no text"),
        (net(ONE, name=b"n" * 201), "more than 200 bytes"),
        (net(ONE) * 2, "have the name 'conv'"),
        (net(ONE) + field(100, b"") * MAX_LAYERS, "more than 5,000 layers"),
        (net(ONE) + b"\x08\x00" * MAX_FIELDS, "more than 200,000 fields"),
        (b"\x00\x00", "number 0"),
        (b"\x0b\x0c", "of kind 3"),
        (b"\x0f", "of kind 7"),
        (b"\xff" * 11, "more than ten bytes"),
        (b"\x0a" + varint(1 << 40), "only 0 are left"),
        (b"\x0a" + varint(-1), "only 0 are left"),
        (b"\x0d\x00", "cut short"),
        (varint(100 << 3) + b"\x00", "a layer is a number"),
        (net(blob([2], bytes(4))), "it holds 1"),
        (net(blob([-1], bytes(4))), "none is negative"),
        (net(blob([1 << 31, 1 << 31, 4], b"")), "sides of"),
        (net(blob([65536] * 4, b"")), "it holds 0"),  # the product is 0 in 64 bits
        (net(blob([1] * 9, bytes(4))), "more than 8"),
        (net(blob([1], bytes(5))), "4 does not divide"),
        (net(field(5, bytes(4)) + field(1, 2)), "it holds 1"),
        (net(field(5, 7)), "another type"),
        (net(varint(5 << 3 | 1) + bytes(8)), "another type"),
        (net(field(7, b"\x0a\x00")), "is empty"),
        (net(field(7, field(1, b"\x80"))), "cut short"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_such_message_is_refused(data, problem):
    with pytest.raises(BadWeights, match=problem):
        read_net(data)


def test_the_file_is_known_by_its_first_fields(tmp_path, caffe):
    path = tmp_path / "net.caffemodel"
    message = caffe["NetParameter"](name="ResNet-50", input=["data"], input_dim=[1, 3, 224, 224])
    message.layer.add(name="conv").blobs.add(data=[1.0] * 3000).shape.dim.append(3000)
    path.write_bytes(message.SerializeToString())
    assert recognises(path.read_bytes()[:4096], path)
    assert recognises(path.read_bytes(), path)
    for foreign in (
        b"",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02}q",
        b"\x89HDF\r\n\x1a\n",
        b"\nfirst line\nsecond\n",
        b"{}",
    ):
        assert not recognises(foreign, path)


def test_a_broken_mean_image_is_refused_by_its_name(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(net(ONE))
    (tmp_path / MEAN_FILE).write_bytes(b"\xff")
    with pytest.raises(BadWeights, match=f"{MEAN_FILE} beside it makes no sense"):
        read(path)
