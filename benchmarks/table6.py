"""What table 6 takes on this device: its networks trained alone and several side by side.

    python benchmarks/table6.py [--device cuda] [--side-by-side 8] [--seconds 5] [--formats float32 bfloat16]

Alone         one network, the ordinary loop: every operation launched by the host
Captured      one network, whole iterations replayed as graphs (on a CPU: the same iteration, uncaptured)
Side by side  so many of them, each from a thread with a stream of its own

Images are random bytes: their content does not matter to speed.  The last lines add up what table 6 asks for: rows 20
to 56 with three seeds, 110 and the plain twins once, 64,000 iterations each.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

BATCH, ITERATIONS, WARMUP = 128, 64_000, 8
RUNS = {20: 3, 32: 3, 44: 3, 56: 3, 110: 1}  # layers: seeds
TWINS = (20, 32, 44, 56, 110)  # plain, once


def steps(layers: int, format: str, device: str, *, captured: bool) -> Iterator[object]:
    """A network of table 6 in training, by the recipe of the paper but for the number format."""
    import torch
    from torch.nn import functional

    from residual.data.batches import Batch, training_batches
    from residual.data.images import Images
    from residual.data.resident import ResidentBatches
    from residual.data.transforms import Normalize, Preprocessing, key
    from residual.models.catalog import describe
    from residual.models.resnet import ResNet
    from residual.recipes.paper import paper
    from residual.train.graph import ALONE, fit_resident
    from residual.train.loop import Training, fit
    from residual.train.optimizer import make_optimizer
    from residual.train.precision import Precision, settle

    recipe, place = paper(layers), torch.device(device)
    precision = Precision(place, format == "bfloat16")
    settle(precision)
    images = Images(
        pixels=torch.randint(0, 256, (50_000, 32, 32, 3), dtype=torch.uint8),
        labels=torch.randint(0, 10, (50_000,)),
        classes=tuple("0123456789"),
        names=("",) * 50_000,
    )
    normalize = Normalize(Preprocessing(size=32, mean=(125.0,) * 3072, std=(1.0,) * 3), place)
    with ALONE:
        model = precision.place(ResNet(describe(f"resnet{layers}")))
    training = Training(model, make_optimizer(model, recipe.optimizer))

    def loss_of(network: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return functional.cross_entropy(network(batch.images), batch.labels), {}

    if captured:
        stream = ResidentBatches(images, recipe.augmentation, normalize, batch=BATCH, seed=0, device=place)
        return fit_resident(training, stream, loss_of, lambda step: 0.1, precision=precision)
    batches = training_batches(images, recipe.augmentation, normalize, batch=BATCH, seed=0, start=0, device=place)
    return fit(training, batches, loss_of, lambda step: 0.1, seed_at=lambda step: key(0, step), precision=precision)


def rate(make: Callable[[], Iterator[object]], count: int, seconds: float, device: str) -> float:
    """Iterations per second of `count` trainings together, each in a thread."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    done = [0] * count
    ready, over = threading.Barrier(count + 1), threading.Event()

    def train(place: int) -> None:
        stream = torch.cuda.Stream(device) if device.startswith("cuda") else None
        with torch.cuda.stream(stream):
            loop = make()
            for _ in range(WARMUP):
                next(loop)
            ready.wait()
            while not over.is_set():
                next(loop)
                done[place] += 1

    threads = [threading.Thread(target=train, args=(place,), daemon=True) for place in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    wait()
    began = time.perf_counter()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    wait()
    return sum(done) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--side-by-side", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5, help="measured for each number")
    parser.add_argument("--layers", type=int, nargs="+", default=list(RUNS))
    parser.add_argument("--formats", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device, beside = arguments.device, arguments.side_by_side
    found: dict[str, dict[int, dict[str, float]]] = {}
    for format in arguments.formats:
        for layers in arguments.layers:

            def make(layers: int = layers, format: str = format, captured: bool = True) -> Iterator[object]:
                return steps(layers, format, device, captured=captured)

            speeds = {
                "alone": rate(lambda make=make: make(captured=False), 1, arguments.seconds, device),
                "captured": rate(make, 1, arguments.seconds, device),
                f"{beside} side by side": rate(make, beside, arguments.seconds, device),
            }
            found.setdefault(format, {})[layers] = speeds
            if not arguments.json:
                told = "   ".join(
                    f"{name} {BATCH * speed:9,.0f} images/s ({speed / speeds['alone']:5.2f} x)"
                    for name, speed in speeds.items()
                )
                print(f"ResNet-{layers:<4} {format:9} {told}", flush=True)
    if arguments.json:
        from residual.records import environment

        told_all: dict[str, Any] = {"iterations_per_second": found, "environment": environment()}
        print(json.dumps(told_all, indent=2))
        return
    for format, speeds_of in found.items():
        if set(RUNS) <= speeds_of.keys():  # plain twins are taken to cost what the residual networks do
            runs = [layers for layers, seeds in RUNS.items() for _ in range(seeds)] + list(TWINS)
            seconds = sum(ITERATIONS / speeds_of[layers][f"{beside} side by side"] for layers in runs)
            print(
                f"table 6 in {format}, {len(runs)} trainings of {ITERATIONS:,} iterations: {seconds / 60:.1f} minutes"
            )


if __name__ == "__main__":
    main()
