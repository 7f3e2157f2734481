"""The size in a header is that of the decoded image."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from residual.data.decode import MAX_STRIP, BadImage, decode
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


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_a_turn_that_xmp_alone_tells_is_seen(tmp_path: Path):
    picture = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    picture.save(tmp_path / "a.png", pnginfo=text)
    picture.save(tmp_path / "a.jpg", xmp=XMP.encode())
    picture.save(tmp_path / "a.webp", xmp=XMP.encode())
    for path in sorted(tmp_path.iterdir()):
        assert size_of(path) == decode(path.read_bytes()).shape[:2] == (20, 10)


@pytest.mark.parametrize("size", [(6500, 25), (25, 6500), (7000, 7000), (10_000, 10_000), (14_000, 14_000)])
def test_sizes_that_the_decoder_refuses_are_refused_alike(tmp_path: Path, size: tuple[int, int]):
    (tmp_path / "a.bmp").write_bytes(bitmap(*size))
    with pytest.raises(BadImage) as decoded:
        decode((tmp_path / "a.bmp").read_bytes(), aspect=MAX_STRIP)
    with pytest.raises(BadImage) as seen:
        size_of(tmp_path / "a.bmp")
    assert str(seen.value) == str(decoded.value)


def bitmap(width: int, height: int) -> bytes:
    """The header of a BMP file, and nothing after it."""
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def test_what_is_no_image_is_refused(tmp_path: Path, draw: Draw):
    (tmp_path / "a.png").write_bytes(b"no image")
    cut = draw(tmp_path / "b.png")
    cut.write_bytes(cut.read_bytes()[:20])
    for name, reason in (("a.png", "not an image"), ("b.png", "header|not an image"), ("c.png", "no such file")):
        with pytest.raises(BadImage, match=reason):
            size_of(tmp_path / name)
    Image.new("1", (9000, 9000)).save(tmp_path / "d.png")
    with pytest.raises(BadImage, match="at most 40"):
        size_of(tmp_path / "d.png")
