"""Time of a training step on one device, or together on several: the numbers that docs/cluster.md leaves open.

python benchmarks/ddp.py --model resnet50_v1_5 --batch 32
torchrun --standalone --nproc-per-node=8 benchmarks/ddp.py --model resnet50_v1_5 --batch 32

--batch counts the images of one process.  Images are random and on the device, so no file is read and nothing decoded.
"""

import argparse
import itertools
import platform
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.train import distributed
from residual.train.batch_norm import sync_batch_norms
from residual.train.loop import Training, fit
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import keep_freed_memory, pick_device, pick_precision


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="resnet50_v1_5")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--synchronised", action="store_true", help="batch norm over the images of all processes")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = pick_device(arguments.device)
    world = distributed.join(device)
    if device.type == "cuda":
        device = torch.device("cuda", world.local_rank)
    precision = pick_precision("auto", device)
    description = describe(arguments.model)
    torch.manual_seed(0)
    model = ResNet(description)
    if arguments.synchronised and world.size > 1:
        sync_batch_norms(model)
    precision.place(model)
    training = Training(model, make_optimizer(model, Sgd()), shared=distributed.share(model, world, drops=False))
    side = description.image
    images = torch.randn(arguments.batch, description.channels, side, side, device=device)
    batch = images.contiguous(memory_format=torch.channels_last), torch.arange(arguments.batch, device=device) % 10

    def loss_of(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        return functional.cross_entropy(model(batch[0]), batch[1]), {}

    steps = fit(
        training, itertools.repeat(batch), loss_of, lambda step: 1e-4, seed_at=lambda step: step, precision=precision
    )
    times = []
    for number in range(arguments.steps + 5):
        began = time.perf_counter()
        next(steps)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 5:
            times.append(time.perf_counter() - began)
    if world.leads:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
        step = statistics.median(times)
        gradient = 4 * sum(parameter.numel() for parameter in model.parameters())
        sent = 2 * (world.size - 1) / world.size * gradient
        print(
            f"{arguments.model}, {arguments.batch} images a process, {world.size} processes, {precision.format}, {name}"
        )
        print(f"step        {1000 * step:.2f} ms (median of {len(times)}), {1000 * min(times):.2f} ms at best")
        print(f"images/s    {world.size * arguments.batch / step:,.0f}")
        print(f"exchanged   {gradient:,} bytes of gradient, {sent / 1e6:.1f} MB sent by each process")
    distributed.leave()


if __name__ == "__main__":
    main()
