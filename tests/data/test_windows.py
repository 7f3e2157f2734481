"""Training windows through decoding processes: exact at any number of them, bounded in memory, safe from files."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data import jpeg
from residual.data.batches import training_batches
from residual.data.crop import Crop, crop_file
from residual.data.decode import BadImage, View
from residual.data.images import ImageFiles
from residual.data.loader import File, Pool
from residual.data.transforms import Augmentation, Normalize, Preprocessing


def photograph(path: Path, seed: int, size: tuple[int, int] = (160, 120)) -> Path:
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path


def files_in(folder: Path, count: int) -> list[File]:
    paths = [photograph(folder / f"{number}.jpg", number) for number in range(count)]
    return [File(name=path.name, path=bytes(path)) for path in paths]


def image_files(files: list[File], workers: int) -> ImageFiles:
    return ImageFiles(
        files=files,
        labels=torch.arange(len(files)) % 2,
        classes=("a", "b"),
        names=[file.name for file in files],
        view=View(size=64, resize=64),
        workers=workers,
    )


NORMALIZE = Normalize(Preprocessing(size=48, resize=64))
CUT = Augmentation(crop="resized", least_area=0.1)


def batches(images: ImageFiles, count: int, augmentation: Augmentation = CUT, **options: object) -> list[torch.Tensor]:
    stream = training_batches(
        images, augmentation, NORMALIZE, batch=6, seed=3, start=options.pop("start", 0),
        device=torch.device("cpu"), **options,
    )  # fmt: skip
    found = [next(stream).images for _ in range(count)]
    stream.close()
    return found


def test_windows_are_those_their_draws_say_at_any_number_of_processes_and_after_a_resume(tmp_path):
    files = files_in(tmp_path, 20)
    images = image_files(files, 0)
    visits, indices = torch.tensor([0, 4, 4]), torch.tensor([5, 0, 1])
    crop = Crop(size=48)
    pixels, again = images.windows([(crop, 9, visits, indices), (crop, 9, visits[[2]], indices[[2]])])
    assert torch.equal(pixels[2:], again)
    for row, (visit, index) in enumerate(zip(visits.tolist(), indices.tolist(), strict=True)):
        data = Path(files[index].path.decode()).read_bytes()
        assert (pixels[row].numpy() == crop_file(data, crop, (9, visit, index), "RGB", fast=True)[0]).all()
    once = batches(images, 5)
    resumed = batches(image_files(files, 2), 3, start=2)
    assert all(torch.equal(a, b) for a, b in zip(once[2:], resumed, strict=True))


def test_a_file_that_libjpeg_cannot_bear_is_judged_by_the_reference_and_stops_nothing(tmp_path):
    files = files_in(tmp_path, 12)
    worse = (tmp_path / "4.jpg").read_bytes().replace(b"\xff\xdb", b"\xff\xe5")  # no quantisation table
    (tmp_path / "4.jpg").write_bytes(worse)
    (tmp_path / "7.jpg").write_bytes((tmp_path / "7.jpg").read_bytes()[:900])
    (tmp_path / "8.jpg").write_bytes(b"no picture")
    wanted = [File(name=file.name, path=file.path, window=(Crop(size=32), (0, 0, 0))) for file in files]
    with Pool(workers=1, windows=True) as pool:
        results = list(pool.decode(wanted, View()))
    refused = {number for number, one in enumerate(results) if isinstance(one.pixels, BadImage)}
    assert refused == {4, 7, 8}
    if jpeg.available():
        assert "could not be decoded alone" in " ".join(pool.notes)
        assert "4.jpg" in " ".join(pool.notes)


def test_a_file_that_went_bad_while_training_stops_the_run_by_name(tmp_path):
    files = files_in(tmp_path, 12)
    (tmp_path / "5.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"5\.jpg: not an image"):
        batches(image_files(files, 1), 2)


def test_the_side_of_training_images_may_change_by_iteration(tmp_path):
    images = image_files(files_in(tmp_path, 12), 1)
    papers = Augmentation(crop="scaled", shorter=(50, 90))
    made = batches(images, 3, papers, size_at=lambda step: 16 * (step % 3 + 1))
    assert [one.shape for one in made] == [(6, 3, 16, 16), (6, 3, 32, 32), (6, 3, 48, 48)]
    assert made[0].is_contiguous(memory_format=torch.channels_last)


def test_windows_larger_than_the_images_become_are_refused():
    with pytest.raises(ValueError, match="48 pixels cannot be cut from images whose shorter side is 40"):
        Augmentation(crop="scaled", shorter=(40, 90)).check_size(48)


def resident(process: int) -> int:
    """Bytes that a process holds in memory of its own."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) << 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_a_pass(tmp_path):
    """Twenty thousand bytes of pixels per image, 3,000 images: what is not let go of would be seen."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((120, 160, 3), np.uint8)).save(out, "JPEG")
    path = tmp_path / "one.jpg"
    path.write_bytes(out.getvalue())
    files = [File(name="one", path=bytes(path), window=(Crop(size=80), (0, 0, number))) for number in range(3000)]
    with Pool(workers=1, windows=True) as pool:
        results = pool.decode(iter(files), View())
        seen: list[int] = []
        for number, one in enumerate(results):
            assert one.pixels.shape == (80, 80, 3)
            if number % 500 == 499:
                seen.append(sum(map(resident, (os.getpid(), *pool.processes))))
    assert max(seen[1:]) - seen[0] < 12 << 20  # of 57 MB of pixels that went by
