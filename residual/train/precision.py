"""Where and in what arithmetic a network trains: device, number format, memory."""

import contextlib
import ctypes
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Format = Literal["float32", "bfloat16", "auto"]


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU.  Refuses an absent one."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind, _, number = name.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    known = kind in available and (not number or number.isdigit())
    if not known or not available[kind] or int(number or 0) >= count:
        there = ", ".join(kind for kind, there in available.items() if there)
        raise ValueError(f"there is no device {name!r} on this machine; use --device auto, or one of: {there}")
    return torch.device(name)


@dataclass(frozen=True)
class Precision:
    """The device and the number format of the convolutions; weights and their sums stay float32."""

    device: torch.device
    bfloat16: bool

    @property
    def format(self) -> Literal["float32", "bfloat16"]:
        """The number format by its name."""
        return "bfloat16" if self.bfloat16 else "float32"

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        if not self.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def place(self, model: nn.Module) -> nn.Module:
        """`model` on the device; two-dimensional convolutions in channels-last memory, which is faster."""
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        return model.to(self.device)


def pick_precision(wanted: Format, device: torch.device) -> Precision:
    """bfloat16 where asked for, or under "auto" where the hardware multiplies it natively."""
    if wanted != "auto":
        return Precision(device, wanted == "bfloat16")
    if device.type == "cuda":
        return Precision(device, torch.cuda.is_bf16_supported(including_emulation=False))
    return Precision(device, device.type == "cpu" and _cpu_multiplies_bfloat16())


def settle(precision: Precision) -> None:
    """Let a GPU compute what is written down: float32 without TensorFloat-32, and the same algorithms every time."""
    if precision.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "AVX512" in capabilities and any(check is not None and check() for check in checks)


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: activations are as large every iteration, and returning their pages to
    the kernel takes time.  A no-op elsewhere than on Linux with glibc."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, largest)
