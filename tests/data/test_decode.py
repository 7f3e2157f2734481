import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from residual.data.decode import MAX_STRIP, UNLIKELY, BadImage, View, decode, fit, read
from residual.data.transforms import Preprocessing, prepare


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_lossless_formats_give_the_pixels_back(format):
    pixels = noise(13, 21)
    assert (decode(encoded(Image.fromarray(pixels), format, lossless=True)) == pixels).all()


def test_jpeg_gives_what_pillow_gives():
    data = encoded(Image.fromarray(noise(40, 24)), "JPEG")
    assert (decode(data) == np.asarray(Image.open(BytesIO(data)))).all()


def test_grey_is_one_channel_when_asked_and_three_equal_ones_otherwise():
    data = encoded(Image.fromarray(noise(8, 8)[..., 0]))
    grey, colour = decode(data, mode="L"), decode(data)
    assert grey.shape == (8, 8, 1)
    assert (colour == grey).all()


def test_a_16_bit_ramp_keeps_256_levels():
    ramp = (np.arange(65536, dtype=np.uint16)).reshape(256, 256)
    grey = decode(encoded(Image.fromarray(ramp)), mode="L")[..., 0]
    assert (grey == ramp >> 8).all()
    assert len(np.unique(grey)) == 256


def test_transparent_pixels_are_laid_on_white():
    layers = np.zeros((4, 4, 4), np.uint8)
    layers[:2, :, 3] = 255
    pixels = decode(encoded(Image.fromarray(layers)))
    assert (pixels[:2] == 0).all()
    assert (pixels[2:] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation):
    shown = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    rows_of_file = {  # where EXIF says that row 0 and column 0 of the file are shown
        1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.T, 6: np.rot90(shown),
        7: shown[::-1, ::-1].T, 8: np.rot90(shown, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(rows_of_file[orientation])), exif=exif)
    assert (decode(data, mode="L")[..., 0] == shown).all()


def test_exif_that_cannot_be_read_turns_nothing():
    pixels = noise(5, 7)
    data = encoded(Image.fromarray(pixels), exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\xff\xff" * 3)
    assert (decode(data) == pixels).all()


def test_large_pictures_are_converted_in_strips_without_a_seam():
    pixels = noise(1100, 1200)
    assert (decode(encoded(Image.fromarray(pixels), "BMP")) == pixels).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_a_file_cut_short_is_refused_never_filled_in(format):
    data = encoded(Image.fromarray(noise(32, 32)), format)
    for length in (len(data) // 4, len(data) // 2, len(data) * 3 // 4):
        with pytest.raises(BadImage):
            decode(data[:length])


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_with_too_few_rows_is_refused_and_one_that_ends_black_is_not(interlaced):
    for depth, height in ((1, 9), (8, 40)):
        row = bytes(1 + -(-30 * depth // 8))
        passes = [row] * height
        if interlaced:  # (columns, rows) of each pass of a 30-pixel wide image
            counts = {9: [(4, 2), (4, 2), (8, 1), (8, 3), (15, 2), (15, 5), (30, 4)],
                      40: [(4, 5), (4, 5), (8, 5), (8, 10), (15, 10), (15, 20), (30, 20)]}[height]  # fmt: skip
            passes = [bytes(1 + -(-columns * depth // 8)) for columns, rows in counts for _ in range(rows)]
        whole = png(30, height, depth=depth, data=b"".join(passes), interlaced=interlaced)
        assert (decode(whole) == 0).all()
        with pytest.raises(BadImage, match="cut short"):
            decode(png(30, height, depth=depth, data=b"".join(passes[:-1]), interlaced=interlaced))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB", "RGBA"])
@pytest.mark.parametrize("value", [0, UNLIKELY, 255])
def test_a_png_of_one_colour_is_read_and_refused_without_its_last_row(mode, value):
    bands = len(Image.new(mode, (1, 1)).getbands())
    data = encoded(Image.new(mode, (9, 7), value if bands == 1 else (value,) * bands))
    assert len(np.unique(decode(data))) == 1
    start = data.index(b"IDAT")
    end = start + 4 + struct.unpack(">I", data[start - 4 : start])[0]
    rows = zlib.decompress(data[start + 4 : end])
    chunk = b"IDAT" + zlib.compress(rows[: len(rows) * 6 // 7])
    short = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(BadImage, match="fewer rows than it says"):
        decode(data[: start - 4] + short + data[end + 4 :])


def test_one_changed_bit_in_the_pixels_of_a_png_is_found():
    data = bytearray(encoded(Image.fromarray(noise(32, 32))))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadImage, match="checksum"):
        decode(bytes(data))


def png(width: int, height: int, *, depth: int = 1, data: bytes = b"", interlaced: int = 0) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (b"<html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0", "HEIC"),
        (b"II*\0" + bytes(100), "TIFF"),
        (png(7000, 7000), "49 megapixels"),
        (png(10_000, 10_000), "megapixels"),
        (png(100_000, 100_000), "megapixels"),
        (png(6500, 100, data=bytes(100 * 814)), "64 times"),
        (bytes(20_000_001), "20 MB"),
    ],
)
def test_what_is_refused_says_why_in_a_sentence(data, reason):
    with pytest.raises(BadImage, match=reason) as refusal:
        decode(data)
    assert "0x" not in str(refusal.value)


def test_a_panorama_is_whole_for_whoever_bounds_its_longer_side():
    strip = np.zeros((50, 10_000, 3), np.uint8)
    data = encoded(Image.fromarray(strip))
    assert decode(data, aspect=MAX_STRIP).shape == strip.shape
    with pytest.raises(BadImage, match="64 times"):
        decode(data)


def test_formats_outside_the_list_are_not_even_tried():
    with pytest.raises(BadImage, match="JPEG, PNG, WebP, BMP and GIF"):
        decode(encoded(Image.fromarray(noise(8, 8)), "PPM"))


def test_a_process_that_fills_in_truncated_images_is_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode(encoded(Image.fromarray(noise(8, 8))))


@pytest.mark.parametrize("height, width", [(300, 400), (401, 299), (1000, 131), (60, 60), (146, 146)])
@pytest.mark.parametrize("size, resize", [(146, 146), (128, 146), (32, None)])
def test_fit_gives_the_bytes_that_prepare_gives(height, width, size, resize):
    pixels = noise(height, width)
    wanted = prepare(pixels, Preprocessing(size=size, resize=resize))
    if resize == 146 and size == 128:  # kept at 146, then cut, as training does
        kept = fit(pixels, View(size=146, resize=146))
        assert (prepare(kept, Preprocessing(size=size, resize=resize)) == wanted).all()
    else:
        assert (fit(pixels, View(size=size, resize=resize)) == wanted).all()


def test_small_squares_are_kept_when_asked():
    pixels = noise(32, 32)
    assert fit(pixels, View(size=146, resize=146, keep=64)) is pixels
    assert fit(noise(32, 31), View(size=146, resize=146, keep=64)).shape == (146, 146, 3)


def test_read_refuses_a_file_that_changed(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(b"12345")
    status = file.stat()
    stamp = (status.st_size, status.st_mtime_ns)
    assert read(str(file), stamp=stamp) == b"12345"
    file.write_bytes(b"123456")
    with pytest.raises(BadImage, match="changed"):
        read(str(file), stamp=stamp)
    with pytest.raises(BadImage, match="No such file"):
        read(str(tmp_path / "b.png"))
    with pytest.raises(BadImage, match="not a regular file"):
        read(str(tmp_path))
