"""W2: files that ask for too much memory or time are refused by a child process that takes little of either.

40 files: archives that unfold, sizes that lie, pickles and Lua values that ask for gigabytes.  The child may take 1.2
times the file and 256 MB, and 10 s; the parent lives.
"""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from residual.weights import child
from residual.weights.files import BadWeights
from residual.weights.sources import load

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# Runs the child, and writes down what it took: its peak as its own parent sees it, who is small.
WATCH = """
import os, resource, subprocess, sys, time
began = time.monotonic()
ended = subprocess.run([sys.executable, *sys.argv[2:]])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
open(sys.argv[1], "w").write(f"{peak} {time.monotonic() - began}")
os._exit(ended.returncode if ended.returncode >= 0 else 128 - ended.returncode)
"""


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def tensor(size: list[int], stride: list[int], count: int = 4, offset: int = 0) -> bytes:
    sizes, strides = (b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + sizes + strides + b"\x89}tR"


def dict_of(value: bytes) -> bytes:
    return b"\x80\x02}" + text("w") + value + b"s."


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method, compresslevel=9) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return made.getvalue()


def weights(program: bytes, storage: bytes = bytes(16)) -> bytes:
    return archive({"a/data.pkl": program, "a/data/0": storage, "a/version": b"3\n"})


def before_1_6(program: bytes, rest: bytes = b"") -> bytes:
    return b"".join(pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True})) + program + rest


def forged(content: bytes, name: bytes, **fields: int) -> bytes:
    """The same archive with fields of a file's central entry, or of the end record, overwritten."""
    places = {"version": (4, "<H"), "flags": (8, "<H"), "method": (10, "<H"), "checksum": (16, "<I"),
              "stored": (20, "<I"), "size": (24, "<I"), "mode": (38, "<I"), "offset": (42, "<I")}  # fmt: skip
    ends = {"entries": (10, "<H"), "directory": (12, "<I"), "start": (16, "<I")}
    made = bytearray(content)
    start = made.rindex(name) - 46
    for field, value in fields.items():
        place, layout = places.get(field) or ends[field]
        struct.pack_into(layout, made, (start if field in places else made.rindex(b"PK\5\6")) + place, value)
    return bytes(made)


def t7(rest: bytes) -> bytes:
    head = struct.pack("<iii3si9siii", 4, 1, 3, b"V 1", 9, b"nn.Linear", 3, 2, 1)
    return head + struct.pack("<ii6s", 2, 6, b"weight") + rest


def t7_tensor(size: int, stride: int, count: int) -> bytes:
    kinds = b"torch.FloatTensor", b"torch.FloatStorage"
    shape = struct.pack("<iii3si17siqqq", 4, 3, 3, b"V 1", 17, kinds[0], 1, size, stride, 1)
    return t7(shape + struct.pack("<iii3si18sq", 4, 4, 3, b"V 1", 18, kinds[1], count) + bytes(64))


def array(shape: bytes, content: bytes) -> bytes:
    dtype = b"cnumpy\ndtype\n" + text("f4") + b"\x89\x88\x87R(K\3U\1<NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\0tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R(K\1" + shape + dtype
    return made + b"\x89B" + struct.pack("<I", len(content)) + content + b"tb"


