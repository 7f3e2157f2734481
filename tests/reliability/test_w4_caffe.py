"""W4, Caffe's half: forty hostile .caffemodel files are refused by name, and no array reaches outside its file."""

import struct
import time
from pathlib import Path

import numpy as np
import pytest

from residual.weights import protobuf
from residual.weights.files import BadWeights
from residual.weights.sources import load
from tests.reliability.conftest import inside

WIDTH = 2  # channels of every stage


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def dims(*sides: int) -> bytes:
    return field(7, field(1, b"".join(map(varint, sides))))


def floats(*numbers: float) -> bytes:
    return field(5, struct.pack(f"<{len(numbers)}f", *numbers))


def blob(*shape: int, value: float = 0.5) -> bytes:
    return dims(*shape) + floats(*[value] * int(np.prod(shape)))


def layer(name: str | bytes, *blobs: bytes, settings: bytes = b"") -> bytes:
    name = name.encode() if isinstance(name, str) else name
    return field(100, field(1, name) + b"".join(field(7, each) for each in blobs) + settings)


def sound() -> dict[str, bytes]:
    """The layers of the smallest network of the released kind, each encoded."""
    layers = {}

    def add(conv: str, rest: str, side: int, c_in: int, c_out: int) -> None:
        layers[conv] = layer(conv, blob(c_out, c_in, side, side))
        layers[f"bn{rest}"] = layer(f"bn{rest}", blob(c_out), blob(c_out), blob(1, value=1))
        layers[f"scale{rest}"] = layer(f"scale{rest}", blob(c_out), blob(c_out))

    add("conv1", "_conv1", 7, 3, WIDTH)
    c_in = WIDTH
    for stage in "2345":
        for branch, side, c, out in (
            ("1", 1, c_in, 4 * WIDTH), ("2a", 1, c_in, WIDTH), ("2b", 3, WIDTH, WIDTH), ("2c", 1, WIDTH, 4 * WIDTH)
        ):  # fmt: skip
            add(f"res{stage}a_branch{branch}", f"{stage}a_branch{branch}", side, c, out)
        c_in = 4 * WIDTH
    layers["fc1000"] = layer("fc1000", blob(3, c_in), blob(3))
    return layers


def encode(layers: dict[str, bytes]) -> bytes:
    return field(1, b"ResNet") + b"".join(layers.values())


def with_layer(name: str, *blobs: bytes, settings: bytes = b"") -> bytes:
    """The sound file with one layer in another form."""
    return encode(sound() | {name: layer(name, *blobs, settings=settings)})


def renamed(old: str, new: str) -> bytes:
    layers = sound()
    for name in [name for name in layers if old in name]:
        other = name.replace(old, new)
        layers[other] = layers[name].replace(field(1, name.encode()), field(1, other.encode()))
        length = len(layers[other]) - len(layers[name])
        assert length == 0, "of the same length, for the layer's own length stands before it"
    return encode(layers)


def nested(number: int, depth: int, content: bytes = b"") -> bytes:
    for _ in range(depth):
        content = field(number, content)
    return content


