"""Objects told by mask files: their boxes and pixels come back, damaged masks are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.instances import foldered, numbered, read_foldered, read_numbered, read_numbers
from residual.data.objects import ObjectImages, with_masks
from residual.data.scenes import draw_scenes

SIDE = 64


@pytest.fixture
def scenes() -> ObjectImages:
    return draw_scenes(4, size=SIDE, seed=1)


def same_masks(found: ObjectImages, scenes: ObjectImages) -> bool:
    """Whatever their order on an image."""
    return all(
        {mask.tobytes() for mask in with_masks(here, SIDE, SIDE).masks}
        == {mask.tobytes() for mask in with_masks(there, SIDE, SIDE).masks}
        for here, there in zip(found.objects, scenes.objects, strict=True)
    )


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_numbered(root: Path, scenes: ObjectImages) -> None:
    for number, (pixels, here) in enumerate(zip(scenes.pixels, scenes.objects, strict=True)):
        masks = with_masks(here, SIDE, SIDE).masks
        numbers = (masks * np.arange(1, len(masks) + 1)[:, None, None]).sum(0).astype(np.uint8)
        save(root / "PNGImages" / f"{number}.png", pixels)
        save(root / "PedMasks" / f"{number}_mask.png", numbers)


def write_foldered(root: Path, scenes: ObjectImages) -> None:
    for number, (pixels, here) in enumerate(zip(scenes.pixels, scenes.objects, strict=True)):
        save(root / f"{number}" / "images" / f"{number}.png", pixels)
        for place, mask in enumerate(with_masks(here, SIDE, SIDE).masks):
            save(root / f"{number}" / "masks" / f"{place}.png", mask.astype(np.uint8) * 255)


def test_one_file_with_a_number_per_object(tmp_path: Path, scenes: ObjectImages):
    write_numbered(tmp_path, scenes)
    there = numbered(tmp_path)
    assert there is not None
    found = read_numbered(*there)
    assert found.classes == ("pedestrian",)
    assert found.names[0] == "PNGImages/0.png"
    assert found.outlined
    assert same_masks(found, scenes)
    assert not found.problems


def test_a_folder_with_a_file_per_object(tmp_path: Path, scenes: ObjectImages):
    write_foldered(tmp_path / "stage1_train", scenes)
    there = foldered(tmp_path)
    assert there is not None
    found = read_foldered(there)
    assert found.names[0] == "0/images/0.png"
    assert same_masks(found, scenes)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_numbers_are_read_from_greys_and_palettes_as_they_are(tmp_path: Path, mode: str):
    numbers = np.arange(64, dtype=np.uint16).reshape(8, 8) * (40 if mode == "I;16" else 1)
    picture = Image.fromarray(numbers if mode == "I;16" else numbers.astype(np.uint8))
    if mode == "P":
        picture.putpalette([value for number in range(256) for value in (255 - number, 7, number)])
    picture.save(tmp_path / "m.png")
    assert np.array_equal(read_numbers(tmp_path / "m.png"), numbers)


def test_what_is_wrong_with_a_mask_is_told_of_its_image(tmp_path: Path, scenes: ObjectImages):
    write_numbered(tmp_path, scenes)
    masks = tmp_path / "PedMasks"
    (masks / "0_mask.png").unlink()
    (masks / "1_mask.png").write_bytes((masks / "1_mask.png").read_bytes()[:60])
    save(masks / "2_mask.png", np.zeros((SIDE, SIDE + 1), np.uint8) + 1)
    save(masks / "9_mask.png", np.zeros((SIDE, SIDE), np.uint8))
    found = read_numbered(*numbered(tmp_path))
    problems = {one.path: one.reason for one in found.problems}
    assert problems.keys() == {"PNGImages/0.png", "PNGImages/1.png", "PNGImages/2.png", "PedMasks/9_mask.png"}
    assert "0.png: there is no such file" in problems["PNGImages/0.png"]
    assert "mask 65x64" in problems["PNGImages/2.png"]
    assert "image that is not there" in problems["PedMasks/9_mask.png"]
    assert len(found) == 1


def test_an_empty_mask_and_a_folder_with_two_images_are_told(tmp_path: Path, scenes: ObjectImages):
    write_foldered(tmp_path, scenes)
    save(tmp_path / "0" / "masks" / "9.png", np.zeros((SIDE, SIDE), np.uint8))
    save(tmp_path / "1" / "images" / "9.png", scenes.pixels[0])
    problems = {one.path: one.reason for one in read_foldered(tmp_path).problems}
    assert problems == {
        "0/images/0.png": "its mask 9.png is empty",
        "1": "its images/ has 2 images, it needs one",
    }


def test_colours_are_no_numbers(tmp_path: Path, scenes: ObjectImages):
    save(tmp_path / "m.png", scenes.pixels[0])
    with pytest.raises(ValueError, match=r"m\.png: it has colours \(RGB\)"):
        read_numbers(tmp_path / "m.png")
