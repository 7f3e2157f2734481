"""How fast are objects found on the CPU?  Ours beside torchvision's detector and beside ourselves, in one run.

    python benchmarks/detect.py [--threads 2] [--rounds 7] [--sizes 480x640,600x800] [--only pyramid|c4] [--json]

From pixels in bytes to boxes in the image's pixels, one image at a time; contestants take turns, image by image, and
ratios are between neighbours of one round.  Torchvision pads an image to whole numbers of 32 pixels; where nothing is
to be padded, all must find the same to 1e-4.

A pyramid on ResNet-50, 1000 proposals and 100 answers an image, all with the same random weights and the same answers
    torchvision     fasterrcnn_resnet50_fpn, in eager mode, without gradients
    channels last   the same, its weights in that order, which is faster
    as trained      our network as `residual train` leaves it, without what is below
    ours            Detector.find: batch norms in the weights, ReLUs and additions done with the convolutions
                    (residual.detect.inference), regions cut by tables (lookup), and overlaps looked for among the
                    surest proposals alone

C4 on ResNet-50 and ResNet-101 (the paper's form), 300 proposals
    as trained      frozen batch norms as layers of their own, channels first, torchvision's RoI pooling, and overlaps
                    looked for among all proposals
    ours            as above

Of ours is told which part of the time goes into choosing proposals, cutting regions out, and choosing answers.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

CLASSES = tuple(f"class {number}" for number in range(1, 21))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PARITY = Path(__file__).parent.parent / "tests" / "detect" / "test_pyramid.py"

Contestants = dict[str, Callable[[], Any]]


# --- contestants ---------------------------------------------------------------------------------------------------


def on_a_pyramid(pixels: np.ndarray) -> Contestants:
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
    from residual.detect.proposals import ProposalDescription
    from residual.detect.pyramid import PyramidDescription
    from residual.detect.regions import RegionDescription
    from residual.models.catalog import describe

    shorter, longer = sorted(pixels.shape[:2])

    def theirs() -> nn.Module:
        torch.manual_seed(0)
        net = fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=len(CLASSES) + 1, min_size=shorter, max_size=longer
        )
        varied(net)
        return net.eval()

    description = DetectorDescription(
        trunk=describe("resnet50_v1_5"),
        classes=CLASSES,
        pyramid=PyramidDescription(),
        proposals=ProposalDescription(
            sizes=(32.0,), stand="corner", width=256, before=(2000, 1000), after=(2000, 1000), smallest=1e-3
        ),
        regions=RegionDescription(cut="corner-align", overlap=0.5),
    )
    net = FasterRCNN(description)
    net.load_state_dict(by_our_names(theirs()))
    return {
        "torchvision": torchvisions(theirs(), pixels),
        "channels last": torchvisions(theirs().to(memory_format=torch.channels_last), pixels),
        **ours(net, pixels),
    }


def by_our_names(net: nn.Module) -> dict[str, Tensor]:
    """The weights of torchvision's detector, as the test of parity renames them."""
    spec = importlib.util.spec_from_file_location("parity", PARITY)
    assert spec is not None
    assert spec.loader is not None
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    return dict(parity.given(net))


def on_c4(name: str, pixels: np.ndarray) -> Contestants:
    from residual.detect.faster_rcnn import DetectorDescription, FasterRCNN
    from residual.models.catalog import describe

    torch.manual_seed(0)
    net = FasterRCNN(DetectorDescription(trunk=describe(name), classes=CLASSES, frozen=True))
    varied(net)
    return ours(net, pixels)


def varied(net: nn.Module) -> None:
    """Random weights, but of such sizes that maps stay near one, boxes differ, and there are many answers."""
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith("running_var"):
            tensor.data.fill_(4.0)
        elif name.endswith(("cls_logits.weight", "bbox_pred.weight", "score.weight", "box.weight")):
            proposing = name.startswith(("rpn", "proposer"))
            nn.init.normal_(tensor, std=0.1 if proposing else 0.3)


def torchvisions(net: nn.Module, pixels: np.ndarray) -> Callable[[], Any]:
    def find() -> Any:
        with torch.inference_mode():
            return net([torch.from_numpy(pixels).permute(2, 0, 1) / 255])[0]

    return find


def ours(net: Any, pixels: np.ndarray) -> Contestants:
    from residual.detect.card import DetectorCard
    from residual.detect.detector import Detector
    from residual.detect.procedure import Procedure, detect

    shorter, longer = sorted(pixels.shape[:2])
    procedure = Procedure(side=shorter, longest=longer)
    card = DetectorCard(
        name="benchmark", classes=CLASSES, mean=MEAN, std=STD, procedure=procedure, detector=net.description
    )
    detector = Detector(card, net.eval())

    def as_trained() -> Any:
        with torch.inference_mode(), unimproved():
            return detect([net], detector.prepared(pixels), procedure)

    return {"as trained": as_trained, "ours": functools.partial(detector.find, pixels)}


