"""One decoding process: requests come in on its standard input, pixels go out on its standard output.

A damaged image can do no more than end this process; `loader.Pool` starts another and names the file.
Bounds per file: 2 s of processor time, 512 MB of memory.  Only a process that cuts training windows imports torch.

Both directions carry messages of 8 bytes of length (little-endian) and as many of msgpack.  Answers to small
files travel together; a slate of 8 bytes shared with the pool says at any time how many files were begun, and pixels
lie in a tray that is shared as well, where they fit: the pool takes them out when it reads the answer.
"""

import contextlib
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from residual.data.crop import Crop, Draw, crop_file
from residual.data.decode import MAX_ASPECT, MAX_STRIP, BadImage, View, decode, fit, read
from residual.data.shrink import Shrink, shrunk

SECONDS = 2.0  # of processor time per file
MEMORY = 450 << 20  # bytes of address space beyond what an idle process has (about 60 MB resident)
HELD = 1 << 17  # bytes of answers that may wait for one another
LENGTH = struct.Struct("<Q")
SLOTS = 32  # of the tray; the pool never lets a process owe more answers than that
SLOT = 1 << 20  # bytes; of memory, a slot takes what is written into it


class Ask(msgspec.Struct, array_like=True):
    """One file to decode."""

    path: bytes | None
    data: bytes | None = None  # instead of a path
    stamp: tuple[int, int] | None = None
    span: tuple[int, int] | None = None  # (offset, bytes) of the image in the file
    digest: bytes | None = None  # SHA-256 that its bytes must have
    window: tuple[Crop, Draw] | None = None  # instead of the view: one training window
    refused: str | None = None  # why there is nothing to decode


class Request(msgspec.Struct, array_like=True):
    """Some files and how their pixels are wanted."""

    view: View
    files: list[Ask]
    shrink: Shrink | None = None  # hand on files to pack instead of pixels
    fast: bool = True  # windows may be decoded alone (residual.data.jpeg)


class Answer(msgspec.Struct, array_like=True):
    """One file, decoded or refused; the empty answer says that the process is ready."""

    shape: tuple[int, int, int] = (0, 0, 0)
    found: tuple[int, int] = (0, 0)  # width and height before the view
    digest: bytes = b""  # SHA-256 of the file's bytes
    pixels: bytes = b""
    refused: str | None = None
    packed: tuple[bytes, str] | None = None  # a file to pack, and its suffix
    slot: int | None = None  # of the tray, where the pixels lie there


def answer(ask: Ask, view: View, *, shrink: Shrink | None = None, fast: bool = False) -> Answer:
    """Read and decode one file."""
    from hashlib import sha256

    if ask.refused is not None:
        return Answer(refused=ask.refused)
    try:
        data = ask.data if ask.data is not None else read(ask.path or b"", stamp=ask.stamp, span=ask.span)
        if ask.digest is not None and sha256(data).digest() != ask.digest:
            raise BadImage("its bytes are not those that were written (their SHA-256 differs)")
        if shrink is not None:
            packed, suffix, found = shrunk(data, shrink)
            return Answer(found=found, digest=sha256(packed).digest(), packed=(packed, suffix))
        if ask.window is not None:
            seen, found = crop_file(data, *ask.window, view.mode, fast=fast)
            digest = b""
        else:
            whole = decode(data, mode=view.mode, aspect=MAX_STRIP if view.strips else MAX_ASPECT)
            seen, found = fit(whole, view), (whole.shape[1], whole.shape[0])
            digest = ask.digest or sha256(data).digest()
    except BadImage as error:
        return Answer(refused=str(error))
    except MemoryError:
        return Answer(refused="decoding it takes more memory than one image may (512 MB)")
    height, width, channels = seen.shape
    return Answer(shape=(height, width, channels), found=found, digest=digest, pixels=seen.tobytes())


def main() -> None:
    """Serve requests until standard input ends.  Arguments: slate and tray, and "windows" to cut those."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    slate, tray = mmap.mmap(int(sys.argv[1]), LENGTH.size), mmap.mmap(int(sys.argv[2]), SLOTS * SLOT)
    incoming = os.fdopen(os.dup(0), "rb", buffering=1 << 16)
    outgoing = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints cannot end up among the answers
    if sys.argv[3:] == ["windows"]:
        import torch

        torch.set_num_threads(1)
    _bound_memory()
    decoder, encoder = msgspec.msgpack.Decoder(Request), msgspec.msgpack.Encoder()
    _send(outgoing, pack(encoder.encode(Answer())))
    begun = 0
    while (message := _receive(incoming)) is not None:
        request = decoder.decode(message)
        held, since = bytearray(), time.monotonic()
        for ask in request.files:
            begun += 1
            LENGTH.pack_into(slate, 0, begun)
            _bound_time(SECONDS)
            reply = answer(ask, request.view, shrink=request.shrink, fast=request.fast)
            _bound_time(0)
            if 0 < len(reply.pixels) <= SLOT:
                reply.slot = begun % SLOTS
                tray[reply.slot * SLOT : reply.slot * SLOT + len(reply.pixels)] = reply.pixels
                reply.pixels = b""
            held += pack(encoder.encode(reply))
            if len(held) > HELD or time.monotonic() - since > 0.5:
                _send(outgoing, held)
                held, since = bytearray(), time.monotonic()
        _send(outgoing, held)


def pack(message: bytes) -> bytes:
    """A message with its length in front."""
    return LENGTH.pack(len(message)) + message


def _send(file: BinaryIO, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _receive(file: BinaryIO) -> bytes | None:
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    message = file.read(length)
    return message if len(message) == length else None


def _bound_time(seconds: float) -> None:
    # The default action of SIGPROF ends the process, whatever C code it is in.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _bound_memory() -> None:
    """Let the address space grow by MEMORY and no further; where the system has no such limit, do without."""
    if sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + MEMORY
        if ceiling == resource.RLIM_INFINITY or wanted < ceiling:
            resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def unwrap(message: Any) -> Answer:
    """Check one message of a decoding process, which damaged bytes may have taken over."""
    reply = msgspec.msgpack.decode(message, type=Answer)
    height, width, channels = reply.shape
    announced = height * width * channels
    sent = announced if reply.slot in range(SLOTS) and announced <= SLOT else len(reply.pixels)
    if min(reply.shape) < 0 or announced != sent:
        raise ValueError(f"a decoding process announced {reply.shape} and sent {sent} bytes")
    return reply


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
