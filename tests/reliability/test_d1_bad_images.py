"""D1: damaged images are decoded or named with a reason; nothing dies, hangs, or takes another's place.

4,008 files: 24 classes of damage x 10, 12 kinds of image x 64 truncations, 3,000 mutations of bytes.
"""

import os
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.data.assemble import Entry, Listing, assemble
from residual.data.crop import Crop, crop_file
from residual.data.decode import BadImage, View, decode, fit
from residual.data.loader import File, Pool

SIDE = 48
KEEP = View(size=146, resize=146, keep=64)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(seed: int, side: int = SIDE) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def kinds(seed: int) -> dict[str, bytes]:
    """Twelve sound files."""
    image = photo(seed)
    deep = (np.asarray(image)[..., 0].astype(np.uint16) << 8) + 7
    return {
        "jpeg": encode(image, "JPEG"),
        "progressive": encode(image, "JPEG", progressive=True),
        "grey jpeg": encode(image.convert("L"), "JPEG"),
        "cmyk": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(image, "PNG"),
        "palette": encode(image.quantize(64), "PNG"),
        "16-bit": encode(Image.fromarray(deep), "PNG"),
        "alpha": encode(image.convert("RGBA"), "PNG"),
        "webp": encode(image, "WEBP"),
        "lossless webp": encode(image, "WEBP", lossless=True),
        "gif": encode(image.quantize(64), "GIF"),
        "bmp": encode(image, "BMP"),
    }


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def jpeg_with_size(seed: int, width: int, height: int) -> bytes:
    data = bytearray(encode(photo(seed), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def after(data: bytes, marker: bytes, offset: int, new: bytes) -> bytes:
    place = data.index(marker) + offset
    return data[:place] + new + data[place + len(new) :]


def exif_loop(seed: int) -> bytes:
    # A directory whose next directory is itself, with an orientation of an absurd type and count.
    entry = struct.pack("<HHII", 0x0112, 12, 0xFFFFFFF0 - seed, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 8)
    return encode(photo(seed), "JPEG", exif=exif)


def damaged() -> dict[str, Callable[[int], bytes]]:
    """24 classes; those in capitals may still be decoded, all others are refused."""
    noise = lambda n: np.random.default_rng(n).bytes(2000 + n)  # noqa: E731
    jpeg = lambda n: encode(photo(n), "JPEG")  # noqa: E731
    return {
        "empty": lambda n: b"",
        "few bytes": lambda n: jpeg(n)[: n + 1],
        "text": lambda n: b"not an image\n" * (n + 1),
        "web page": lambda n: b"<!DOCTYPE html><html>404" + bytes(n),
        "zeros": lambda n: bytes(100 * n + 1),
        "noise": noise,
        "noise behind a jpeg's start": lambda n: b"\xff\xd8\xff\xe0" + noise(n),
        "noise behind a png's start": lambda n: b"\x89PNG\r\n\x1a\n" + noise(n),
        "noise behind a webp's start": lambda n: b"RIFF" + struct.pack("<I", 2000) + b"WEBPVP8 " + noise(n),
        "jpeg of 65,500 squared": lambda n: jpeg_with_size(n, 65_500, 65_500 - n),
        "jpeg without area": lambda n: jpeg_with_size(n, 0, n),
        "JPEG WITH BROKEN HUFFMAN TABLE": lambda n: after(jpeg(n), b"\xff\xc4", 5 + n, b"\xff\xff\xff"),
        "jpeg without scan": lambda n: jpeg(n)[: jpeg(n).index(b"\xff\xda")] + b"\xff\xd9",
        "png with a wrong checksum": lambda n: after(encode(photo(n), "PNG"), b"IDAT", 40 + n, b"\x5a\xa5\x3c"),
        "png of 100,000 squared": lambda n: png(100_000, 100_000 - n, chunk(b"IDAT", b"")),
        "png bomb, 400 megapixels": lambda n: png(
            20_000, 20_000 + n, chunk(b"IDAT", zlib.compress(bytes(2501 * 200), 9)), depth=1
        ),
        "png without pixels": lambda n: png(8 + n, 8),
        "png of garbage": lambda n: png(8 + n, 8, chunk(b"IDAT", noise(n))),
        "png with too few rows": lambda n: png(64, 64, chunk(b"IDAT", zlib.compress(bytes(65 * (n + 1))))),
        "PNG WITH A TEXT BOMB": lambda n: png(
            8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000), 9)),
            chunk(b"IDAT", zlib.compress(bytes(9 * 8))),
        ),
        "gif of 65,535 squared": lambda n: b"GIF89a\xff\xff\xff\xff\0\0\0," + bytes(4) + noise(n),
        "bmp that ends early": lambda n: encode(photo(n), "BMP")[: 200 + 40 * n],
        "strip of 64,001 to 1": lambda n: png(64_001, 1 + n, chunk(b"IDAT", zlib.compress(bytes(64_002 * (n + 1))))),
        "EXIF THAT RUNS IN CIRCLES": exif_loop,
    }  # fmt: skip


