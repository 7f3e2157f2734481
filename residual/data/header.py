"""The size of an image file, from its first bytes."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from residual.data.decode import FORMATS, MAX_PIXELS, BadImage
from residual.data.objects import is_file

ORIENTATION = 0x0112  # the number of an EXIF entry
TURNED = (5, 6, 7, 8)  # orientations that lay an image on its side


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, as `decode` will turn it.  Refuses what is no image, with BadImage."""
    if not is_file(path):
        raise BadImage("there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                turned = "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED
    except UnidentifiedImageError:
        raise BadImage("not an image (JPEG, PNG, WebP, BMP and GIF are read)") from None
    except Exception as error:  # a header may make a decoder raise anything
        raise BadImage(f"its header cannot be read ({str(error).strip() or type(error).__name__})") from None
    if not 0 < width * height <= MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels; an image has at most {MAX_PIXELS // 1_000_000} megapixels")
    return (width, height) if turned else (height, width)
