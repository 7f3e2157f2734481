import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residual.data.assemble import Entry, Listing, assemble
from residual.data.decode import View
from residual.data.images import ImageFiles, Images
from residual.data.loader import File


def some_images(count: int = 6) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(0, 256, (count, 4, 5, 3), dtype=torch.uint8, generator=generator),
        labels=torch.arange(count) % 2,
        classes=("a", "b"),
        names=tuple(f"image {number}" for number in range(count)),
    )


@pytest.fixture
def on_disk(tmp_path: Path, draw) -> ImageFiles:
    """Nine photographs of three sizes, kept at 16 pixels."""
    files = []
    for number in range(9):
        path = draw(tmp_path / f"{number}.png", seed=number, size=(70 + number, 80 + number % 3))
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        files.append(File(name=path.name, path=os.fsencode(path), stamp=stamp))
    return ImageFiles(
        files=tuple(files),
        labels=torch.arange(9) % 2,
        classes=("a", "b"),
        names=tuple(file.name for file in files),
        view=View(size=16, resize=16),
        digests=tuple(bytes([number]) for number in range(9)),
        workers=1,
    )


def test_select_takes_pixels_labels_and_names_together():
    images = some_images()
    chosen = images.select(torch.tensor([4, 1]))
    assert (chosen.pixels == images.pixels[[4, 1]]).all()
    assert chosen.labels.tolist() == [0, 1]
    assert chosen.names == ("image 4", "image 1")
    assert (images.fetch(torch.tensor([4, 1])) == chosen.pixels).all()
    assert images.shape == (4, 5, 3)


def test_the_fingerprint_changes_with_pixels_labels_classes_and_shape():
    images = some_images()
    other_pixels = images.pixels.clone()
    other_pixels[3, 0, 0, 0] ^= 1
    variants = [
        images,
        replace(images, pixels=other_pixels),
        replace(images, labels=1 - images.labels),
        replace(images, classes=("a", "c")),
        replace(images, pixels=images.pixels.reshape(6, 5, 4, 3)),
    ]
    assert len({variant.fingerprint for variant in variants}) == 5
    assert some_images().fingerprint == images.fingerprint


def test_images_on_disk_are_used_like_images_in_memory(on_disk):
    everything = on_disk.fetch(torch.arange(9))
    assert everything.shape == (9, *on_disk.shape)
    batches = [torch.tensor([3, 1, 4]), torch.tensor([1, 5]), torch.tensor([8])]
    for batch, pixels in zip(batches, on_disk.stream(batches), strict=True):
        assert (pixels == everything[batch]).all()
    part = on_disk.select(torch.tensor([7, 2]))
    assert (part.fetch(torch.tensor([1])) == everything[2]).all()
    assert part.names == ("7.png", "2.png")
    assert part.fingerprint != on_disk.fingerprint


def test_a_stream_may_be_left_half_way(on_disk):
    endless = (torch.tensor([number % 9]) for number in range(10**9))
    for count, _ in enumerate(on_disk.stream(endless)):
        if count == 20:
            break


def test_a_file_that_changes_during_a_run_stops_it_by_name(on_disk, tmp_path, draw):
    draw(tmp_path / "4.png", seed=99, size=(90, 90))
    with pytest.raises(ValueError, match=r"4\.png: the file has changed"):
        on_disk.fetch(torch.arange(9))
    (tmp_path / "4.png").unlink()
    with pytest.raises(ValueError, match=r"4\.png: cannot be opened"):
        list(on_disk.stream([torch.arange(9)]))


def test_sets_too_large_for_memory_stay_on_disk_and_give_the_same_pixels(tmp_path, draw, monkeypatch):
    entries = []
    for number in range(12):
        path = draw(tmp_path / f"{number}.png", seed=number, size=(100, 90))
        entries.append(Entry(file=File(name=path.name, path=os.fsencode(path)), label=number % 2, split=None))

    def read():
        return assemble(Listing(entries=entries, classes=("a", "b"), origin="here"), size=28, seed=0, workers=0)

    in_memory = read().train
    monkeypatch.setattr("residual.data.assemble.MEMORY", 1000)
    on_disk = read().train
    assert isinstance(in_memory, Images)
    assert isinstance(on_disk, ImageFiles)
    assert on_disk.names == in_memory.names
    assert (on_disk.fetch(torch.arange(len(on_disk))) == in_memory.pixels).all()