def hostile() -> dict[str, bytes | tuple[bytes, bytes]]:
    """Forty files by what is wrong with them; a pair is a file and the mean image beside it."""
    whole = encode(sound())
    layers = sound()
    conv, norm = "res2a_branch2a", "bn2a_branch2a"
    kernel = (WIDTH, WIDTH, 1, 1)
    return {
        # the wire
        "empty": b"",
        "cut in the middle": whole[: len(whole) // 2],
        "cut by a byte": whole[:-1],
        "a length that is one too large": whole + varint(100 << 3 | 2) + varint(9) + field(1, b"extra!"),
        "a length of 2^63": whole + varint(100 << 3 | 2) + varint(1 << 63),
        "a length of -1": whole + varint(100 << 3 | 2) + varint(-1),
        "a number of eleven bytes": whole + b"\xa0\x06" + b"\xff" * 10 + b"\x01",
        "a field with the number 0": whole + b"\x00\x00",
        "100,000 groups in groups": whole + b"\x0b" * 100_000,
        "the end of a group that never began": whole + b"\x0c",
        "kind 6": whole + b"\x0e",
        "kind 7": whole + b"\x0f",
        "a million fields": whole + b"\x38\x00" * 1_000_000,
        "ten thousand layers": whole + layer("relu") * 10_000,
        "30,000 arrays": whole + b"".join(layer(f"l{n}", *[blob(1)] * 10) for n in range(3_000)),
        "a shape that nests 2,000 deep": with_layer(conv, nested(7, 2_000) + floats(*[0.5] * 4)),
        # arrays
        "packed numbers of 5 bytes": with_layer(conv, dims(1) + field(5, bytes(5))),
        "packed numbers that run into the next layer": with_layer(
            conv, dims(*kernel) + varint(5 << 3 | 2) + varint(999) + bytes(16)
        ),
        "a single number cut short": whole + field(100, field(1, b"x") + field(7, dims(1) + b"\x2d\x00\x00")),
        "whole numbers for weights": with_layer(conv, dims(*kernel) + field(5, 7)),
        "doubles where floats should be": with_layer(conv, dims(1) + varint(5 << 3 | 1) + bytes(8)),
        "a shape larger than its numbers": with_layer(conv, dims(WIDTH, WIDTH, 1, 2) + floats(*[0.5] * 4)),
        "a shape smaller than its numbers": with_layer(conv, dims(WIDTH, 1, 1, 1) + floats(*[0.5] * 4)),
        "sides whose product is 0 in 64 bits": with_layer(conv, dims(65536, 65536, 65536, 65536)),
        "sides whose product is 1 in 32 bits": with_layer(conv, dims(641, 6700417, 1, 1) + floats(0.5)),
        "two negative sides": with_layer(conv, dims(-2, -2, 1, 1) + floats(*[0.5] * 4)),
        "a side of 0": with_layer("conv1", dims(0, 3, 7, 7)),
        "a thousand sides": with_layer(conv, dims(*[1] * 1_000) + floats(0.5)),
        "two shapes that differ": with_layer(conv, blob(*kernel) + field(1, 2**40)),
        # names
        "a name that is no text": encode(layers | {"x": layer(b"\xff\xfe", blob(1))}),
        "a name of a megabyte": encode(layers | {"x": layer("n" * (1 << 20), blob(1))}),
        "a name that leads out of the folder": encode(layers | {"x": layer("../../../etc/passwd", blob(1))}),
        "two layers of one name": encode(layers | {"x": layer(conv, blob(*kernel))}),
        "block 26 without the others": renamed("2a_", "2z_"),
        # values and settings
        "a kernel that is not finite": with_layer(conv, blob(*kernel, value=float("nan"))),
        "a factor that makes statistics infinite": with_layer(norm, blob(2), blob(2), blob(1, value=1e-45)),
        "a negative epsilon": with_layer(
            norm, *[blob(2)] * 2, blob(1, value=1), settings=field(139, b"\x1d\0\0\x80\xbf")
        ),
        "a stride of 2^63": with_layer(conv, blob(*kernel), settings=field(106, field(6, 1 << 63))),
        "a norm without its factor": with_layer(norm, blob(2), blob(2)),
        "a mean image of 2^62 pixels": (whole, dims(3, 1 << 30, 1 << 30)),
    }


def examine(folder: Path, files: dict[str, bytes | tuple[bytes, bytes]], row) -> None:
    refused, slowest, views = 0, 0.0, 0
    for number, content in enumerate(files.values()):
        (place := folder / str(number)).mkdir()
        path = place / "net.caffemodel"
        data, mean = content if isinstance(content, tuple) else (content, None)
        path.write_bytes(data)
        if mean is not None:
            (place / protobuf.MEAN_FILE).write_bytes(mean)
        try:
            arrays = protobuf.read_net(data)
        except BadWeights:
            pass
        else:
            assert all(inside(array, data) for array in arrays.values())
            views += len(arrays)
        begun = time.monotonic()
        with pytest.raises(BadWeights, match=r"net\.caffemodel"):
            load(path)
        refused += 1
        slowest = max(slowest, time.monotonic() - begun)
    figures = f"{refused} of {len(files)} refused, slowest {slowest:.1f} s, {views} views inside their file"
    row("W4", "hostile .caffemodel files", figures, refused == len(files) and slowest < 10)


def test_the_file_they_are_made_of_is_sound(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(encode(sound()))
    assert load(path).card.model.depths == (1, 1, 1, 1)


def test_some_hostile_files_are_refused(tmp_path, row):
    examine(tmp_path, dict(list(hostile().items())[::8]), row)


@pytest.mark.reliability
def test_forty_hostile_files_are_refused(tmp_path, row):
    assert len(hostile()) == 40
    examine(tmp_path, hostile(), row)
