"""Caffe's binary files, read as data: the wire format of protocol buffers, and the messages that hold weights.

A message is a row of fields: a number that names it, a kind that says how long it is, the value.  Caffe nests
them four deep (network, layer, blob, shape), and we go down by exactly these names: however deep a file nests,
the rest is stepped over.  Numbers of packed arrays are views of the file's bytes, not copies.

Field numbers: caffe.proto of BVLC/caffe.  No torch here, so that a small process can read.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np

from residual.weights.arrays import MAX_DIMENSIONS, MAX_TENSORS, Array
from residual.weights.files import BadWeights, open_file

NAME = "caffemodel"
MEAN_FILE = "ResNet_mean.binaryproto"  # the mean image that was released with the weights

Value: TypeAlias = "int | memoryview | Array"

MAX_FIELDS = 200_000  # in one file, a run of single floats counted once; ResNet-152 has some 10,000
MAX_LAYERS = 5_000  # ResNet-152 has 517
MAX_SIDE = 1 << 31
MAX_NAME = 200  # bytes
MAX_MEAN = 16 << 20  # bytes; the released one has 602 kB

NET_LAYER, NET_LAYER_V1 = 100, 2
LAYER_NAME, LAYER_BLOBS = 1, 7
V1_NAME, V1_BLOBS = 4, 6
BLOB_SHAPE, BLOB_DATA, BLOB_DOUBLE = 7, 5, 8
BLOB_SIDES = (1, 2, 3, 4)  # num, channels, height, width: the shape before 2015
SETTINGS = {  # what a layer says of itself beside its weights, as far as it changes the network
    106: {3: "pad", 6: "stride", 18: "dilation"},  # ConvolutionParameter
    121: {1: "kind", 2: "kernel", 3: "stride", 4: "pad", 13: "rounding"},  # PoolingParameter
}
BATCH_NORM, EPS = 139, 3


def recognises(head: bytes, path: str | os.PathLike[str]) -> bool:
    """Whether a file may be a NetParameter: it has no magic number, but its first fields are those of one."""
    del path
    kinds = {1: 2, 2: 2, 3: 2, 4: 0, 5: 0, 6: 2, 7: 0, 8: 2, NET_LAYER: 2}
    view, at, layers = memoryview(head), 0, 0
    try:
        while at < len(view):
            key, at = _varint(view, at)
            if kinds.get(key >> 3) != key & 7:
                return False
            layers += key >> 3 in (NET_LAYER, NET_LAYER_V1)
            value, at = _varint(view, at)
            at += value if key & 7 == 2 else 0
    except BadWeights:
        pass  # the head ends within a field
    return layers > 0


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """The arrays of a .caffemodel, see `read_net`; and of the released mean image, if it stands beside it."""
    with open_file(path) as file:
        found = read_net(file.read())
    beside = Path(path).with_name(MEAN_FILE)
    if beside.is_file():
        try:
            with open_file(beside) as file:
                data = file.read(MAX_MEAN + 1)
            if len(data) > MAX_MEAN:
                raise BadWeights(f"it has more than {MAX_MEAN:,} bytes")
            found[MEAN_FILE] = read_blob(data)
        except (BadWeights, OSError) as problem:
            raise BadWeights(f"the mean image {MEAN_FILE} beside it makes no sense: {problem}; take it away") from None
    return found


def read_net(data: bytes) -> dict[str, Array]:
    """The weights of a NetParameter (.caffemodel): its blobs as NAME/0, NAME/1, ... in the order of the layers.

    What a layer says of its stride, dilation, padding, pooling and epsilon comes as NAME/stride and so on.
    Arrays are float32 or float64 views of `data`, settings int64 or float32.  `BadWeights` for anything else.
    """
    reader = _Reader()
    found: dict[str, Array] = {}
    weighted: set[str] = set()
    layers = 0
    for number, value in reader.fields(memoryview(data)):
        if number not in (NET_LAYER, NET_LAYER_V1):
            continue
        layers += 1
        if layers > MAX_LAYERS:
            raise BadWeights(f"it has more than {MAX_LAYERS:,} layers")
        name, arrays, settings = reader.layer(_message(value, "a layer"), old=number == NET_LAYER_V1)
        if arrays:
            if name in weighted:
                raise BadWeights(f"two layers with weights have the name {name!r}")
            weighted.add(name)
        found |= {f"{name}/{index}": array for index, array in enumerate(arrays)}
        found |= {f"{name}/{setting}": array for setting, array in settings.items()}
        if len(found) > MAX_TENSORS:
            raise BadWeights(f"it has more than {MAX_TENSORS:,} blobs and settings")
    if not weighted:
        raise BadWeights("there are no layers with weights in it, so it is no .caffemodel, or an empty one")
    return found


def read_blob(data: bytes) -> Array:
    """The array of one BlobProto (.binaryproto, Caffe's file of a mean image)."""
    return _Reader().blob(memoryview(data), "the blob")


@dataclass
class _Reader:
    """One file's reading; it counts the fields."""

    left: int = MAX_FIELDS

    def fields(self, message: memoryview) -> Iterator[tuple[int, Value]]:
        """Number and value of every field: an int, bytes, or floats.

        A run of fixed-width fields with one number is one array: that is how arrays that are not packed look.
        """
        start, end = 0, len(message)
        while start < end:
            self.left -= 1
            if self.left < 0:
                raise BadWeights(f"it has more than {MAX_FIELDS:,} fields")
            key, at = _varint(message, start)
            number, kind = key >> 3, key & 7
            value: Value
            if not 1 <= number < 1 << 29:
                raise BadWeights(f"it has a field with the number {number}, which does not exist")
            if kind == 0:
                value, start = _varint(message, at)
            elif kind == 2:
                length, at = _varint(message, at)
                if length > end - at:
                    raise BadWeights(f"field {number} should have {length:,} bytes, but only {end - at:,} are left")
                value, start = message[at : at + length], at + length
            elif kind in (1, 5):
                width = 8 if kind == 1 else 4
                value = _run(message, start, at - start, width)
                start += len(value) * (at - start + width)
            else:
                raise BadWeights(f"field {number} is of kind {kind}, which no file of Caffe has")
            yield number, value

    def layer(self, message: memoryview, *, old: bool) -> tuple[str, list[Array], dict[str, Array]]:
        """Name, blobs and settings of a LayerParameter, or of the V1LayerParameter before it."""
        name_field, blob_field = (V1_NAME, V1_BLOBS) if old else (LAYER_NAME, LAYER_BLOBS)
        name = ""
        blobs: list[memoryview] = []
        settings: dict[str, Array] = {}
        for number, value in self.fields(message):
            if number == name_field:
                name = _text(value)
            elif number == blob_field:
                blobs.append(_message(value, "a blob"))
            elif number in SETTINGS and not old:
                settings |= self.settings(_message(value, "a layer's settings"), SETTINGS[number])
            elif number == BATCH_NORM and not old:
                for inner, epsilon in self.fields(_message(value, "a layer's settings")):
                    if inner == EPS:
                        settings["eps"] = _floats(epsilon, 4, "epsilon")[-1:]
        if blobs and not name:
            raise BadWeights("a layer with weights has no name")
        arrays = [self.blob(blob, f"blob {index} of layer {name!r}") for index, blob in enumerate(blobs)]
        if any(not len(setting) for setting in settings.values()):
            raise BadWeights(f"layer {name!r} has a setting without a value")
        return name, arrays, settings

    def settings(self, message: memoryview, names: dict[int, str]) -> dict[str, Array]:
        """Whole numbers by name; one for each axis, or one for all."""
        found: dict[str, list[int]] = {}
        for number, value in self.fields(message):
            if number in names:
                found.setdefault(names[number], []).extend(self.integers(value))
        return {name: np.array(numbers, np.int64) for name, numbers in found.items()}

    def blob(self, message: memoryview, what: str) -> Array:
        """The array of a BlobProto, with its shape."""
        shape: list[int] = []
        sides: dict[int, int] = {}
        numbers: dict[int, list[Array]] = {BLOB_DATA: [], BLOB_DOUBLE: []}
        for number, value in self.fields(message):
            if number == BLOB_SHAPE:
                for inner, dims in self.fields(_message(value, f"the shape of {what}")):
                    if inner == 1:
                        shape += self.integers(dims)
            elif number in BLOB_SIDES:
                if not isinstance(value, int):
                    raise BadWeights(f"a side of {what} is no whole number")
                sides[number] = _signed(value)
            elif number in numbers:
                numbers[number].append(_floats(value, 4 if number == BLOB_DATA else 8, what))
        if sides:  # as Caffe: the old form counts where it is there at all
            shape = [sides.get(number, 0) for number in BLOB_SIDES]
        if len(shape) > MAX_DIMENSIONS or not all(0 <= side < MAX_SIDE for side in shape):
            raise BadWeights(f"{what} has sides of {shape[:MAX_DIMENSIONS]}; none is negative or huge, at most 8 are")
        parts = numbers[BLOB_DOUBLE] or numbers[BLOB_DATA]
        count = sum(map(len, parts))
        if prod(shape) != count:
            raise BadWeights(f"{what} has the shape {shape}, {prod(shape):,} numbers, but it holds {count:,}")
        array = parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, np.float32), *parts])
        return array.reshape(shape)

    def integers(self, value: Value) -> list[int]:
        """Signed whole numbers, one or packed."""
        if isinstance(value, int):
            return [_signed(value)]
        message, at = _message(value, "a row of whole numbers"), 0
        found: list[int] = []
        while at < len(message):
            if len(found) >= MAX_DIMENSIONS:
                raise BadWeights(f"a row of whole numbers has more than {MAX_DIMENSIONS}")
            number, at = _varint(message, at)
            found.append(_signed(number))
        if not found:
            raise BadWeights("a row of whole numbers is empty")
        return found


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A whole number of 64 bits, seven in each byte, and where the next field begins."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise BadWeights("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
    raise BadWeights("it has a whole number of more than ten bytes")


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


