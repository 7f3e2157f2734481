"""How a number or a curve is read off finished run folders.  Errors in percent.

What takes long to measure is kept in the run folder, beside what it was measured with, and measured once.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from residual.analyze.responses import responses
from residual.data.images import Dataset, ImageFiles, Images
from residual.data.transforms import Normalize, view
from residual.evaluate.error import top_k_error
from residual.evaluate.look import Member, combined, look
from residual.evaluate.originals import as_files
from residual.evaluate.protocol import Protocol, keeps_square, one_crop
from residual.evaluate.score import Scores
from residual.pipeline import planned_classification, read_data
from residual.records import RunFolder, read_json, write_json
from residual.reproduce.experiment import Measure
from residual.train.precision import pick_device
from residual.weights.sources import load

ITERATIONS = 1e-4  # the paper's horizontal axes count tens of thousands
EARLY = 0.2  # share of a training that is its beginning
ANALYZED = 10_000  # images that responses are measured on
AT_ONCE = 500  # of them


# --- errors that the training itself has recorded --------------------------------------------------------------


def test_error(runs: Sequence[Path]) -> float:
    """Top-1 error of the last iteration's weights, one view of each held-out image, which chose nothing."""
    return _number(runs, "evaluation.json", "top1_error")


def top5_error(runs: Sequence[Path]) -> float:
    """Top-5 error of the last iteration's weights, one view of each held-out image."""
    return _number(runs, "evaluation.json", "top5_error")


def chosen_test_error(runs: Sequence[Path]) -> float:
    """Top-1 test error of the weights with the lowest validation error."""
    return _number(runs, "evaluation-best.json", "top1_error")


def lowest_test_error(runs: Sequence[Path]) -> float:
    """The lowest top-1 test error of several trainings."""
    return min(test_error([run]) for run in runs)


def training_error(runs: Sequence[Path]) -> float:
    """Mean error on the training images, as they come by and varied as they are, over the last pass."""
    (run,) = runs
    lines = _training_lines(run)
    return _mean(lines, after=lines[-1]["epoch"] - 1, until=lines[-1]["epoch"])


def early_training_error(runs: Sequence[Path]) -> float:
    """Mean error on the training images over the first fifth of the training: the lower, the faster it begins."""
    (run,) = runs
    lines = _training_lines(run)
    return _mean(lines, after=0.0, until=EARLY * lines[-1]["epoch"])


