"""Images per second of training ResNet-20 on CIFAR-sized images: ours beside a plain reference trainer, in one run.

    python benchmarks/train_cifar.py [--seconds 20] [--rounds 3] [--device cpu]

Reference   how akamaster/pytorch_resnet_cifar10 and most small trainers do it: eager PyTorch, NCHW, float32,
            DataLoader with two workers, PIL crop and flip of every image, SGD without fusion
Ours        the loop, the batches and the precision that `residual train` uses, for both its recipes

The two take turns, so that a machine whose speed drifts is fair to both; each in a process of its own.
Images are random bytes: their content does not matter to speed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

IMAGES, BATCH, WARMUP = 10_000, 128, 5


def reference(device: str, seconds: float) -> float:
    """The plain trainer; images per second."""
    import numpy as np
    import torch
    from PIL import Image
    from torch import nn
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Block(nn.Module):
        def __init__(self, c_in: int, c_out: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.more, self.stride = c_out - c_in, stride

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            if self.more:
                half = self.more // 2
                x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
            return functional.relu(y + x)

    class Pictures(Dataset[tuple[torch.Tensor, int]]):
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            self.pixels = rng.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
            self.labels = rng.integers(0, 10, IMAGES)
            mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            self.transform = transforms.Compose(
                [
                    transforms.RandomHorizontalFlip(),
                    transforms.RandomCrop(32, 4),
                    transforms.ToTensor(),
                    transforms.Normalize(mean, std),
                ]
            )

        def __len__(self) -> int:
            return IMAGES

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])

    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    c_in = 16
    for c_out in (16, 32, 64):
        for _ in range(3):
            layers.append(Block(c_in, c_out, 1 if c_in == c_out else 2))
            c_in = c_out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(Pictures(), BATCH, shuffle=True, num_workers=2, pin_memory=device != "cpu", drop_last=True)

    def steps() -> Iterator[None]:
        while True:
            for images, labels in loader:
                loss = functional.cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield

    return speed(steps(), seconds, device)


def ours(device: str, seconds: float, recipe_name: str) -> float:
    """The trainer of `residual train`; images per second."""
    import torch

    from residual.data.batches import Batch, training_batches
    from residual.data.images import Images
    from residual.data.resident import ResidentBatches, can_be_resident
    from residual.data.transforms import Normalize, Preprocessing, key
    from residual.models.catalog import describe
    from residual.models.resnet import ResNet
    from residual.recipes.catalog import recipe_named
    from residual.train.average import WeightAverage
    from residual.train.graph import fit_resident
    from residual.train.loop import Training, fit
    from residual.train.optimizer import make_optimizer
    from residual.train.precision import keep_freed_memory, pick_device, pick_precision

    keep_freed_memory()
    recipe, place = recipe_named(recipe_name, describe("resnet20")), pick_device(device)
    precision = pick_precision(recipe.precision, place)
    generator = torch.Generator().manual_seed(0)
    images = Images(
        pixels=torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8, generator=generator),
        labels=torch.randint(0, 10, (IMAGES,), generator=generator),
        classes=tuple("0123456789"),
        names=("",) * IMAGES,
    )
    per_pixel = 32 * 32 if recipe.mean == "pixel" else 1
    preprocessing = Preprocessing(size=32, mean=(125.0,) * 3 * per_pixel, std=(63.0,) * 3)
    model = precision.place(ResNet(describe("resnet20")))
    average = None if recipe.average is None else WeightAverage(model, recipe.average)
    training = Training(model, make_optimizer(model, recipe.optimizer), average)

    def loss_of(network: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = network(batch.images)
        wrong = (logits.detach().argmax(1) != batch.labels).sum()
        return torch.nn.functional.cross_entropy(logits, batch.labels), {"wrong": wrong}

    normalize = Normalize(preprocessing, place)
    if place.type == "cuda" and can_be_resident(images, recipe.augmentation):  # as pipeline.py decides
        resident = ResidentBatches(images, recipe.augmentation, normalize, batch=BATCH, seed=0, device=place)
        return speed(fit_resident(training, resident, loss_of, lambda step: 0.1, precision=precision), seconds, device)
    batches = training_batches(images, recipe.augmentation, normalize, batch=BATCH, seed=0, start=0, device=place)
    steps = fit(training, batches, loss_of, lambda step: 0.1, seed_at=lambda step: key(0, step), precision=precision)
    return speed(steps, seconds, device)


def speed(steps: Iterator[object], seconds: float, device: str) -> float:
    """Images per second over `seconds`, after a few steps to warm up."""
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(WARMUP):
        next(steps)
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(steps)
        count += 1
    wait()
    return count * BATCH / (time.perf_counter() - began)


CONTESTANTS = {
    "reference": reference,
    "ours, paper recipe (float32)": lambda device, seconds: ours(device, seconds, "paper"),
    "ours, modern recipe": lambda device, seconds: ours(device, seconds, "modern"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20, help="measured per turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.one:
        import torch

        torch.set_num_threads(arguments.threads)
        print(CONTESTANTS[arguments.one](arguments.device, arguments.seconds))
        return
    speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name in CONTESTANTS:
            command = [sys.executable, __file__, "--one", name, "--seconds", str(arguments.seconds)]
            command += ["--threads", str(arguments.threads), "--device", arguments.device]
            environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            speeds[name].append(float(done.stdout.split()[-1]))
    ratios = {
        name: statistics.median(own / other for own, other in zip(found, speeds["reference"], strict=True))
        for name, found in speeds.items()
    }
    if arguments.json:
        from residual.records import environment as where

        print(json.dumps({"images_per_second": speeds, "ratio": ratios, "environment": where()}, indent=2))
        return
    print(f"ResNet-20, batch {BATCH}, {arguments.device}, {arguments.threads} threads, {arguments.rounds} rounds")
    for name, found in speeds.items():
        print(f"  {name:30} {statistics.median(found):8,.0f} images/s   {ratios[name]:5.2f} x the reference")


if __name__ == "__main__":
    main()
