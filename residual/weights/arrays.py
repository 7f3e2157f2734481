"""Named arrays as a container's reader hands them on, and the plain file in which they travel.  No torch.

The file is safetensors, written here array by array, so that the process which reads somebody's file never
holds its numbers twice.
"""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from residual.weights.files import BadWeights

Array: TypeAlias = NDArray[Any]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # numpy has none: the upper halves of float32, told apart by this name
TYPES = {
    np.dtype("<f8"): "F64",
    np.dtype("<f4"): "F32",
    np.dtype("<f2"): "F16",
    BFLOAT16: "BF16",
    np.dtype("<i8"): "I64",
    np.dtype("<i4"): "I32",
    np.dtype("<i2"): "I16",
    np.dtype("i1"): "I8",
    np.dtype("<u8"): "U64",
    np.dtype("<u4"): "U32",
    np.dtype("<u2"): "U16",
    np.dtype("u1"): "U8",
    np.dtype("?"): "BOOL",
}
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 8
PIECE = 1 << 22  # bytes that are copied at a time


def write(file: BinaryIO, arrays: Mapping[str, Array], limit: int) -> None:
    """Write arrays as safetensors.  Refuses types that no network has, and more than `limit` bytes of numbers.

    Big-endian numbers and arrays with strides are brought into order on the way.
    """
    if len(arrays) > MAX_TENSORS:
        raise BadWeights(f"it holds {len(arrays):,} tensors; the limit is {MAX_TENSORS:,}")
    header, end = {}, 0
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)  # so that every number lies at its own size
    for name, array in ordered:
        kind = TYPES.get(array.dtype.newbyteorder("<"))
        if kind is None:
            raise BadWeights(f"{name[:200]!r} holds {array.dtype}, which is no number that a network has")
        if array.ndim > MAX_DIMENSIONS:
            raise BadWeights(f"{name[:200]!r} has {array.ndim} axes; at most {MAX_DIMENSIONS}")
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (end, end + array.nbytes)}
        end += array.nbytes
        if end > limit:
            raise BadWeights(f"its tensors unfold to more than {limit:,} bytes, far more than the file has")
    text = json.dumps(header).encode()  # ASCII: any text that Python holds survives
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in ordered:
        little = array.dtype.newbyteorder("<")
        step = max(1, PIECE // max(1, array[:1].nbytes)) if array.ndim else 1
        for start in range(0, len(array) if array.ndim else 1, step):
            piece = array[start : start + step] if array.ndim else array
            file.write(np.ascontiguousarray(piece.astype(little, copy=False)).tobytes())
