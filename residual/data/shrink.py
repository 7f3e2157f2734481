"""How an image file is made smaller before it is packed.  No torch: this runs in decoding processes.

Shapes: W x H pixels of an image.
"""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from residual.data.decode import decode


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """shorter: side, pixels, to which a longer shorter side is brought; None keeps every file as it is.

    quality: of the JPEG that it becomes, 1 to 95.
    """

    shorter: int | None
    quality: int = 90

    def __post_init__(self) -> None:
        if self.shorter is not None and self.shorter < 8:
            raise ValueError(f"a shorter side of {self.shorter} pixels leaves nothing to see; give 8 or more")
        if not 1 <= self.quality <= 95:
            raise ValueError(f"JPEG qualities go from 1 to 95, and {self.quality} does not")


def shrunk(data: bytes, shrink: Shrink) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes to pack of an image file, the suffix that tells their format, and the image's width and height.

    An image that is small enough already keeps its bytes.  Refuses (BadImage) what decode.decode refuses.
    """
    pixels = decode(data)
    height, width = pixels.shape[:2]
    if shrink.shorter is None or min(width, height) <= shrink.shorter:
        return data, _suffix(data), (width, height)
    scale = shrink.shorter / min(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    out = BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(out, "JPEG", quality=shrink.quality)
    return out.getvalue(), "jpg", size


def _suffix(data: bytes) -> str:
    starts = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif", b"BM": "bmp", b"RI": "webp"}
    return starts[data[:2]]
