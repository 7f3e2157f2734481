import os
from collections import Counter

import numpy as np
import pytest

from residual.data import kept
from residual.data.decode import View
from residual.data.loader import File
from residual.data.sources import open_dataset


@pytest.fixture(autouse=True)
def keep_small_sets(monkeypatch):
    monkeypatch.setattr(kept, "FEWEST", 1)


def test_the_second_reading_decodes_nothing_and_gives_the_same(pets, own_cache, monkeypatch):
    (pets / "cat" / "3.png").write_bytes(b"broken")
    first = open_dataset(str(pets))
    monkeypatch.setattr("residual.data.assemble._read", lambda *_: pytest.fail("decoded again"))
    second = open_dataset(str(pets))
    assert second.train.fingerprint == first.train.fingerprint
    assert second.train.names == first.train.names
    assert (second.problems, second.sizes, second.split) == (first.problems, first.sizes, first.split)


def test_a_changed_file_is_decoded_again(pets, draw):
    first = open_dataset(str(pets))
    for number in range(10):
        draw(pets / "cat" / f"{number}.png", seed=50 + number)
    assert open_dataset(str(pets)).train.fingerprint != first.train.fingerprint


@pytest.mark.parametrize("damage", ["one bit", "cut", "longer", "empty"])
def test_damaged_pixels_are_not_trusted(pets, own_cache, damage):
    first = open_dataset(str(pets)).train.fingerprint
    (file,) = (own_cache / "decoded").iterdir()
    data = bytearray(file.read_bytes())
    if damage == "one bit":
        data[-5000] ^= 4
    file.write_bytes({"one bit": data, "cut": data[:-9], "longer": data + b"x", "empty": b""}[damage])
    assert open_dataset(str(pets)).train.fingerprint == first


def test_a_cache_that_cannot_be_written_fails_nothing(pets, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "file"))
    assert len(open_dataset(str(pets)).train) == 16


def test_the_oldest_go_when_room_runs_out(pets, draw, own_cache, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 2 * 61_440 + 10_000)
    for number in range(4):
        draw(pets / "cat" / "0.png", seed=1000 + number)
        os.utime(pets / "cat" / "0.png", (number, number))
        open_dataset(str(pets))
    assert len(list((own_cache / "decoded").iterdir())) == 2


@pytest.mark.parametrize(
    "reason, notes, kept_files", [("damaged (x)", (), 1), ("cannot be opened (x)", (), 0), ("damaged (x)", ("x",), 0)]
)
def test_what_another_try_might_read_is_not_kept(own_cache, reason, notes, kept_files):
    files = [File(name=name, path=name.encode(), stamp=(1, 1)) for name in ("a.png", "b.png")]
    harvest = kept.Harvest(
        good=[0], bad={1: reason}, found=Counter({(4, 4): 1}), side=4,
        pixels=np.zeros((1, 4, 4, 3), np.uint8), digests=[bytes(32)], notes=notes,
    )  # fmt: skip
    kept.keep(files, View(), None, harvest)
    assert len(list(own_cache.glob("decoded/*"))) == kept_files
    if kept_files:
        again = kept.recall(files, View(), None)
        assert again is not None
        assert (again.good, again.bad, again.found) == (harvest.good, harvest.bad, harvest.found)
