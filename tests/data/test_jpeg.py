import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from residual.data import jpeg

pytestmark = pytest.mark.skipif(not jpeg.available(), reason="this Pillow brings no libjpeg-turbo that can be called")


def picture(width: int = 150, height: int = 100, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("box", [(0, 0, 150, 100), (37, 21, 90, 80), (149, 99, 150, 100), (0, 60, 150, 61)])
def test_a_part_is_what_pillow_decodes_there(box, subsampling, progressive):
    data = encoded(picture(), subsampling=subsampling, progressive=progressive, quality=90)
    head = jpeg.header(data)
    assert (head.width, head.height, head.components) == (150, 100, 3)
    left, top, right, bottom = box
    ours = jpeg.cut(data, head, box, mode="RGB").astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(data)))[top:bottom, left:right].astype(int)
    assert ours.shape == theirs.shape
    if subsampling == 0:
        assert (ours == theirs).all()
    else:  # at the edges of a part the colours of its neighbours are not known
        inner = np.abs(ours - theirs)[:, 2:-2] if right - left > 4 else ours - ours
        assert inner.max(initial=0) == 0
        assert np.abs(ours - theirs).mean() < 4


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_part_is_the_part_of_pillows_reduced_image(reduction):
    data = encoded(picture(320, 240), subsampling=0, quality=90)
    theirs = Image.open(io.BytesIO(data))
    theirs.draft("RGB", (320 // reduction, 240 // reduction))
    whole = np.asarray(theirs)
    ours = jpeg.cut(data, jpeg.header(data), (64, 32, 256, 200), reduction=reduction, mode="RGB")
    assert (ours == whole[32 // reduction : 200 // reduction, 64 // reduction : 256 // reduction]).all()


def test_grey_files_and_grey_views_are_decoded():
    grey, colour = encoded(picture().convert("L")), encoded(picture(), subsampling=0)
    box = (10, 10, 60, 50)
    assert (jpeg.cut(grey, jpeg.header(grey), box, mode="RGB").std(2) == 0).all()
    ours = jpeg.cut(colour, jpeg.header(colour), box, mode="L")[..., 0].astype(int)
    theirs = np.asarray(Image.open(io.BytesIO(colour)).convert("L"))[10:50, 10:60].astype(int)
    assert np.abs(ours - theirs).mean() < 0.5  # the luma that was stored, not that of rounded and clipped colours


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), exif=exif)


def upright() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 1
    return encoded(picture(), exif=exif)


def test_an_upright_file_with_exif_is_an_ordinary_one():
    assert jpeg.header(upright()) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe0\x00",
        encoded(picture())[:100],
        encoded(picture().convert("CMYK")),
        turned(),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        encoded(picture()).replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),  # 12 bits
        encoded(picture()).replace(b"\xff\xc0", b"\xff\xc9"),  # arithmetic coding
        encoded(Image.new("RGB", (70, 1))),
    ],
    ids=["empty", "start", "torn", "cut", "cmyk", "turned", "png", "12 bit", "arithmetic", "strip"],
)
def test_what_is_no_ordinary_jpeg_is_left_to_the_reference(data):
    assert jpeg.header(data) is None


def test_irregular_data_gives_nothing_and_the_next_file_is_not_touched_by_it():
    good = encoded(picture(), quality=90)
    head = jpeg.header(good)
    assert jpeg.cut(good[: len(good) // 2], head, (0, 0, 150, 100), mode="RGB") is None
    assert jpeg.cut(good, head, (0, 0, 150, 100), mode="RGB").shape == (100, 150, 3)
    other = encoded(picture(80, 60))
    assert jpeg.cut(other, head, (0, 0, 80, 60), mode="RGB") is None  # a header of another file


def test_no_file_is_decoded_with_the_tables_of_the_one_before():
    program = (
        "import sys; from residual.data import jpeg; good, bad = sys.stdin.buffer.read().split(b'|||');"
        "head = jpeg.header(good); jpeg.cut(good, head, (0, 0, 9, 9), mode='RGB'); print('good', flush=True);"
        "jpeg.cut(bad, head, (0, 0, 9, 9), mode='RGB'); print('bad')"
    )
    good = encoded(picture())
    data = good + b"|||" + good.replace(b"\xff\xdb", b"\xff\xe5")
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (jpeg.GAVE_UP, b"good\n")


def test_what_libjpeg_calls_fatal_ends_its_process_with_the_code_that_is_foreseen():
    program = (
        "import sys; from residual.data import jpeg; data = sys.stdin.buffer.read();"
        "jpeg.cut(data, jpeg.Header(150, 100, 3), (0, 0, 150, 100), mode='RGB')"
    )
    data = encoded(picture()).replace(b"\xff\xdb", b"\xff\xe5")  # no quantisation table
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (jpeg.GAVE_UP, b"")
