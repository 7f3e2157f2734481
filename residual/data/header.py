"""The size of an image file, from its first bytes."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from residual.data.decode import FORMATS, MAX_PIXELS, MAX_STRIP, BadImage, check_size, quietly, turn_of
from residual.data.objects import is_file

ASIDE = (  # what lays an image on its side
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def size_of(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, as `decode` will turn it.

    Refuses, with BadImage, what is no image, and sizes that `decode` refuses.
    """
    if not is_file(path):
        raise BadImage("there is no such file")
    try:
        with quietly():
            image = Image.open(path, formats=FORMATS)
        with image:
            check_size(image.size, MAX_STRIP)  # objects alone are looked for on images whose header is read first
            turned = turn_of(image) in ASIDE
            width, height = image.size
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image (JPEG, PNG, WebP, BMP and GIF are read)") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadImage(f"more than {MAX_PIXELS // 1_000_000} megapixels") from None
    except Exception as error:  # a header may make a decoder raise anything
        raise BadImage(f"its header cannot be read ({str(error).strip() or type(error).__name__})") from None
    return (width, height) if turned else (height, width)
