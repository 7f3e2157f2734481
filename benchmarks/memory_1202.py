"""Peak memory and time of one training step of ResNet-1202 at batch 128, as the catalog describes it.

python benchmarks/memory_1202.py [--batch 128] [--keep]      (--keep: without recomputing activations)
"""

import argparse
import resource
import sys
import time
from dataclasses import replace

import torch

from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import keep_freed_memory, pick_device


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = pick_device("auto")
    description = replace(describe("resnet1202"), checkpoint=not arguments.keep)
    model = ResNet(description).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, Sgd())
    images = torch.randn(arguments.batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,), device=device)
    began = time.perf_counter()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    found = loss.item()
    seconds = time.perf_counter() - began
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes on Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    how = "kept" if arguments.keep else "recomputed block by block"
    print(f"ResNet-1202, batch {arguments.batch}, {device}, activations {how}: loss {found:.3f}")
    print(f"  peak memory {peak:.2f} GiB, one step {seconds:.1f} s")


if __name__ == "__main__":
    main()
