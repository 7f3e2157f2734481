"""W3: headers that lie are refused, by us exactly where safetensors' own parser refuses them."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from safetensors import SafetensorError

from residual.weights.files import BadWeights
from residual.weights.safetensors import read_bare
from residual.weights.sources import inspect

MUTATIONS = 20_000


def file(header: Any, data: bytes = bytes(24), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: Any = (2,), start: Any = 0, end: Any = 8, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def attacks() -> dict[str, bytes]:
    """Sixty files."""
    sound = {"a": entry(), "b": entry((4,), 8, 24)}
    text = json.dumps(sound).encode()
    made = {f"header of {length} bytes": file(text, length=length) for length in (
        0, 1, 7, len(text) - 1, len(text) + 1, len(text) + 25, 1 << 20, 100_000_001, 1 << 31, 1 << 32, 1 << 40, 1 << 63,
        (1 << 64) - 1,
    )}  # fmt: skip
    made |= {f"{count} bytes": file(sound)[:count] for count in (0, 1, 7, 8, 9, len(text), len(text) + 8)}
    made |= {f"offsets {start} to {end}": file({"a": entry((2,), start, end)}, bytes(8)) for start, end in (
        (0, 4), (0, 9), (4, 12), (8, 0), (8, 8), (0, 1 << 40), (1 << 63, (1 << 63) + 8), (-8, 0), (0.5, 8.5),
        ("0", "8"), (None, 8),
    )}  # fmt: skip
    made |= {f"shape {str(shape)[:40]}": file({"a": entry(shape, 0, 8)}, bytes(8)) for shape in (
        (3,), (-2,), (2.5,), ("2",), (1 << 40,), (1 << 63, 2), (1 << 32, 1 << 32), (1 << 62, 4, 2), "2", None, {},
        (None,), (True, 2), (0,),
    )}  # fmt: skip
    made |= {
        f"type {dtype}": file({"a": entry(dtype=dtype)}, bytes(8)) for dtype in ("F33", "f32", "", None, 4, ["F32"])
    }
    made |= {
        "a hole": file({"a": entry(), "b": entry((2,), 16, 24)}),
        "an overlap": file({"a": entry(), "b": entry((4,), 4, 20)}),
        "the same bytes twice": file({"a": entry(), "b": entry()}, bytes(8)),
        "a key twice": file(json.dumps(sound).replace('"b"', '"a"').encode()),
        "no UTF-8": file(text.replace(b'"a"', b'"\xff"')),
        "a lone surrogate": file(text.replace(b'"a"', b'"\\udc00"')),
        "no JSON": file(b"}" + text[1:]),
        "a list": file(b"[]", b""),
        "nested 100,000 deep": file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    }  # fmt: skip
    return made


def judged(path: Path, content: bytes) -> tuple[bool, bool]:
    """Whether we take the file, and whether safetensors' parser does; an error of another type is let through."""
    path.write_bytes(content)
    try:
        ours = read_bare(path)
    except BadWeights:
        ours = None
    try:
        theirs = safetensors.torch.load(content)
    except SafetensorError:
        theirs = None
    except KeyError:  # a type that safetensors knows and its PyTorch side does not
        theirs = None
    if ours is not None and theirs is not None:
        assert ours.keys() == theirs.keys()
        assert all(ours[name].numpy().tobytes() == tensor.numpy().tobytes() for name, tensor in theirs.items())
    return ours is not None, theirs is not None


def mutations(count: int) -> Any:
    """A small sound file with bytes changed, added, taken away or moved, most of them in its header."""
    rng = random.Random(0)
    names = {f"layer{n}.weight": np.ones(n + 1, t) for n, t in enumerate(("f4", "f2", "i8", "u1", "?"))}
    whole = safetensors.numpy.save(names, {"format": "pt"})
    end = 8 + int.from_bytes(whole[:8], "little")
    words = (
        b"F32",
        b"F16",
        b"I64",
        b'"shape":[',
        b"0,",
        b"9",
        b"-",
        b"{",
        b"}",
        b"null",
        b"__metadata__",
        b"\xff",
        b"e9",
    )
    for _ in range(count):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(end if rng.random() < 0.9 else len(content))
            match rng.randrange(5):
                case 0:
                    content[at] ^= 1 << rng.randrange(8)
                case 1:
                    content[at] = rng.randrange(32, 127)
                case 2:
                    content[at:at] = rng.choice(words)
                case 3:
                    del content[at : at + rng.randrange(1, 9)]
                case 4:
                    content[at : at + 8] = content[rng.randrange(len(content)) :][:8]
            if rng.random() < 0.7 and len(content) > 8:  # or nothing but the length would be tested
                content[:8] = (end - 8 + len(content) - len(whole)).to_bytes(8, "little", signed=True)
        yield bytes(content)


def test_sixty_headers_that_lie_are_refused(tmp_path, row):
    made, wrong = attacks(), []
    for name, content in made.items():
        ours, theirs = judged(tmp_path / "x.safetensors", content)
        told = inspect(tmp_path / "x.safetensors")
        if ours or theirs or "problem" not in told:
            wrong.append(name)
    row("W3", "safetensors headers that lie", f"{len(made) - len(wrong)}/{len(made)} refused; {wrong}", not wrong)
    assert len(made) == 60


def agree(folder: Path, count: int) -> tuple[str, bool]:
    taken = differ = 0
    for content in mutations(count):
        ours, theirs = judged(folder / "x.safetensors", content)
        taken += ours
        differ += ours != theirs
    return f"{count:,} mutations, {taken:,} taken by both, {differ} judged otherwise", not differ and taken > 0


def test_a_sample_of_mutations_is_judged_as_by_safetensors_itself(tmp_path, row):
    row("W3 b", "mutated safetensors files", *agree(tmp_path, 1000))


@pytest.mark.reliability
def test_mutations_are_judged_as_by_safetensors_itself(tmp_path, row):
    row("W3 b", "mutated safetensors files", *agree(tmp_path, MUTATIONS))
