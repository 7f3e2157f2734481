"""Bytes of an image file become pixels, by one rule, for training and prediction alike.

Shapes: H x W pixels, C channels (3 for RGB, 1 for L), uint8 (H, W, C).

The rule: JPEG, PNG, WebP, BMP and the first frame of a GIF; turned upright as EXIF says; CMYK and YCCK as
R = (255 - C)(255 - K) / 255; 16-bit grey divided by 256; anything transparent laid on white, as a page would
show it (on black, dark drawings and text would vanish); colour profiles ignored.  What is cut short or
otherwise seen to be damaged is refused with a reason, never filled in; bits that changed inside a JPEG and
still decode cannot be seen.  No torch here: decoding processes start in a blink.
"""

import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

Mode = Literal["RGB", "L"]
Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
MAX_BYTES = 20_000_000
MAX_PIXELS = 40_000_000
MAX_ASPECT = 64  # longer side over shorter; a thin strip resized to a fixed height would fill the memory
MAX_STRIP = 256  # the same for who bounds the longer side too
BACKGROUND = 255  # white
UNLIKELY = 91  # a value that few pixels have

_filters = threading.Lock()  # Python's warning filters belong to the whole process
_STRIP = 1 << 20  # pixels converted at once, so that a 40-megapixel image fits in 512 MB
_EXIF = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where Pillow leaves orientations
_ADAM7 = (  # the passes of an interlaced PNG: left, top, step to the right, step down
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIGNATURES = (  # of what people keep beside images and we do not read
    (4, b"ftypheic", "a HEIC photograph"),
    (4, b"ftypheix", "a HEIC photograph"),
    (4, b"ftypmif1", "a HEIF photograph"),
    (4, b"ftypavif", "an AVIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (0, b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML file"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


class BadImage(ValueError):
    """An image that is not used, and why, in one plain sentence."""


@dataclass(frozen=True, kw_only=True)
class View:
    """How a decoded image is handed on.

    size, resize: shorter side to `resize`, then the central size x size square; None leaves the image whole.
    keep: square images of at most this side are handed on as they are, whatever `size` says.
    strips: longer side over shorter up to MAX_STRIP, for whoever bounds the longer side.
    """

    mode: Mode = "RGB"
    size: int | None = None
    resize: int | None = None
    keep: int = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    strips: bool = False


def decode(data: bytes, *, mode: Mode = "RGB", aspect: int = MAX_ASPECT) -> Pixels:
    """The pixels of one image file: (H, W, C) uint8.

    Refuses, with BadImage: other formats, more than 20 MB or 40 megapixels, sides of more than `aspect` to 1,
    and whatever is truncated or damaged.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set in this process, so damaged images would be filled "
            "with grey; set it to False before reading images"
        )
    if not data:
        raise BadImage("the file is empty")
    if len(data) > MAX_BYTES:
        raise BadImage(f"{len(data) / 1e6:.1f} MB; an image file has at most {MAX_BYTES / 1e6:.0f} MB")
    try:
        with quietly():
            image = Image.open(BytesIO(data), formats=FORMATS)
        with image:
            check_size(image.size, aspect)
            if image.format == "PNG":
                _check_png(data)
                _load_png(image, data)
            else:
                image.load()
            return _strips(_upright(image), mode)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(_what_instead(data)) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except MemoryError:
        raise BadImage("decoding it takes more memory than one image may (512 MB)") from None
    except Exception as error:  # a decoder may raise anything on damaged bytes
        text = str(error).strip() or type(error).__name__
        if "truncated" in text.lower():
            raise BadImage(f"the file is cut short ({text})") from None
        raise BadImage(f"damaged ({text})") from None


def fit(pixels: Pixels, view: View) -> Pixels:
    """Resize and cut one decoded image as `view` says: (H, W, C) -> (size, size, C)."""
    height, width, channels = pixels.shape
    if view.size is None or (height == width and height <= view.keep):
        return pixels
    size = view.size
    if view.resize is None:
        new_height = new_width = size
    else:
        shorter = min(height, width)
        new_height, new_width = (max(size, round(side * view.resize / shorter)) for side in (height, width))
    if (new_height, new_width) != (height, width):
        resample = Image.Resampling[view.interpolation.upper()]
        picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
        resized = picture.resize((new_width, new_height), resample)
        pixels = np.asarray(resized, dtype=np.uint8).reshape(new_height, new_width, channels)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def read(path: bytes | str, *, stamp: tuple[int, int] | None = None, span: tuple[int, int] | None = None) -> bytes:
    """The bytes of one image file.  Never waits on a fifo and never opens a device.

    stamp: (bytes, modification time in ns) that the file must still have.
    span: (offset, bytes) of the image, where the file holds many.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise BadImage(f"cannot be opened ({error.strerror})") from None
    except ValueError as error:  # a zero byte in the name
        raise BadImage(f"cannot be opened ({error})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        if stamp is not None and stamp != (status.st_size, status.st_mtime_ns):
            raise BadImage("the file has changed since it was first read")
        size = status.st_size if span is None else span[1]
        if size > MAX_BYTES:
            raise BadImage(f"{size / 1e6:.1f} MB; an image file has at most {MAX_BYTES / 1e6:.0f} MB")
        if span is not None:
            data = os.pread(descriptor, span[1], span[0])
            if len(data) < span[1]:
                raise BadImage("the file it lies in is cut short")
            return data
        parts = []
        while part := os.read(descriptor, MAX_BYTES):
            parts.append(part)
            if sum(map(len, parts)) > MAX_BYTES:  # it grows while it is read
                raise BadImage("the file has changed since it was first read")
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)


def sniff(start: bytes) -> bool:
    """Whether a file that starts so is of a format that we read."""
    return (
        start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"))
        or start[:4] + start[8:12] == b"RIFFWEBP"
    )


def foreign(start: bytes) -> str | None:
    """What a file that starts so is, of what people keep beside images and we do not read; None: nobody knows."""
    for offset, signature, name in _SIGNATURES:
        if start[offset : offset + len(signature)].lower() == signature.lower():
            return f"{name}; images are read from JPEG, PNG, WebP, BMP and GIF files"
    return None


def check_size(size: tuple[int, int], aspect: int = MAX_ASPECT) -> None:
    """Refuse a width and height that no image here has: the limits that `decode` names."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"{width} x {height} is {width * height / 1e6:.0f} megapixels; "
            f"an image has at most {MAX_PIXELS // 1_000_000}"
        )
    if min(size) < 1:
        raise BadImage(f"{width} x {height} pixels: it has no area")
    if max(size) > aspect * min(size):
        raise BadImage(f"{width} x {height} pixels: one side is more than {aspect} times the other")


def _check_png(data: bytes) -> None:
    """Refuse a PNG whose checksums do not hold; Pillow skips those of the pixels."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            raise BadImage("the file is cut short (a PNG chunk runs past its end)")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT"):
            (stated,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(memoryview(data)[position + 4 : end]) != stated:
                raise BadImage(f"damaged (the checksum of PNG chunk {kind.decode()} does not hold)")
        if kind == b"IEND":
            return
        position = end + 4
    raise BadImage("the file is cut short (a PNG without its end)")


@contextmanager
def quietly() -> Iterator[None]:
    """Pillow's warnings are silenced, except those of decompression bombs, which become errors."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _load_png(image: Image.Image, data: bytes) -> None:
    """Decode onto a page of one colour, on which missing rows show; counting them takes as long as decoding does."""
    corner = (image.width - 1, image.height - 1)
    bands = len(image.getbands())
    page = Image.new(image.mode, image.size, UNLIKELY if bands == 1 else (UNLIKELY,) * bands)
    unwritten = page.getpixel(corner)
    image.im = page.im
    image.load()
    if image.im is not page.im or image.getpixel(corner) == unwritten or image.info.get("interlace"):
        _check_rows(data)


def _check_rows(data: bytes) -> None:
    """Refuse a PNG whose compressed pixels end early; Pillow leaves the missing rows as they were."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * channels * depth // 8))
    inflate, found, position = zlib.decompressobj(), 0, 8
    while position + 12 <= len(data) and found < expected and not inflate.eof:
        (length,) = struct.unpack_from(">I", data, position)
        if data[position + 4 : position + 8] == b"IDAT":
            rest = data[position + 8 : position + 8 + length]
            while rest and found < expected and not inflate.eof:
                found += len(inflate.decompress(rest, _STRIP))
                rest = inflate.unconsumed_tail
        position += 12 + length
    found += len(inflate.flush()) if found < expected else 0
    if found < expected:
        raise BadImage("the file is cut short (a PNG with fewer rows than it says)")


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright, by its EXIF or XMP; None where nothing needs to."""
    if not any(place in image.info for place in _EXIF):
        return None
    try:
        with quietly():
            orientation = image.getexif().get(0x0112, 1)
    except Exception:  # EXIF that cannot be read turns nothing
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _upright(image: Image.Image) -> Image.Image:
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def _strips(image: Image.Image, mode: Mode) -> Pixels:
    """Convert a loaded image, a strip of rows at a time: (H, W, C) uint8."""
    width, height = image.size
    channels = 3 if mode == "RGB" else 1
    rows = max(1, _STRIP // width)
    if rows >= height:
        return _convert(image, mode).reshape(height, width, channels)
    out = np.empty((height, width, channels), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = image.crop((0, top, width, bottom))
        strip.info = image.info
        out[top:bottom] = _convert(strip, mode).reshape(bottom - top, width, channels)
    return out


def _convert(image: Image.Image, mode: Mode) -> Pixels:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey; Pillow's convert would clip it to 255
        values = np.asarray(image).astype(np.int64)
        grey = np.clip(values >> 8, 0, 255).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = BACKGROUND
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", image.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
        image = Image.alpha_composite(page, layer)
    if image.mode != mode:
        image = image.convert(mode)
    return np.asarray(image, dtype=np.uint8)


def _what_instead(data: bytes) -> str:
    if (known := foreign(data)) is not None:
        return known
    if sniff(data):
        return "damaged (its header cannot be read)"
    return "not an image (JPEG, PNG, WebP, BMP and GIF are read)"
