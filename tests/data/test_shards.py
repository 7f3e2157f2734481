import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data import shards
from residual.data.shards import members
from residual.data.sources import open_dataset


def png(seed: int, size: int = 32) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def write(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def labelled(seeds: range) -> list[tuple[str, bytes]]:
    return [
        member for seed in seeds for member in ((f"{seed:06}.cls", b"%d\n" % (seed % 3)), (f"{seed:06}.png", png(seed)))
    ]


def test_webdataset_shards_are_read_where_they_lie(tmp_path):
    write(tmp_path / "set" / "my-train-0.tar", labelled(range(6)))
    write(tmp_path / "set" / "my-train-1.tar", labelled(range(6, 9)))
    write(tmp_path / "set" / "my-val-0.tar", labelled(range(20, 24)))
    data = open_dataset(str(tmp_path / "set"), workers=1)
    assert data.classes == ("0", "1", "2")
    assert data.train.labels.tolist() == [0, 1, 2] * 3
    assert data.validation.labels.tolist() == [2, 0, 1, 2]
    assert data.train.names[7] == "my-train-1.tar:000007.png"
    assert (data.train.pixels[7].numpy() == np.asarray(Image.open(io.BytesIO(png(7))))).all()


def test_without_numbers_the_folders_inside_are_the_classes(tmp_path):
    members = [(f"./{name}/{number}.png", png(number)) for number in range(5) for name in ("dog", "cat")]
    write(tmp_path / "all.tar", [*members, ("./readme.txt", b"hello")])
    data = open_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.validation)) == (8, 2)
    assert data.made_here


def test_an_image_without_a_class_and_a_damaged_one_are_listed(tmp_path):
    write(tmp_path / "train.tar", [*labelled(range(9)), ("alone.png", png(50)), ("x.cls", b"1"), ("x.png", b"bad")])
    data = open_dataset(str(tmp_path))
    told = {problem.path: problem.reason for problem in data.problems}
    assert set(told) == {"train.tar:alone.png", "train.tar:x.png"}
    assert "no .cls member" in told["train.tar:alone.png"]


def test_links_and_torn_archives_do_no_harm(tmp_path):
    write(tmp_path / "train.tar", labelled(range(9)))
    with tarfile.open(tmp_path / "train.tar", "a") as archive:
        link = tarfile.TarInfo("secret.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert len(open_dataset(str(tmp_path)).train) + len(open_dataset(str(tmp_path)).validation) == 9
    (tmp_path / "train.tar").write_bytes(b"this is not a tar file, at all" * 100)
    with pytest.raises(ValueError, match=r"train\.tar cannot be read as a tar file"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize(
    "names, match",
    [
        (("val-0.tar",), "none for train"),
        (("train-0.tar", "more.tar"), "does not say which split it is"),
    ],
)
def test_shards_whose_split_is_unclear_are_refused(tmp_path, names, match):
    for name in names:
        write(tmp_path / name, labelled(range(3)))
    with pytest.raises(ValueError, match=match):
        open_dataset(str(tmp_path))


def turned_back(path: Path, size: int) -> None:
    """Give the second member of a tar file another size, in base 256, and the checksum that goes with it."""
    data = bytearray(path.read_bytes())
    start = 512 + 512 * -(-int(data[124:136].strip(b"\0 "), 8) // 512)
    header = data[start : start + 512]
    header[124:136] = b"\xff" + (size % 256**11).to_bytes(11, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    data[start : start + 512] = header
    path.write_bytes(data)


@pytest.mark.parametrize("size", [-512, -1024, -(10**9), 10**9, 1 << 80])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE, b"Z"])
def test_sizes_that_lead_back_or_out_of_the_file_end_the_reading(tmp_path, size, kind):
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
            info = tarfile.TarInfo(name)
            info.size, info.type = 600, kind if name == "cat/2.png" else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(bytes(600)))
    turned_back(tmp_path / "train.tar", size)
    found: list[object] = []

    def listed() -> None:
        try:
            found.append(members(tmp_path / "train.tar"))
        except ValueError as error:
            found.append(str(error))

    reading = threading.Thread(target=listed, daemon=True)
    reading.start()
    reading.join(5)
    assert found, "it did not end"
    if kind == tarfile.REGTYPE:  # of another kind it may look like the end of the archive
        assert "train.tar cannot be read as a tar file" in str(found[0])


def test_the_members_of_a_tar_file_are_bounded_in_number(tmp_path, monkeypatch):
    write(tmp_path / "train.tar", labelled(range(6)))
    assert len(members(tmp_path / "train.tar")) == 6
    monkeypatch.setattr(shards, "MOST", 11)
    with pytest.raises(ValueError, match="more than 11 members"):
        members(tmp_path / "train.tar")
