"""The images behind the squares are found again, or missed by name."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.images import ImageFiles, Images
from residual.data.sources import open_dataset
from residual.evaluate.originals import as_files, stored, whole


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Noise of two classes, three shapes, some in a folder deeper."""
    for number, shape in enumerate([(80, 100), (100, 70), (90, 90), (66, 120)]):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / name / ("deeper" if number == 3 else "")
            folder.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng((label, number)).integers(0, 256, (*shape, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_files_behind_stored_squares_are_found_and_read_whole_in_order(pets: Path, workers: int):
    images = open_dataset(str(pets), size=32).train
    assert isinstance(images, Images)
    assert images.shape == (37, 37, 3)
    found = list(whole(as_files(images, pets, workers=workers)))
    for name, pixels in zip(images.names, found, strict=True):
        with Image.open(pets / name) as picture:
            assert np.array_equal(pixels, np.asarray(picture))


def test_what_is_in_memory_is_taken_as_it_is():
    images = Images(
        pixels=torch.randint(256, (5, 8, 8, 3), dtype=torch.uint8),
        labels=torch.zeros(5, dtype=torch.int64),
        classes=("a", "b"),
        names=tuple("01234"),
    )
    assert np.array_equal(np.stack(list(whole(images))), images.pixels.numpy())
    assert np.array_equal(np.stack(list(stored(images))), images.pixels.numpy())


def test_images_of_a_parquet_file_are_found_in_it(pets: Path, tmp_path: Path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = sorted(pets.rglob("*.png"))
    rows = [{"bytes": file.read_bytes(), "path": None} for file in files]
    labels = [int("dog" in str(file)) for file in files]
    folder = tmp_path / "table"
    folder.mkdir()
    table = pyarrow.table({"image": rows, "label": labels})
    parquet.write_table(table, folder / "train-00000-of-00001.parquet")
    images = open_dataset(str(folder), size=32).train
    assert isinstance(images, Images)
    sizes = {pixels.shape for pixels in whole(as_files(images, folder, workers=0))}
    assert len(sizes) > 1
    assert (37, 37, 3) not in sizes


def test_a_lost_original_is_named(pets: Path):
    images = open_dataset(str(pets), size=32).train
    assert isinstance(images, Images)
    (pets / images.names[0]).rename(pets / "elsewhere.png")
    with pytest.raises(ValueError, match=f"{images.names[0]} is not found in .*pets.*--protocol one-crop"):
        as_files(images, pets, workers=0)


def test_a_file_that_went_bad_is_named(photographs: ImageFiles, tmp_path: Path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(os.fsdecode(photographs.files[0].path or b"")).read_bytes()[:100])
    first = replace(photographs.files[0], name="broken.png", path=os.fsencode(broken))
    with pytest.raises(ValueError, match=r"broken\.png: .*cut short.* measure again"):
        list(whole(replace(photographs, files=(first, *photographs.files[1:]))))