def curves(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Training error and error on held-out images, against tens of thousands of iterations."""
    lines = RunFolder.open(run).metrics()
    found = {}
    for name in ("training error", "test error", "validation error"):
        key = "train_error" if name == "training error" else name.replace(" ", "_")
        points = [(line["step"] * ITERATIONS, line[key]) for line in lines if key in line and not line.get("final")]
        if points:
            found[name] = points
    return found


def _number(runs: Sequence[Path], file: str, name: str) -> float:
    (run,) = runs
    return _in(read_json(run / file, dict[str, Any]), name, run)


def _in(found: dict[str, Any], name: str, run: Path) -> float:
    if name not in found:
        raise ValueError(
            f"of {run} there is no {name}; a top-5 error is measured where there are more than five classes"
        )
    return float(found[name])


def _training_lines(run: Path) -> list[dict[str, Any]]:
    lines = [line for line in RunFolder.open(run).metrics() if "train_error" in line]
    if not lines:
        raise ValueError(f"{run} has no training error in its metrics.jsonl; its training has not begun")
    return lines


def _mean(lines: list[dict[str, Any]], *, after: float, until: float) -> float:
    """Over the passes from `after` to `until`; a line is the mean of the iterations since the line before it."""
    weighted, iterations, before = 0.0, 0, 0
    for line in lines:
        if after + 1e-6 < line["epoch"] <= until + 1e-6:
            weighted += line["train_error"] * (line["step"] - before)
            iterations += line["step"] - before
        before = line["step"]
    return weighted / iterations if iterations else float(lines[0]["train_error"])


# --- errors under the protocols of section 3.4 -----------------------------------------------------------------


def error_under(views: Callable[[Protocol], Protocol], *, top: int = 1) -> Measure:
    """Top-`top` error of the last weights under a test protocol; of several runs that of their ensemble.

    views: what becomes of the network's own crop: `ten_crop` or `multi_scale` of residual/evaluate/protocol.py.
    """

    def measure(runs: Sequence[Path]) -> float:
        if len(runs) > 1:
            return top_k_error(_seen(runs, views), top)
        return _in(_kept(runs[0], views), f"top{top}_error", runs[0])

    return measure


def _kept(run: Path, views: Callable[[Protocol], Protocol]) -> dict[str, Any]:
    """Top-1 and top-5 error of one run under a protocol, from its folder if they were measured before."""
    protocol = views(one_crop(load(run).card.preprocessing))
    path, told = run / f"evaluation-{protocol.name}.json", msgspec.json.decode(msgspec.json.encode(protocol))
    found = read_json(path, dict[str, Any]) if path.is_file() else {}
    if found.get("protocol") != told:
        scores = _seen([run], views)
        errors = {f"top{top}_error": top_k_error(scores, top) for top in (1, 5) if top < scores.logits.shape[1]}
        found = {"protocol": told, "images": len(scores), **errors}
        write_json(path, found)
    return found


def _seen(runs: Sequence[Path], views: Callable[[Protocol], Protocol]) -> Scores:
    """What the last weights of one or more runs say of their held-out images under a protocol, averaged."""
    plan, data = planned_classification(runs[0]), read_data(planned_classification(runs[0]))
    images = held_out(data)
    networks = [load(run) for run in runs]
    device = pick_device(plan.device)
    members = [
        Member(
            model=network.to(device),
            preprocessing=network.card.preprocessing,
            protocol=views(one_crop(network.card.preprocessing)),
        )
        for network in networks
    ]
    if isinstance(images, Images) and any(_lacks(images, data, member) for member in members):
        images = as_files(images, Path(plan.data), workers=plan.workers)
    said = [combined(each, members[0].protocol.average) for each in look(members, images, device)]
    return Scores(torch.cat(said), images.labels.cpu(), members[0].protocol)


def held_out(data: Dataset) -> Images | ImageFiles:
    """The test images, or without them the validation images."""
    images = data.test if data.test is not None else data.validation
    if images is None:
        raise ValueError(f"{data.origin} has neither test nor validation images, so nothing can be measured on it")
    return images


def _lacks(images: Images, data: Dataset, member: Member) -> bool:
    """Whether the squares that were cut out of photographs do not hold all that a protocol looks at."""
    height, width, _ = images.shape
    uncut = set(data.sizes) <= {f"{width}x{height}"}
    return not uncut and not keeps_square(member.protocol, view(member.preprocessing))


# --- responses (figure 7) --------------------------------------------------------------------------------------


def mean_response(runs: Sequence[Path]) -> float:
    """Mean over the 3x3 layers of their responses' standard deviations."""
    (run,) = runs
    found = layer_responses(run)
    return sum(found) / len(found)


def responses_in_order(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Standard deviation of each 3x3 layer's response against the number of the layer, from 1."""
    return {"response": [(float(layer), std) for layer, std in enumerate(layer_responses(run), start=1)]}


def responses_sorted(run: Path) -> dict[str, list[tuple[float, float]]]:
    """The same, the strongest first."""
    return {"response": [(float(n), std) for n, std in enumerate(sorted(layer_responses(run))[::-1], start=1)]}


def layer_responses(run: Path) -> list[float]:
    """Standard deviations on the first held-out images, with the last weights; which images, the paper does not say."""
    path = run / "responses.json"
    if path.is_file():
        return [float(std) for std in read_json(path, dict[str, Any])["std"]]
    plan, network = planned_classification(run), load(run)
    images = held_out(read_data(plan))
    device = pick_device(plan.device)
    normalize, count = Normalize(network.card.preprocessing, device), min(ANALYZED, len(images))

    def batches() -> Iterator[Tensor]:
        places = (torch.arange(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))
        for pixels in images.stream(places):
            yield normalize(pixels.to(device))

    found = responses(network.to(device), batches())
    write_json(path, {"images": count, "std": found})
    return found
