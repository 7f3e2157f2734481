"""Entries of a zip archive come back as they are; one that is more than torch.save writes is refused."""

import struct
import zipfile
from pathlib import Path

import pytest

from residual.weights.archive import opened
from residual.weights.files import BadWeights

PROGRAM, FOUR = b"\x80\x02}.", struct.pack("<4f", 0, 1, 2, 3)
SOUND = [("a/data.pkl", PROGRAM), ("a/data/0", FOUR)]


def archive(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in entries:
            made.writestr(name, content)
    return path


def read(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file, opened(file) as entries:
        return {name: entries.read(name) for name in entries.found}


def test_entries_come_back_below_their_top_folder(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", SOUND)
    assert read(path) == {"data.pkl": PROGRAM, "data/0": FOUR}
    with path.open("rb") as file, opened(file) as entries:
        assert "data/0" in entries
        assert "data/1" not in entries
        assert entries.size("data/0") == 16


@pytest.mark.parametrize(
    "name, reason",
    [
        ("a/../data/0", "not inside one top folder"),
        ("../data/0", "not inside one top folder"),
        ("/data/0", "not inside one top folder"),
        ("data.pkl", "not inside one top folder"),
        ("b/data/0", "2 top folders"),
    ],
)
def test_names_that_lead_out_of_the_one_folder_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=reason):
        read(archive(tmp_path / "x.pt", [SOUND[0], (name, FOUR)]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    entries = [*SOUND, SOUND[1]]
    with pytest.raises(BadWeights, match="twice"):
        read(archive(tmp_path / "x.pt", entries))


def test_compressed_entries_are_refused_so_nothing_can_inflate(tmp_path: Path) -> None:
    entries = [SOUND[0], ("a/data/0", bytes(50_000_000))]
    with pytest.raises(BadWeights, match="compressed"):
        read(archive(tmp_path / "x.pt", entries, zipfile.ZIP_DEFLATED))


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/data/0")
    link.external_attr = 0o120777 << 16
    path = archive(tmp_path / "x.pt", SOUND[:1])
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(link, b"/etc/passwd")
    with pytest.raises(BadWeights, match="symbolic link"):
        read(path)


def central(path: Path, name: bytes) -> tuple[bytearray, int]:
    """The bytes of an archive and where its directory speaks of an entry."""
    content = bytearray(path.read_bytes())
    return content, content.rindex(name, 0, content.rindex(b"PK\x05\x06")) - 46


@pytest.mark.parametrize(
    "field, layout, value",
    [
        (8, "<H", 1),
        (10, "<H", 12),
        (16, "<I", 1),
        (20, "<I", 1 << 31),
        (24, "<I", 1 << 31),
        (42, "<I", 0),
        (42, "<I", 1 << 30),
    ],
    ids=["encrypted", "method", "checksum", "stored size", "size", "offset of another", "offset outside"],
)
def test_a_forged_directory_is_refused(field: int, layout: str, value: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", SOUND)
    content, place = central(path, b"a/data/0")
    struct.pack_into(layout, content, place + field, value)
    path.write_bytes(content)
    with pytest.raises(BadWeights):
        read(path)


def test_both_sizes_forged_alike_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", SOUND)
    content, place = central(path, b"a/data/0")
    struct.pack_into("<II", content, place + 20, 1 << 31, 1 << 31)
    path.write_bytes(content)
    with pytest.raises(BadWeights, match="more bytes than the file has"):
        read(path)


def test_a_million_entries_are_refused_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "x.pt", [SOUND[0], *[(f"a/{i}", b"") for i in range(11_000)]])
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(BadWeights, match="11,001 entries"):
        read(path)
