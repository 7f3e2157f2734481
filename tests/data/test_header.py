"""The size in a header is that of the decoded image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.decode import BadImage, decode
from residual.data.header import size_of

Draw = Callable[..., Path]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif"])
def test_every_format(tmp_path: Path, draw: Draw, suffix: str):
    assert size_of(draw(tmp_path / f"a.{suffix}", size=(31, 17))) == (17, 31)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_as_the_decoder_turns_it(tmp_path: Path, suffix: str, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(path, exif=exif)
    assert size_of(path) == decode(path.read_bytes()).shape[:2]


def test_what_is_no_image_is_refused(tmp_path: Path, draw: Draw):
    (tmp_path / "a.png").write_bytes(b"no image")
    cut = draw(tmp_path / "b.png")
    cut.write_bytes(cut.read_bytes()[:20])
    for name, reason in (("a.png", "not an image"), ("b.png", "header|not an image"), ("c.png", "no such file")):
        with pytest.raises(BadImage, match=reason):
            size_of(tmp_path / name)
    Image.new("1", (9000, 9000)).save(tmp_path / "d.png")
    with pytest.raises(BadImage, match="40 megapixels"):
        size_of(tmp_path / "d.png")
