"""Images per second of training a small detector on the CPU: ours beside regions cut by others, in one run.

    python benchmarks/train_detect.py [--models mnc_small,mask_rcnn_small_c4] [--threads 2] [--rounds 7] [--json]

Ours        the network, recipe, loop and batches of `residual train --model MODEL --data scenes`
Others      the same, but regions are cut out by torchvision's RoI align, and warped by PyTorch's grid_sample, image by
            image, as the authors of most detectors would

The two take turns, some iterations at a time, and go on with one training; ratios are between neighbours.  Both must
make the same loss of the same batch, to 1e-5.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

MODELS = "faster_rcnn_small_c4,mask_rcnn_small_c4,mnc_small"
SCENES, BATCHES, ITERATIONS = 64, 8, 3  # the last: of a round


def training(model: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """The loss of the first batch, and an iteration, which returns its loss."""
    from residual.data.load_objects import object_batches
    from residual.data.scenes import draw_scenes
    from residual.detect.card import card_of
    from residual.detect.catalog import describe_detector
    from residual.detect.detector import network
    from residual.detect.learner import Learner
    from residual.detect.procedure import Procedure
    from residual.recipes.detection import detection_recipe
    from residual.train.loop import Training, fit
    from residual.train.optimizer import make_optimizer
    from residual.train.precision import pick_precision

    recipe = detection_recipe("modern", model)
    scenes = draw_scenes(SCENES, size=recipe.side)
    described = describe_detector(model, scenes.classes, side=recipe.side, anchors=recipe.anchors, norm=recipe.norm)
    procedure = Procedure(side=recipe.side, longest=recipe.augmentation.longer)
    card = card_of(described, name=model, classes=scenes.classes, mean=(0.5,) * 3, std=(0.25,) * 3, procedure=procedure)
    torch.manual_seed(0)
    learner = Learner(network(described), card)
    precision = pick_precision("float32", torch.device("cpu"))
    precision.place(learner)
    endless = object_batches(scenes, recipe.augmentation, batch=recipe.batch, seed=0, masks=card.masks)
    batches = list(itertools.islice(endless, BATCHES))
    steps = fit(
        Training(learner, make_optimizer(learner, recipe.optimizer)),
        itertools.cycle(batches),
        lambda net, batch: net(batch),
        lambda step: recipe.schedule.at(0.05),
        seed_at=lambda step: step,
        precision=precision,
        clip=recipe.clip,
    )

    def first() -> float:
        torch.manual_seed(0)
        return float(learner.train()(batches[0])[0].detach())

    return first, lambda: float(next(steps).loss)


@contextmanager
def cut_by_others() -> Iterator[None]:
    """Regions are cut by torchvision, and warped as a picture by PyTorch."""
    from torchvision.ops import roi_align

    from residual.detect import cascade, lookup

    def align(features: Tensor, regions: Tensor, side: int, stride: int, *, half: float) -> Tensor:
        found: Tensor = roi_align(features, regions, side, 1 / stride, sampling_ratio=2, aligned=half > 0)
        return found

    def warp(features: Tensor, regions: Sequence[Tensor], side: int, stride: int) -> Tensor:
        steps = (torch.arange(side) + 0.5) / side
        limits, cuts = torch.tensor(features.shape[:1:-1]) * stride, []  # width, height
        for boxes, here in zip(regions, features, strict=True):
            at = 2 * (boxes[:, :2] + steps[:, None, None] * (boxes[:, 2:] - boxes[:, :2])) / limits - 1
            x, y = at.transpose(0, 1).unbind(-1)  # (P, side)
            grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], dim=-1)
            tall = functional.grid_sample(here[None], grid.view(1, -1, side, 2), align_corners=False)[0]
            cuts.append(tall.view(len(here), -1, side, side).transpose(0, 1))
        return torch.cat(cuts)

    with ExitStack() as stack:
        for module, function in ((lookup, align), (cascade, warp)):
            stack.enter_context(patch.object(module, function.__name__, function))
        yield


def compare(model: str, rounds: int) -> dict[str, list[float]]:
    """Seconds of an iteration, of ours and of the others, in each round."""
    contestants: dict[str, Callable[[], AbstractContextManager[None]]] = {"ours": nullcontext, "others": cut_by_others}
    first, iteration = training(model)
    losses, seconds = [], {name: list[float]() for name in contestants}
    for entered in contestants.values():
        with entered():
            losses.append(first())
    assert abs(losses[0] - losses[1]) <= 1e-5 * losses[0], f"ours costs {losses[0]}, others {losses[1]}"
    iteration()
    for _ in range(rounds):
        for name, entered in contestants.items():
            with entered():
                began = time.perf_counter()
                for _ in range(ITERATIONS):
                    iteration()
                seconds[name].append((time.perf_counter() - began) / ITERATIONS)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--models", default=MODELS, help="separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from residual.recipes.detection import detection_recipe
    from residual.records import environment

    torch.set_num_threads(arguments.threads)
    where = environment()
    print(f"{arguments.threads} threads, {arguments.rounds} rounds; {json.dumps(where)}")
    results: dict[str, object] = {}
    for model in arguments.models.split(","):
        seconds = compare(model, arguments.rounds)
        ratios = [other / own for own, other in zip(seconds["ours"], seconds["others"], strict=True)]
        speed = detection_recipe("modern", model).batch / statistics.median(seconds["ours"])
        print(
            f"{model:22} {speed:6.1f} images/s, {statistics.median(ratios):.2f} x others "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )
        results[model] = {"seconds": seconds, "ratios": ratios}
    if arguments.json:
        print(json.dumps(results | {"environment": where}, indent=2))


if __name__ == "__main__":
    main()