def cases() -> dict[str, Callable[[], bytes]]:
    sound = weights(dict_of(tensor([4], [1])))
    zeros = {"a/data.pkl": dict_of(tensor([1 << 26], [1], 1 << 26)), "a/data/0": bytes(1 << 28)}
    laughs = b"]q\0" + b"".join(b"](" + b"h%c" % i * 10 + b"eq%c" % (i + 1) for i in range(12))
    return {
        "storage of zeros, 1000 to 1": lambda: archive(zeros, zipfile.ZIP_DEFLATED),
        "pickle of zeros, 1000 to 1": lambda: archive({"a/data.pkl": bytes(1 << 27)}, zipfile.ZIP_DEFLATED),
        "the same by bzip2": lambda: archive({"a/data.pkl": bytes(1 << 26)}, zipfile.ZIP_BZIP2),
        "the same by LZMA": lambda: archive({"a/data.pkl": bytes(1 << 26)}, zipfile.ZIP_LZMA),
        "size forged up": lambda: forged(sound, b"a/data/0", size=1 << 31),
        "both sizes forged up": lambda: forged(sound, b"a/data/0", size=1 << 31, stored=1 << 31),
        "both sizes forged down": lambda: forged(sound, b"a/data/0", size=3, stored=3),
        "sizes of 2^32": lambda: forged(sound, b"a/data/0", size=0xFFFFFFFF, stored=0xFFFFFFFF),
        "a million entries": lambda: archive({"a/data.pkl": dict_of(b"}"), **{f"a/{i:x}": b"" for i in range(70_000)}}),
        "entries forged to 65,535": lambda: forged(sound, b"a/data/0", entries=0xFFFF),
        "directory forged to 4 GB": lambda: forged(sound, b"a/data/0", directory=0xFFFFFFF0),
        "directory elsewhere": lambda: forged(sound, b"a/data/0", start=0),
        "two of one name": lambda: sound[: sound.index(b"PK\1\2")]
        + sound[sound.index(b"PK\1\2") :].replace(b"a/version", b"a/data/0 "[:9]),
        "out of the folder": lambda: archive({"a/data.pkl": dict_of(b"}"), "a/../../x": b""}),
        "from the root": lambda: archive({"/data.pkl": dict_of(b"}"), "/x": b""}),
        "two folders": lambda: archive({"a/data.pkl": dict_of(b"}"), "b/data.pkl": b""}),
        "a link": lambda: forged(sound, b"a/data/0", mode=0o120777 << 16),
        "a wrong checksum": lambda: forged(sound, b"a/data/0", checksum=7),
        "encrypted": lambda: forged(sound, b"a/data/0", flags=1),
        "patched data": lambda: forged(sound, b"a/data/0", flags=32),
        "an unknown method": lambda: forged(sound, b"a/data/0", method=99),
        "at another's bytes": lambda: forged(sound, b"a/data/0", offset=0),
        "beyond the file": lambda: forged(sound, b"a/data/0", offset=1 << 30),
        "226 GB, as 60 billion numbers": lambda: weights(dict_of(tensor([60_000_000_000], [1], 60_000_000_000))),
        "226 GB by a stride of 0": lambda: weights(dict_of(tensor([60_000_000_000], [0]))),
        "fewer bytes than numbers": lambda: weights(dict_of(tensor([5], [1], 5))),
        "an item set on a tensor": lambda: weights(dict_of(tensor([4], [1]) + text("x") + b"K\1s")),
        "a stride out of range": lambda: weights(dict_of(tensor([2], [1 << 62]))),
        "lists that unfold to 10^12": lambda: weights(dict_of(b"(" + laughs + b"t")),
        "a million tuples deep": lambda: weights(dict_of(b"N" + b"\x85" * 1_000_000)),
        "a million marks": lambda: weights(dict_of(b"(" * 1_000_000)),
        "a million remembered": lambda: weights(b"\x80\x04}" + b"\x94" * 1_000_000 + b"."),
        "three million numbers": lambda: weights(b"\x80\x02](" + b"K\1" * 3_000_000 + b"e."),
        "a text of 2^63": lambda: before_1_6(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 63) + b"x."),
        "a line of 64 MB": lambda: b"\x80\x02c" + b"a" * (64 << 20),
        "bytes out of one text, again and again": lambda: b"\x80\x02" + text("a" * (1 << 20)) + b"q\0"
        + (b"c_codecs\nencode\nh\0" + text("latin1") + b"\x86R") * 3000 + b".",
        "an array beyond its bytes": lambda: dict_of(array(number(1 << 31) + number(1 << 31) + b"\x86", bytes(64))),
        "a Lua storage of 2^60": lambda: t7_tensor(1 << 60, 1, 1 << 60),
        "a Lua tensor by a stride of 0": lambda: t7_tensor(1 << 30, 0, 16),
        "two million Lua tables": lambda: struct.pack("<iii", 3, 1, 2_000_000)
        + b"".join(struct.pack("<idiii", 1, i, 3, i + 2, 0) for i in range(2_000_000)),
    }  # fmt: skip


def examine(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Callable[..., None], what: str
) -> None:
    notes = tmp_path / "notes"
    plain = subprocess.run

    def watched(command: list[Any], **settings: Any) -> Any:
        """As the door calls it, with somebody in between who watches."""
        return plain([sys.executable, "-S", "-c", WATCH, str(notes), *command[1:]], **settings)

    monkeypatch.setattr(child.subprocess, "run", watched)
    files, refused, slowest, most, over = cases(), 0, 0.0, 0, []
    assert len(files) == 40
    for name in names:
        path = tmp_path / "x.pth"
        path.write_bytes(files[name]())
        notes.unlink(missing_ok=True)
        with pytest.raises(BadWeights):
            load(path)
        refused += 1
        if not notes.exists():  # refused before a child was started
            continue
        peak, seconds = notes.read_text().split()
        beyond = int(peak) - int(1.2 * path.stat().st_size)
        slowest, most = max(slowest, float(seconds)), max(most, beyond)
        if beyond > 256 << 20 or float(seconds) > 10:
            over.append((name, peak, seconds))
    row(
        "W2",
        what,
        f"{refused}/{len(names)} refused; child at most 1.2 x the file and {most >> 20} MB, slowest {slowest:.1f} s",
        refused == len(names) and not over,
    )
    assert not over


def test_a_sample_of_files_that_ask_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Callable[..., None]
) -> None:
    names = ["storage of zeros, 1000 to 1", "226 GB, as 60 billion numbers", "a text of 2^63", "a Lua storage of 2^60"]
    examine(names, tmp_path, monkeypatch, row, "files that ask for too much")


@pytest.mark.reliability
def test_40_files_that_ask_for_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Callable[..., None]
) -> None:
    examine(list(cases()), tmp_path, monkeypatch, row, "all files that ask for too much")
