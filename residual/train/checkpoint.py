"""Checkpoints that survive kill -9, power loss and a full disk, and are never loaded unless whole.

A checkpoint is two files: `step-00001234.safetensors` with every tensor, then `step-00001234.json`, its
manifest, with everything else and the SHA-256 of both.  The manifest is written last and removed first, so
a checkpoint exists when its manifest does.
"""

import hashlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from residual.records import CannotWrite, DurableFile, make_folder, remove_leftovers, write_durably

FORMAT = 1
MANIFEST = re.compile(r"step-(\d{8,})\.json")
TENSORS = re.compile(r"step-(\d{8,})(\.\d+)?\.safetensors")
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class CheckpointError(ValueError):
    """A checkpoint must not be written or cannot be used."""


class _Damaged(Exception):
    """This one checkpoint cannot be used; an older one may."""


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a training, read back whole."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    path: Path  # of the manifest


class Checkpoints:
    """The checkpoints of one run: the newest few and the best.

    identity: what the run is (a hash of its description and data); those of another run are refused.
    The caller holds the lock of the run folder.
    """

    def __init__(self, folder: Path, *, identity: str, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"at least one checkpoint must be kept, not {keep}")
        self.folder = Path(folder)
        self.identity = identity
        self.keep = keep
        self.notes: list[str] = []  # what was skipped and why, for the user
        self._damaged: set[int] = set()
        make_folder(self.folder)
        try:
            self._remove_leftovers()
            write_durably(self.folder / ".writable", b"yes\n")  # refuse now what would fail in an hour
            (self.folder / ".writable").unlink()
        except CannotWrite:
            raise
        except OSError as error:
            raise CannotWrite(self.folder, error) from error

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, best: bool = False) -> Path:
        """Write a checkpoint; once this returns it survives power loss.  Returns its manifest.

        Refuses values that are not finite.  Raises `CannotWrite`, older checkpoints unharmed.
        Ctrl-C and SIGTERM wait until it is done.
        """
        with _uninterrupted():
            return self._save(step, tensors, state, best=best)

    def _save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], *, best: bool) -> Path:
        refuse_non_finite(tensors)
        later = [s for s in self.steps() if s > step and s not in self._damaged]
        if later:
            raise CheckpointError(
                f"{self.folder} holds a checkpoint of step {later[-1]}, later than step {step}; resume from "
                f"it, or train in another folder"
            )
        manifest = self.folder / f"step-{step:08}.json"
        data = self._free_name(step)
        try:
            laid_out = {name: _in_memory_order(tensor.detach()) for name, tensor in sorted(tensors.items())}
            size, digest = _write_tensors(data, {name: tensor for name, (tensor, _) in laid_out.items()})
            content = {
                "format": FORMAT,
                "step": step,
                "identity": self.identity,
                "best": best,
                "file": data.name,
                "bytes": size,
                "sha256": digest,
                "axes": {name: axes for name, (_, axes) in laid_out.items() if axes is not None},
                "state": state,
            }
            write_durably(manifest, _seal(content))
        except BaseException:
            with suppress(OSError):
                if not manifest.exists():
                    data.unlink(missing_ok=True)
                self._remove_leftovers()
            raise
        self._damaged.discard(step)
        with suppress(OSError):  # the new one is safe; what cannot be removed now goes after the next save
            self._prune()
        return manifest

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; None if there never was one; `notes` tells what was skipped.

        Raises `CheckpointError` where none can be used, and where they belong to another run.
        """
        steps = self.steps()
        if not steps and len(self._data_files()) > 1:
            raise CheckpointError(
                f"{self.folder} holds tensors but no manifest, so nothing in it can be trusted; restore the "
                f"step-*.json files, or train in another folder"
            )
        reasons = []
        for step in reversed(steps):
            try:
                return self._read(step)
            except _Damaged as reason:
                self._damaged.add(step)
                reasons.append(f"checkpoint of step {step} is skipped: {reason}")
                self.notes.append(reasons[-1])
        if reasons:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be used, and training does not silently start again: "
                + "; ".join(reasons)
            )
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint last saved as the best, if one was."""
        for step in reversed(self.steps()):
            try:
                if self._manifest(step)["best"]:
                    return self._read(step)
            except _Damaged as reason:
                self.notes.append(f"checkpoint of step {step} is skipped: {reason}")
        return None

    def steps(self) -> list[int]:
        """Steps that have a manifest, oldest first."""
        names = (MANIFEST.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def _manifest(self, step: int) -> dict[str, Any]:
        path = self.folder / f"step-{step:08}.json"
        try:
            content = _unseal(path.read_bytes())
        except OSError as error:
            raise _Damaged(f"{path.name} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise _Damaged(f"{path.name} is damaged ({error})") from error
        if content["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {content['format']}, this version reads format {FORMAT}: use the version "
                f"of residual that wrote it"
            )
        if content["identity"] != self.identity:
            raise CheckpointError(
                f"{path} belongs to another run: model, recipe, seed or data differ from the ones given; "
                f"resume with the same, or train in another folder"
            )
        if content["step"] != step:
            raise _Damaged(f"{path.name} is the manifest of step {content['step']}")
        return content

    def _read(self, step: int) -> Checkpoint:
        content = self._manifest(step)
        path = self.folder / content["file"]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _Damaged(f"{path.name} cannot be read ({error.strerror})") from error
        if len(data) != content["bytes"]:
            raise _Damaged(f"{path.name} has {len(data):,} bytes instead of {content['bytes']:,}")
        if hashlib.sha256(data).hexdigest() != content["sha256"]:
            raise _Damaged(f"{path.name} is not what was written: its SHA-256 differs")
        tensors = safetensors.torch.load(data)
        for name, axes in content["axes"].items():
            tensors[name] = tensors[name].permute([axes.index(axis) for axis in range(len(axes))])
        return Checkpoint(step, tensors, content["state"], self.folder / f"step-{step:08}.json")

    def _free_name(self, step: int) -> Path:
        """Where the tensors of a step go; never over a file that a manifest may name."""
        path = self.folder / f"step-{step:08}.safetensors"
        number = 2
        while path.exists():
            path = self.folder / f"step-{step:08}.{number}.safetensors"
            number += 1
        return path

    def _data_files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if TENSORS.fullmatch(path.name))

    def _prune(self) -> None:
        steps = self.steps()
        whole = [step for step in steps if step not in self._damaged]
        kept = set(whole[-self.keep :])
        best = [step for step in whole if self._is_best(step)]
        kept.update(best[-1:])
        for step in steps:
            if step not in kept:
                (self.folder / f"step-{step:08}.json").unlink()  # before its tensors
                self._damaged.discard(step)
        self._remove_leftovers()

    def _is_best(self, step: int) -> bool:
        try:
            return bool(self._manifest(step)["best"])
        except (_Damaged, CheckpointError):
            return False

    def _remove_leftovers(self) -> None:
        """Remove half-written files, and tensors that no manifest names."""
        remove_leftovers(self.folder)
        steps = self.steps()
        if not steps:
            return  # tensors without any manifest: a first save cut short, or a loss that a person should see
        for path in self._data_files():
            name = TENSORS.fullmatch(path.name)
            assert name is not None
            step = int(name[1])
            named = path.name
            if step in steps:
                try:
                    named = _unseal((self.folder / f"step-{step:08}.json").read_bytes())["file"]
                except (OSError, ValueError):
                    continue  # a damaged manifest: nobody knows which it named
            else:
                named = ""
            if path.name != named:
                path.unlink()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off: who asks for a stop twice must not lose the checkpoint of the first time."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda received, _: waiting.append(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for received in waiting:
            signal.raise_signal(received)


def refuse_non_finite(tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for a tensor with NaN or infinity in it, by its name."""
    bad = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(
            f"not saved: {', '.join(bad[:3])}{more} hold values that are not finite (NaN or infinity); the "
            f"last checkpoint is still good"
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor.detach())  # one pass, no copy; NaN wins
    return bool(torch.isfinite(low) & torch.isfinite(high))


def _seal(content: dict[str, Any]) -> bytes:
    """Canonical JSON that carries its own SHA-256."""
    return _encode(content | {"seal": hashlib.sha256(_encode(content)).hexdigest()})


def _unseal(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(content, dict) or "seal" not in content:
        raise ValueError("it has no seal")
    seal = content.pop("seal")
    if _encode(content | {"seal": seal}) != data or hashlib.sha256(_encode(content)).hexdigest() != seal:
        raise ValueError("its SHA-256 differs")
    return content


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> tuple[int, str]:
    """Write a safetensors file straight from memory, hashing beside; returns its size and SHA-256."""
    cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
    digest = hashlib.sha256()
    size = 0
    # the pool is left, and all is hashed, only after the fsync
    with ThreadPoolExecutor(max_workers=1) as beside, DurableFile(path) as file:
        for piece in _pieces(cpu):
            beside.submit(digest.update, piece)  # in order: one worker
            file.write(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _in_memory_order(tensor: Tensor) -> tuple[Tensor, list[int] | None]:
    """A contiguous view of a tensor, its axes in the order of memory, and that order where it is unusual.

    So a channels-last tensor is written without a copy and comes back channels-last.  It must: PyTorch's
    fused SGD on the CPU silently mixes up values where weights and momentum lie differently.
    """
    if tensor.is_contiguous():
        return tensor, None
    strides = tensor.stride()
    axes = sorted(range(tensor.ndim), key=lambda axis: -strides[axis])
    if tensor.permute(axes).is_contiguous():
        return tensor.permute(axes), axes
    return tensor.contiguous(), None


def _pieces(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, without copying a tensor.

    The library would build the whole file in memory first.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise CheckpointError(f"{name} is {tensor.dtype}, which a checkpoint does not hold")
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().data
