"""D2: forty files whose pixels are known, each decoded as the stated rule says, for training as for prediction.

Lossless files must agree exactly, JPEG within 2 of 255.  What is expected is computed here from the pixels
that went in, by the rule and not by the decoder.
"""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.decode import View, decode
from residual.data.loader import File, Pool
from residual.data.transforms import Preprocessing, prepare

H, W = 48, 64


def mosaic(seed: int = 0, channels: int = 3) -> np.ndarray:
    """Squares of 8 x 8 pixels, each of one colour: what JPEG at full quality loses is rounding alone."""
    colours = np.random.default_rng(seed).integers(0, 256, (H // 8, W // 8, channels), np.uint8)
    return colours.repeat(8, 0).repeat(8, 1)


def grey3(plane: np.ndarray) -> np.ndarray:
    return np.repeat(plane[..., None], 3, axis=2)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None].astype(np.float64) / 255
    return colour * share + 255 * (1 - share)


def without_ink(ink: np.ndarray) -> np.ndarray:
    """R = (255 - C)(255 - K) / 255."""
    ink = ink.astype(np.float64)
    return (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(pixels: bytes, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = len(pixels) // H
    lines = b"".join(b"\0" + pixels[line * row : (line + 1) * row] for line in range(H))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", W, H, depth, colour, 0, 0, 0)), *chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in [*parts, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    )


def ycck(ink: np.ndarray) -> bytes:
    """A JPEG whose inks went through YCbCr: Pillow writes no such file, so its marker is set by hand."""
    stored = np.asarray(Image.fromarray(ink[..., :3]).convert("YCbCr"))
    planes = np.concatenate([255 - stored, ink[..., 3:]], -1)  # Pillow inverts CMYK as it writes it
    data = bytearray(encode(Image.fromarray(np.ascontiguousarray(planes), "CMYK"), "JPEG", quality=100))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data[marker + 11] = 2
    return bytes(data)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """How a file must hold `pixels` so that EXIF's orientation shows them upright."""
    flipped = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.transpose(1, 0, 2), 6: np.rot90(pixels), 7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    return np.ascontiguousarray(flipped)


def golden() -> dict[str, tuple[bytes, np.ndarray, float]]:
    """name -> (file, expected RGB, tolerance)."""
    rgb, ink, alpha = mosaic(0), mosaic(1, 4), mosaic(2, 1)[..., 0]
    plane = mosaic(3, 1)[..., 0]
    files: dict[str, tuple[bytes, np.ndarray, float]] = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = Image.fromarray(turned(rgb, orientation))
        files[f"exif {orientation} png"] = encode(image, "PNG", exif=exif), rgb, 0
        jpeg = encode(image, "JPEG", exif=exif, quality=100, subsampling=0)
        files[f"exif {orientation} jpeg"] = jpeg, rgb, 2
    inks = Image.fromarray(ink, "CMYK")
    files["cmyk"] = encode(inks, "JPEG", quality=100), without_ink(ink), 2
    files["cmyk progressive"] = encode(inks, "JPEG", quality=100, progressive=True), without_ink(ink), 2
    within = (64 + mosaic(11) // 2) * [1, 0, 0] + (112 + mosaic(12) // 8) * [0, 1, 1]
    held = Image.fromarray(within.astype(np.uint8), "YCbCr").convert("RGB")  # inks that YCbCr can hold
    ink = np.concatenate([np.asarray(held), ink[..., 3:]], -1)
    files["ycck"] = ycck(ink), without_ink(ink), 2
    black = np.zeros_like(ink)
    black[..., 3] = plane
    files["black ink only"] = encode(Image.fromarray(black, "CMYK"), "JPEG", quality=100), grey3(255 - plane), 2

    ramp = np.linspace(0, 65535, H * W).round().astype(np.uint16).reshape(H, W)
    files["16-bit ramp"] = png(ramp.astype(">u2").tobytes(), 16, 0), grey3(ramp >> 8), 0
    deep = np.random.default_rng(4).integers(0, 65536, (H, W), np.uint16)
    files["16-bit noise"] = png(deep.astype(">u2").tobytes(), 16, 0), grey3(deep >> 8), 0
    clear = (b"tRNS", struct.pack(">H", int(deep[5, 5])))
    shown = np.where(deep == deep[5, 5], 255, deep >> 8)
    files["16-bit with a clear level"] = png(deep.astype(">u2").tobytes(), 16, 0, clear), grey3(shown), 0
    wide = np.random.default_rng(5).integers(0, 65536, (H, W, 3), np.uint16)
    files["16-bit colour"] = png(wide.astype(">u2").tobytes(), 16, 2), wide >> 8, 0
    both = np.stack([deep, np.full_like(deep, 65535)], -1)
    files["16-bit grey with alpha"] = png(both.astype(">u2").tobytes(), 16, 4), grey3(deep >> 8), 0

    palette = np.random.default_rng(6).integers(0, 256, (256, 3), np.uint8)
    index = np.random.default_rng(7).integers(0, 256, (H, W), np.uint8)
    plte, opacity = (b"PLTE", palette.tobytes()), np.arange(256, dtype=np.uint8)[::-1]
    files["palette"] = png(index.tobytes(), 8, 3, plte), palette[index], 0
    several = png(index.tobytes(), 8, 3, plte, (b"tRNS", opacity.tobytes()))
    files["palette with alpha"] = several, on_white(palette[index], opacity[index]), 0
    one = png(index.tobytes(), 8, 3, plte, (b"tRNS", b"\xff" * 9 + b"\0"))
    files["palette with a clear colour"] = one, np.where(index[..., None] == 9, 255, palette[index]), 0
    nibbles = index % 16
    packed = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).astype(np.uint8)
    files["palette of 4 bits"] = png(packed.tobytes(), 4, 3, (b"PLTE", palette[:16].tobytes())), palette[nibbles], 0

    both = np.stack([plane, alpha], -1)
    files["grey with alpha"] = png(both.tobytes(), 8, 4), on_white(grey3(plane), alpha), 0
    layers = np.concatenate([rgb, alpha[..., None]], -1)
    files["colour with alpha"] = png(layers.tobytes(), 8, 6), on_white(rgb, alpha), 0
    lossless = encode(Image.fromarray(layers), "WEBP", lossless=True, exact=True)
    files["webp with alpha"] = lossless, on_white(rgb, alpha), 0
    key = (b"tRNS", struct.pack(">HHH", *rgb[3, 3].tolist()))
    files["colour with a clear colour"] = (
        png(rgb.tobytes(), 8, 2, key), np.where((rgb == rgb[3, 3]).all(-1, keepdims=True), 255, rgb), 0,
    )  # fmt: skip
    bits = index > 127
    files["1-bit png"] = png(np.packbits(bits, axis=1).tobytes(), 1, 0), grey3(bits * 255), 0
    files["1-bit bmp"] = encode(Image.fromarray(bits), "BMP"), grey3(bits * 255), 0
    files["grey jpeg"] = encode(Image.fromarray(plane), "JPEG", quality=100), grey3(plane), 2

    frames = [Image.fromarray(mosaic(seed)) for seed in (8, 9, 10)]
    rest = {"save_all": True, "append_images": frames[1:], "duration": 50}
    first = np.asarray(frames[0])
    files["animated webp"] = encode(frames[0], "WEBP", lossless=True, **rest), first, 0
    files["animated png"] = encode(frames[0], "PNG", **rest), first, 0
    stills = [frame.quantize(64) for frame in frames]
    moving = encode(stills[0], "GIF", save_all=True, append_images=stills[1:], duration=50)
    files["animated gif"] = moving, np.asarray(stills[0].convert("RGB")), 0
    holed = Image.fromarray(index % 32, "P")
    holed.putpalette(palette[:32].tobytes())
    see_through = np.where((index % 32 == 5)[..., None], 255, palette[index % 32])
    files["gif with a clear colour"] = encode(holed, "GIF", transparency=5), see_through, 0
    return files


def test_forty_golden_files_have_the_pixels_that_the_rule_says(tmp_path: Path, row):
    files = golden()
    assert len(files) == 40
    worst_lossless = worst_lossy = 0.0
    wrong, unequal = [], []
    listed = []
    for number, (name, (data, expected, tolerance)) in enumerate(files.items()):
        pixels = decode(data)
        expected = np.floor(np.asarray(expected, np.float64) + 0.5)
        difference = float(np.abs(pixels - expected).max()) if pixels.shape == expected.shape else np.inf
        if "jpeg" in name or "cmyk" in name or "ycck" in name or "ink" in name:
            worst_lossy = max(worst_lossy, difference)
        else:
            worst_lossless = max(worst_lossless, difference)
        if difference > tolerance:
            wrong.append((name, difference))
        path = tmp_path / f"{number}.bin"
        path.write_bytes(data)
        listed.append(File(name=name, path=os.fsencode(path)))
    levels = len(np.unique(decode(files["16-bit ramp"][0])))
    with Pool(workers=1) as pool:
        for result, (name, (data, _, _)) in zip(
            pool.decode(listed, View(size=37, resize=37)), files.items(), strict=True
        ):
            served = prepare(decode(data), Preprocessing(size=37, resize=37))
            if not np.array_equal(result.pixels, served):
                unequal.append(name)
    row(
        "D2",
        "pixel truth",
        f"{len(files) - len(wrong)}/40 as stated (worst: lossless {worst_lossless:.1f}, JPEG {worst_lossy:.1f} of "
        f"255), ramp keeps {levels} levels, training and serving byte-equal {40 - len(unequal)}/40"
        + (f"; wrong {wrong}, unequal {unequal}" if wrong or unequal else ""),
        not wrong and not unequal and levels == 256,
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision gives its decoders up
@pytest.mark.parametrize("name", ["cmyk", "ycck"])
def test_another_decoder_agrees_about_inks(name):
    torchvision = pytest.importorskip("torchvision.io")
    torch = pytest.importorskip("torch")

    data = golden()[name][0]
    theirs = torchvision.decode_jpeg(
        torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=torchvision.ImageReadMode.RGB
    )
    assert np.abs(theirs.permute(1, 2, 0).numpy().astype(int) - decode(data)).max() <= 2
