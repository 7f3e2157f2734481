import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual import records
from residual.data import pack as packing
from residual.data.pack import write_pack
from residual.data.shrink import Shrink
from residual.data.sources import list_images, open_dataset


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of twelve JPEGs of 90 x 70 pixels, a small PNG in each, and a damaged file."""
    for name in ("cat", "dog"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(12):
            small = np.random.default_rng(number + len(name) * (name == "cat")).integers(0, 256, (7, 9, 3), np.uint8)
            image = Image.fromarray(small).resize((90, 70), Image.Resampling.BICUBIC)
            image.save(folder / f"{number}.jpg", quality=95)
        image.resize((20, 30)).save(folder / "small.png")
    (tmp_path / "photos" / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return tmp_path / "photos"


def pack(source: Path, target: Path, **options: object):
    options = {"shrink": None, "workers": 0} | options
    return write_pack(list_images(source), target, **options)


def test_a_pack_holds_the_files_bytes_and_opens_as_the_folder_does(photos, tmp_path):
    record = pack(photos, tmp_path / "pack")
    assert [problem.path for problem in record.left_out] == ["cat/bad.jpg"]
    assert sum(sum(part.counts.values()) for part in record.parts.values()) == 26
    packed, folder = open_dataset(str(tmp_path / "pack"), workers=1), open_dataset(str(photos))
    assert packed.classes == folder.classes
    assert packed.made_here
    for ours, theirs in ((packed.train, folder.train), (packed.validation, folder.validation)):
        place = {name: row for row, name in enumerate(theirs.names)}
        rows = torch.tensor([place[name] for name in ours.names])
        assert sorted(ours.names) == sorted(theirs.names)
        assert torch.equal(ours.labels, theirs.labels[rows])
        assert torch.equal(ours.fetch(torch.arange(len(ours))), theirs.fetch(rows))


def test_the_record_tells_classes_counts_fingerprint_and_the_sha256_of_each_shard(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 8)
    pack(photos, tmp_path / "pack", shrink=Shrink(shorter=32, quality=80))
    record = json.loads((tmp_path / "pack" / "pack.json").read_text())
    assert record["classes"] == ["cat", "dog"]
    assert record["shrunk"] == {"shorter": 32, "quality": 80}
    shards = [shard for part in record["parts"].values() for shard in part["shards"]]
    assert len(record["parts"]["train"]["shards"]) == 3
    for shard in shards:
        data = (tmp_path / "pack" / shard["name"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == shard["sha256"]
        assert len(data) == shard["bytes"]
    names = {path.name for path in (tmp_path / "pack").iterdir()}
    assert names == {"pack.json"} | {one for s in shards for one in (s["name"], s["name"].replace(".tar", ".index"))}


def test_shrunk_images_have_the_shorter_side_asked_for_and_small_ones_keep_their_bytes(photos, tmp_path):
    pack(photos, tmp_path / "pack", shrink=Shrink(shorter=32))
    sizes = set()
    for shard in (tmp_path / "pack").glob("*.tar"):
        with tarfile.open(shard) as archive:  # any reader of tar files can read it
            for member in archive:
                data = archive.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    sizes.add(Image.open(io.BytesIO(data)).size)
                elif member.name.endswith(".png"):
                    assert data in {path.read_bytes() for path in photos.rglob("*.png")}
                else:
                    assert data in (b"0", b"1")
    assert sizes == {(41, 32)}
    assert "shrunk to 32 pixels" in open_dataset(str(tmp_path / "pack")).origin


def test_packing_is_the_same_at_any_number_of_processes(photos, tmp_path):
    records_made = [pack(photos, tmp_path / str(n), workers=n, shrink=Shrink(shorter=40)) for n in (0, 2)]
    assert records_made[0] == records_made[1]


def test_packing_that_was_cut_off_goes_on_and_ends_the_same(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "SHARD", 5)
    whole = pack(photos, tmp_path / "whole")
    write, left = records.DurableFile.write, [22]

    def cut_off(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, data)

    with monkeypatch.context() as patched:
        patched.setattr(records.DurableFile, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pack(photos, tmp_path / "again")
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "again").glob("*.tar")}
    assert 0 < len(there) < 6
    with pytest.raises(ValueError, match="never finished"):
        open_dataset(str(tmp_path / "again"))
    with pytest.raises(ValueError, match="the beginning of another pack"):
        pack(photos, tmp_path / "again", shrink=Shrink(shorter=32))
    assert pack(photos, tmp_path / "again") == whole
    assert all((tmp_path / "again" / name).stat().st_mtime_ns == when for name, when in there.items())
    ours, theirs = ({path.name for path in (tmp_path / name).iterdir()} for name in ("again", "whole"))
    assert ours == theirs


def test_a_target_that_exists_is_refused(photos, tmp_path):
    pack(photos, tmp_path / "pack")
    with pytest.raises(ValueError, match="holds a pack already"):
        pack(photos, tmp_path / "pack")
    with pytest.raises(ValueError, match="exists and is no pack"):
        pack(photos, photos)


def test_a_changed_pack_is_refused_whole_or_image_by_image(photos, tmp_path):
    pack(photos, tmp_path / "pack")
    data = open_dataset(str(tmp_path / "pack"), workers=0)
    tar = tmp_path / "pack" / "train-00000.tar"
    whole = tar.read_bytes()
    span = data.train.files[3].span
    torn = bytearray(whole)
    torn[span[0] + span[1] // 2] ^= 1
    tar.write_bytes(torn)
    changed = open_dataset(str(tmp_path / "pack"), workers=0)
    changed.train.fetch(torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="SHA-256 differs"):
        changed.train.fetch(torch.tensor([3]))
    with pytest.raises(ValueError, match="has changed since"):
        data.train.fetch(torch.tensor([0]))
    tar.write_bytes(whole[:-512])
    with pytest.raises(ValueError, match="is not what was written"):
        open_dataset(str(tmp_path / "pack"))
    tar.unlink()
    with pytest.raises(ValueError, match="the pack is not whole"):
        open_dataset(str(tmp_path / "pack"))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record | {"format": 2},
        lambda record: record | {"classes": ["cat"]},
        lambda record: record | {"classes": ["dog", "cat"]},
        lambda record: record | {"parts": {}},
        lambda record: record | {"surprise": 1},
        lambda record: record["parts"]["train"]["shards"][0].update(name="../train-00000.tar") or record,
        lambda record: record["parts"]["train"]["shards"][0].update(index_sha256="0") or record,
    ],
)
def test_a_record_that_does_not_fit_is_refused(photos, tmp_path, change):
    pack(photos, tmp_path / "pack")
    place = tmp_path / "pack" / "pack.json"
    place.write_text(json.dumps(change(json.loads(place.read_text()))))
    with pytest.raises(ValueError):
        open_dataset(str(tmp_path / "pack"))


def test_a_pack_of_small_pictures_is_read_into_memory(pets, tmp_path):
    pack(pets, tmp_path / "pack")
    data = open_dataset(str(tmp_path / "pack"))
    assert data.train.shape == (32, 32, 3)
    assert data.train.pixels.shape == (16, 32, 32, 3)


def test_a_moved_pack_is_the_same_data(photos, tmp_path):
    pack(photos, tmp_path / "pack")
    before = open_dataset(str(tmp_path / "pack")).train.fingerprint
    shutil.copytree(tmp_path / "pack", tmp_path / "elsewhere")
    assert open_dataset(str(tmp_path / "elsewhere")).train.fingerprint == before