def _run(message: memoryview, start: int, key: int, width: int) -> Array:
    """The values of as many fields as follow each other with the same key of `key` bytes: a view with gaps."""
    period = key + width
    most = (len(message) - start) // period
    if not most:
        raise BadWeights("it is cut short")
    raw = np.frombuffer(message, np.uint8)
    wanted = raw[start : start + key]
    count, step = 1, 16
    while count < most:
        upto = min(count + step, most)
        keys = raw[start + count * period : start + upto * period].reshape(-1, period)[:, :key]
        same = (keys == wanted).all(axis=1)
        if not same.all():
            count += int(same.argmin())
            break
        count, step = upto, 8 * step
    return np.ndarray((count,), f"<f{width}", message, start + key, (period,))


def _message(value: Value, what: str) -> memoryview:
    if not isinstance(value, memoryview):
        raise BadWeights(f"{what} is a number, not a message")
    return value


def _text(value: Value) -> str:
    content = bytes(_message(value, "a name")[: MAX_NAME + 1])
    if len(content) > MAX_NAME:
        raise BadWeights(f"a layer's name has more than {MAX_NAME} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadWeights(f"a layer's name is no text: {content!r}") from None


def _floats(value: Value, width: int, what: str) -> Array:
    """Packed floats, or a run of single ones."""
    if isinstance(value, memoryview):
        if len(value) % width:
            raise BadWeights(f"{what} has {len(value):,} bytes of numbers, which {width} does not divide")
        return np.frombuffer(value, f"<f{width}")
    if isinstance(value, int) or value.itemsize != width:
        raise BadWeights(f"{what} has numbers of another type than it should")
    return value