def make(folder: Path, share: int) -> tuple[list[Path], dict[str, bytes], set[str]]:
    """Write one of every `share` files.  Returns them, the sound file behind each truncation, what must be refused."""
    files: list[Path] = []
    sound: dict[str, bytes] = {}
    refused: set[str] = set()
    number = 0

    def write(name: str, data: bytes) -> str | None:
        nonlocal number
        number += 1
        if number % share:
            return None
        files.append(folder / f"{name}.jpg")
        files[-1].write_bytes(data)
        return files[-1].name

    for kind, (title, broken) in enumerate(damaged().items()):
        for variant in range(10):
            name = write(f"damage {kind:02} {variant}", broken(variant))
            if name and not title.isupper():
                refused.add(name)
    for title, data in kinds(0).items():
        for step in range(64):
            name = write(f"cut {title} {step}", data[: len(data) * (step + 1) // 65])
            if name:
                sound[name] = data
    rng = np.random.default_rng(0)
    pool = [data for seed in range(5) for data in kinds(seed).values()]
    for mutation in range(3000):
        data = bytearray(pool[mutation % len(pool)])
        for place in rng.integers(0, len(data), rng.integers(1, 9)).tolist():
            data[place] = int(rng.integers(0, 256))
        write(f"mutation {mutation}", bytes(data))
    return files, sound, refused


def peak_memory(process: int) -> int:
    status = Path(f"/proc/{process}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def examine(folder: Path, share: int, row: Callable[..., None]) -> None:
    paths, sound, refused = make(folder, share)
    files = [File(name=path.name, path=os.fsencode(path)) for path in paths]
    results, slowest, peak = [], 0.0, 0
    with Pool(workers=1) as pool:
        for file in files:  # one at a time, so that each is timed by itself
            began = time.monotonic()
            results += pool.decode([file], KEEP)
            if len(results) > 1:  # the first waits for the process to start
                slowest = max(slowest, time.monotonic() - began)
            peak = max(peak, *(peak_memory(process) for process in pool.processes))
        deaths = len(pool.notes)
    decoded = {result.file.name: result for result in results if not isinstance(result.pixels, BadImage)}
    bad = {result.file.name: str(result.pixels) for result in results if isinstance(result.pixels, BadImage)}
    assert len(decoded) + len(bad) == len(paths)
    assert all(len(reason) > 8 and "Traceback" not in reason for reason in bad.values())
    assert refused <= set(bad), sorted(refused - set(bad))

    filled_in = 0
    for name, data in sound.items():
        if name in decoded:  # only what was cut off behind the pixels may be missing
            filled_in += not (decoded[name].pixels == fit(decode(data), KEEP)).all()

    # The same files as a data set: each is there under its own name with its own pixels, or listed.
    entries = [Entry(file=file, label=number % 2, split=None) for number, file in enumerate(files)]
    data = assemble(Listing(entries=entries, classes=("a", "b"), origin="bad images"), size=None, seed=0, workers=2)
    whole = View(size=146, resize=146)
    substituted, there = 0, set()
    for images in data.splits().values():
        assert images.shape == (146, 146, 3) or images.shape == (SIDE, SIDE, 3)
        for index, name in enumerate(images.names):
            there.add(name)
            own = decoded[name].pixels
            own = own if images.shape[0] == own.shape[0] else fit(own, whole)
            substituted += not np.array_equal(images.pixels[index].numpy(), own)
    assert there == set(decoded)
    assert {problem.path for problem in data.problems} == set(bad)
    row(
        "D1",
        "bad images",
        f"{len(paths)} files: {len(decoded)} decoded, {len(bad)} listed with a reason; {deaths} deaths, "
        f"{filled_in} filled in, {substituted} substituted; slowest {slowest:.2f} s, peak {peak / 2**20:.0f} MB",
        deaths + filled_in + substituted == 0 and slowest <= 2 and peak <= 512 << 20,
    )


def test_a_sample_of_bad_images_is_decoded_or_listed(tmp_path, row):
    examine(tmp_path, 17, row)


@pytest.mark.reliability
def test_4008_bad_images_are_decoded_or_listed(tmp_path, row):
    assert len(damaged()) == 24
    assert len(kinds(0)) == 12
    examine(tmp_path, 1, row)


def cut_windows(folder: Path, share: int, row: Callable[..., None]) -> None:
    """The same files where training cuts windows: what the reference decodes is decoded as well, to the same pixels."""
    paths, _, _ = make(folder, share)
    crop = Crop(size=64, least_area=0.3)
    files = [
        File(name=path.name, path=os.fsencode(path), window=(crop, (0, 0, number))) for number, path in enumerate(paths)
    ]
    with Pool(workers=2, windows=True) as pool:
        results = list(pool.decode(files, View()))
        notes, alone = pool.notes, sum("could not be decoded alone" in note for note in pool.notes)
    worst, decoded, beyond = 99.0, 0, 0
    for path, result in zip(paths, results, strict=True):
        try:
            assert result.file.window is not None
            reference, _ = crop_file(path.read_bytes(), *result.file.window, "RGB", fast=False)
        except BadImage:
            beyond += not isinstance(result.pixels, BadImage)  # damaged outside the window
            continue
        assert not isinstance(result.pixels, BadImage), (path, result.pixels)
        decoded += 1
        error = float(np.square(result.pixels.astype(float) - reference).mean())
        worst = min(worst, 10 * float(np.log10(255**2 / max(error, 1e-4))))
    row(
        "D1",
        "windows of bad images",
        f"{len(paths)} files: {decoded} as the reference decodes them (worst {worst:.0f} dB), {beyond} damaged outside "
        f"their window; {alone} judged by the reference after libjpeg gave up, {len(notes) - alone} other deaths",
        worst >= 30 and len(notes) == alone,
    )


def test_windows_of_a_sample_of_bad_images(tmp_path, row):
    cut_windows(tmp_path, 41, row)


@pytest.mark.reliability
def test_windows_of_every_fifth_bad_image(tmp_path, row):
    cut_windows(tmp_path, 5, row)  # each that libjpeg gives up at costs the start of a process


def test_the_largest_image_that_is_read_stays_within_time_and_memory(tmp_path, row):
    """40 megapixels, as RGBA, CMYK and progressive JPEG: the most that decoding ever needs."""
    side, files = 6_320, []
    flat = Image.new("RGBA", (side, side), (10, 200, 30, 128))
    encoded = {
        "a.png": encode(flat, "PNG", compress_level=1),
        "b.jpg": encode(flat.convert("CMYK"), "JPEG", quality=50),
        "c.jpg": encode(flat.convert("RGB"), "JPEG", progressive=True, quality=50),
    }
    for name, data in encoded.items():
        (tmp_path / name).write_bytes(data)
        files.append(File(name=name, path=os.fsencode(tmp_path / name)))
    with Pool(workers=1) as pool:
        results = list(pool.decode(files, View(size=146, resize=146)))
        peak = max(peak_memory(process) for process in pool.processes)
        notes = pool.notes
    ended = ["refused" if isinstance(result.pixels, BadImage) else "decoded" for result in results]
    row(
        "D1",
        "40 megapixels",
        f"{len(files)} files, {ended.count('decoded')} decoded; {len(notes)} deaths, peak {peak / 2**20:.0f} MB",
        not notes and peak <= 512 << 20 and ended.count("decoded") == 3,
    )