@contextmanager
def unimproved() -> Iterator[None]:
    """Regions are cut by torchvision, and all proposals go through the search for overlaps."""
    from torchvision.ops import batched_nms, roi_align, roi_pool

    from residual.detect import boxes as on_boxes
    from residual.detect import lookup, regions

    def pool(features: Tensor, regions: Tensor, side: int, stride: int) -> Tensor:
        return roi_pool(features, regions, side, 1 / stride)

    def align(features: Tensor, regions: Tensor, side: int, stride: int, *, half: float) -> Tensor:
        return roi_align(features, regions, side, 1 / stride, sampling_ratio=2, aligned=half > 0)

    def kept_first(boxes: Tensor, scores: Tensor, groups: Tensor, overlap: float, most: int) -> Tensor:
        return batched_nms(boxes, scores, groups, overlap)[:most]

    with ExitStack() as stack:
        for module, function in ((lookup, pool), (lookup, align), (on_boxes, kept_first), (regions, kept_first)):
            stack.enter_context(patch.object(module, function.__name__, function))
        yield


# --- measuring -----------------------------------------------------------------------------------------------------


def answers(found: Any) -> tuple[Tensor, Tensor]:
    """Scores and boxes."""
    return (found["scores"], found["boxes"]) if isinstance(found, dict) else (found.scores, found.boxes)


def compare(contestants: Contestants, rounds: int, *, padded: bool) -> dict[str, list[float]]:
    """Seconds of an image, for each contestant in each round.  All must have found the same, if nothing is padded."""
    found = {name: answers(find()) for name, find in contestants.items()}
    scores, boxes = found["ours"]
    for name, (theirs, places) in found.items():
        assert len(theirs) == len(scores) > 0, f"{name} finds {len(theirs)} objects, ours {len(scores)}"
        off = max(float((theirs - scores).abs().max()), float((places - boxes).abs().max()) / float(boxes.max()))
        assert padded or off < 1e-4, f"{name} is {off} off ours"
        print(f"  {name:14} finds {len(theirs)} objects, at most {off:.0e} off ours", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, find in contestants.items():
            began = time.perf_counter()
            find()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def shares(find: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Which part of an image's time goes into what stands between the layers; medians."""
    from residual.detect import procedure, regions
    from residual.detect.proposals import ProposalNetwork

    found: dict[str, list[float]] = {"proposals": [], "cuts": [], "answers": []}
    for _ in range(rounds):
        spent = dict.fromkeys(found, 0.0)

        def timed(kind: str, inner: Callable[..., Any], spent: dict[str, float] = spent) -> Callable[..., Any]:
            def outer(*given: Any, **named: Any) -> Any:
                began = time.perf_counter()
                try:
                    return inner(*given, **named)
                finally:
                    spent[kind] += time.perf_counter() - began

            return outer

        with (
            patch.object(ProposalNetwork, "propose", timed("proposals", ProposalNetwork.propose)),
            patch.object(regions, "cut", timed("cuts", regions.cut)),
            patch.object(procedure, "answer", timed("answers", procedure.answer)),
        ):
            began = time.perf_counter()
            find()
            whole = time.perf_counter() - began
        for kind, each in spent.items():
            found[kind].append(each / whole)
    return {kind: statistics.median(each) for kind, each in found.items()}


def told(seconds: dict[str, list[float]]) -> dict[str, object]:
    ratios: dict[str, object] = {}
    for name, each in seconds.items():
        print(f"  {name:14} {1 / statistics.median(each):6.2f} images/s", flush=True)
    for peer, others in seconds.items():
        if peer == "ours":
            continue
        each = [other / own for own, other in zip(seconds["ours"], others, strict=True)]
        ratios[peer] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
        print(f"  ours is {statistics.median(each):.2f} x {peer} ({min(each):.2f} to {max(each):.2f})", flush=True)
    return {"seconds": seconds, "ours_by_peer": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", default="480x640,600x800", help="height x width")
    parser.add_argument("--only", choices=["pyramid", "c4"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    from residual.records import environment

    torch.set_num_threads(arguments.threads)
    where = environment()
    print(f"{arguments.threads} threads, {arguments.rounds} rounds; {json.dumps(where)}")
    results: dict[str, object] = {}
    for size in arguments.sizes.split(","):
        height, width = map(int, size.split("x"))
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        entered: dict[str, Callable[[], Contestants]] = {}
        if arguments.only != "c4":
            entered[f"a pyramid on ResNet-50, {size}"] = functools.partial(on_a_pyramid, pixels)
        if arguments.only != "pyramid":
            for depth in (50, 101):
                entered[f"C4 on ResNet-{depth}, {size}"] = functools.partial(on_c4, f"resnet{depth}", pixels)
        for title, make in entered.items():
            print(title, flush=True)
            contestants = make()
            result = told(compare(contestants, arguments.rounds, padded=height % 32 + width % 32 > 0))
            parts = shares(contestants["ours"], arguments.rounds)
            every = ", ".join(f"{kind} {100 * part:.1f} %" for kind, part in parts.items())
            print(f"  of ours: {every}; together {100 * sum(parts.values()):.1f} %")
            results[title] = result | {"shares": parts}
    if arguments.json:
        print(json.dumps(results | {"environment": where}, indent=2))


if __name__ == "__main__":
    main()
