"""A container is known by its content, whatever the file is called."""

import struct
from pathlib import Path

import pytest
import torch

from residual.weights.containers import CONTAINERS, named, recognise
from residual.weights.files import BadWeights


def test_every_container_has_a_name_of_its_own() -> None:
    names = [container.NAME for container in CONTAINERS]
    assert len(set(names)) == len(names)
    assert [named(name) for name in names] == list(CONTAINERS)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_save_is_known_by_its_content(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.caffemodel"
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
    assert recognise(path).NAME == "torch.save"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"hello, world\n", b"\x89PNG\r\n\x1a\n" + bytes(64), b"\xff\xd8\xff\xe0" + bytes(64), b"%PDF-1.7",
        b"<!DOCTYPE html><html></html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        bytes(5000), b"\xff" * 5000, struct.pack("<Q", 2) + b"[]",
    ],
    ids=lambda content: repr(content[:8]),
)  # fmt: skip
def test_what_is_no_file_of_weights_is_nobody_s(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(BadWeights, match=r"as no file of weights that we read does; they are safetensors, "):
        recognise(path)
