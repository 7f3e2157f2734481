"""Only the part of a JPEG that is needed, decoded by the libjpeg-turbo that Pillow brings along.

Shapes: a part of h x w pixels, C channels (3 for RGB, 1 for L), uint8 (h, w, C).

A random crop needs half of an image's pixels on average.  libjpeg-turbo can pass over rows and columns and can
decode at 1/2, 1/4 and 1/8 of the size, which Pillow offers only for whole images, so its functions are called
directly.  Where they are not to be had (another library, another system) `available` says so and everything is
decoded whole.  What is not a plain grey or three-colour JPEG, or meets the least irregularity, is not decoded
here: the caller asks decode.decode, whose judgement counts.

libjpeg ends the process at what it calls fatal: only `worker.py`, whose end is foreseen, may call `cut`.
"""

import ctypes
import os
import re
import struct
from collections.abc import Callable
from ctypes import c_char_p, c_double, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from dataclasses import dataclass
from functools import cache
from itertools import repeat
from typing import Any

import numpy as np
from PIL import Image

from residual.data.decode import MAX_ASPECT, MAX_PIXELS, Mode, Pixels, quietly

GAVE_UP = 77  # exit code of a process whose libjpeg met something fatal
_SIZES = {62: 632, 70: 648, 80: 656}  # version of the interface -> bytes of jpeg_decompress_struct, 64 bit
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all Huffman-coded
_COLOURS = {1: (1,), 3: (2, 3)}  # components -> libjpeg's names for grey, RGB and YCbCr
_GREY, _RGB = 1, 2
_TURNED = re.compile(rb"tiff:Orientation(?:=\"|>)[2-8]")


@dataclass(frozen=True)
class Header:
    """What stands in front of the pixels."""

    width: int
    height: int
    components: int


def header(data: bytes) -> Header | None:
    """Size and colours of an upright 8-bit JPEG in grey, RGB or YCbCr; None for everything else."""
    if data[:2] != b"\xff\xd8":
        return None
    position, found = 2, None
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker == 0xDA:
            return found
        if marker in _FRAMES:
            if length < 8 or position + 10 > len(data):
                return None
            depth, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            if depth != 8 or components not in _COLOURS or not _sound(width, height):
                return None
            found = Header(width, height, components)
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None  # lossless, arithmetic or hierarchical
        elif marker == 0xE1 and not _is_upright(data[position + 4 : position + 2 + length]):
            return None
        position += 2 + length
    return None


def _sound(width: int, height: int) -> bool:
    return 0 < width * height <= MAX_PIXELS and max(width, height) <= MAX_ASPECT * min(width, height)


def _is_upright(segment: bytes) -> bool:
    if segment[:6] == b"Exif\0\0":
        exif = Image.Exif()
        try:
            with quietly():
                exif.load(segment)
            return bool(exif.get(0x0112, 1) == 1)
        except Exception:  # let the reference say what is wrong with it
            return False
    return not _TURNED.search(segment)


def available() -> bool:
    """Whether parts of a JPEG can be decoded here."""
    return _library() is not None


def cut(data: bytes, head: Header, box: tuple[int, int, int, int], *, reduction: int = 1, mode: Mode) -> Pixels | None:
    """Decode the pixels left <= x < right, top <= y < bottom of `box` at 1/reduction of the size.

    head: of the same data.  box: (left, top, right, bottom), left and top divisible by reduction (1, 2, 4 or 8).
    None where the data is irregular in any way, however small.  The pixels are valid until the next call.
    """
    library = _library()
    assert library is not None
    return library.cut(data, head, box, reduction, mode)


@cache
def _library() -> "_Library | None":
    try:
        library = _Library()
    except (OSError, AttributeError):  # no such library, or it lacks a function
        return None
    return library if library.works else None


class _Errors(ctypes.Structure):
    """jpeg_error_mgr."""

    _fields_ = (
        ("error_exit", c_void_p),
        ("emit_message", c_void_p),
        ("output_message", c_void_p),
        ("format_message", c_void_p),
        ("reset_error_mgr", c_void_p),
        ("msg_code", c_int),
        ("msg_parm", c_int * 20),
        ("trace_level", c_int),
        ("num_warnings", c_long),
        ("tables", c_void_p * 8),
    )


class _Decompressor(ctypes.Structure):
    """The beginning of jpeg_decompress_struct, the same in all versions, and room for the rest."""

    _fields_ = (
        ("err", c_void_p),
        ("mem", c_void_p),
        ("progress", c_void_p),
        ("client_data", c_void_p),
        ("is_decompressor", c_int),
        ("global_state", c_int),
        ("src", c_void_p),
        ("image_width", c_uint),
        ("image_height", c_uint),
        ("num_components", c_int),
        ("jpeg_color_space", c_int),
        ("out_color_space", c_int),
        ("scale_num", c_uint),
        ("scale_denom", c_uint),
        ("output_gamma", c_double),
        ("settings", c_int * 12),
        ("output_width", c_uint),
        ("output_height", c_uint),
        ("out_color_components", c_int),
        ("output_components", c_int),
        ("rec_outbuf_height", c_int),
        ("actual_number_of_colors", c_int),
        ("colormap", c_void_p),
        ("output_scanline", c_uint),
        ("rest", ctypes.c_char * 1024),
    )


_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p)


class _Library:
    """libjpeg-turbo inside Pillow, and the memory that it works in."""

    def __init__(self) -> None:
        import PIL._imaging

        # Without releasing the interpreter lock, which would cost more than most of these calls.
        library = ctypes.PyDLL(PIL._imaging.__file__)

        def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
            found = library[name]  # an object of its own, whose signature is nobody else's
            found.restype = result
            if arguments:
                found.argtypes = arguments
            return found

        self.errors, self.state = _Errors(), _Decompressor()
        self._source = function("jpeg_mem_src", None, c_void_p, c_char_p, c_ulong)
        self._read_header = function("jpeg_read_header", c_int, c_void_p, c_int)
        self._start = function("jpeg_start_decompress", c_int, c_void_p)
        self._crop = function("jpeg_crop_scanline", None, c_void_p, c_void_p, c_void_p)
        self._skip = function("jpeg_skip_scanlines", c_uint, c_void_p, c_uint)
        self._read = function("jpeg_read_scanlines", c_uint)  # called once per row: C objects go in as they are
        self._create = function("jpeg_CreateDecompress", None, c_void_p, c_int, c_size_t)
        self._destroy = function("jpeg_destroy_decompress", None, c_void_p)
        self.address = ctypes.addressof(self.state)
        self.handle = c_void_p(self.address)
        self.buffer = np.empty(0, np.uint8)
        self.rows = np.empty(0, np.uintp)  # where each row goes
        self.row_pointers: list[c_void_p] = []  # where in `rows` each of these stands

        function("jpeg_std_error", c_void_p, c_void_p)(ctypes.addressof(self.errors))
        self._silence = _CALLBACK(lambda _: None)
        self._end = _CALLBACK(lambda _: os._exit(GAVE_UP))
        self.errors.output_message = ctypes.cast(self._silence, c_void_p)
        self.works = self._agree()

    def _agree(self) -> bool:
        """Ask the library for its version by naming a wrong one, and say whether it is known here."""
        # Up to the first allocation this function may go on after an error: it only compares two numbers.
        self.errors.error_exit = ctypes.cast(self._silence, c_void_p)
        self.state.err = ctypes.addressof(self.errors)
        self._create(self.address, 0, 0)  # it looks at the version, then at the size, and told of that last
        size = self.errors.msg_parm[0]
        self._destroy(self.address)
        self._create(self.address, 0, size)
        version = self.errors.msg_parm[0]
        self._destroy(self.address)
        self.version, self.size = version, size
        if ctypes.sizeof(c_void_p) != 8 or _SIZES.get(version) != size:
            return False
        self.errors.error_exit = ctypes.cast(self._end, c_void_p)
        return True

    def cut(
        self, data: bytes, head: Header, box: tuple[int, int, int, int], reduction: int, mode: Mode
    ) -> Pixels | None:
        left, top, right, bottom = box
        state, errors = self.state, self.errors
        errors.num_warnings = 0
        # Made anew for each file: a decompressor that is used again lends one file's tables to the next.
        self._create(self.address, self.version, self.size)
        self._source(self.address, data, len(data))
        try:
            self._read_header(self.address, 1)
            if (state.image_width, state.image_height, state.num_components) != (
                head.width,
                head.height,
                head.components,
            ) or state.jpeg_color_space not in _COLOURS[head.components]:
                return None
            channels = 3 if mode == "RGB" else 1
            state.out_color_space = _RGB if mode == "RGB" else _GREY
            state.scale_num, state.scale_denom = 1, reduction
            self._start(self.address)
            left, top = left // reduction, top // reduction
            right = min(-(-right // reduction), state.output_width)
            bottom = min(-(-bottom // reduction), state.output_height)
            offset, wide = c_uint(left), c_uint(right - left)
            self._crop(self.address, ctypes.byref(offset), ctypes.byref(wide))
            stride, count = state.output_width * channels, bottom - top
            self._make_room(count, stride)
            if top:
                self._skip(self.address, top)
            sum(map(self._read, repeat(self.handle), self.row_pointers[:count], repeat(1)))
            if errors.num_warnings or state.output_scanline != bottom:
                return None
        finally:
            self._destroy(self.address)
        pixels = self.buffer[: count * stride].reshape(count, state.output_width, channels)
        return pixels[:, left - offset.value : right - offset.value]

    def _make_room(self, count: int, stride: int) -> None:
        if count * stride > len(self.buffer):
            self.buffer = np.empty(count * stride, np.uint8)
        if count > len(self.rows):
            self.rows = np.empty(2 * count, np.uintp)
            start = self.rows.ctypes.data
            self.row_pointers = [c_void_p(start + row * self.rows.itemsize) for row in range(2 * count)]
        self.rows[:count] = self.buffer.ctypes.data + np.arange(count, dtype=np.uintp) * np.uintp(stride)
