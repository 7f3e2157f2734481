"""How a number or a curve is read off finished run folders.  Errors in percent.

What takes long to measure is an exam: done once, and kept (exam.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from residual.analyze.responses import responses
from residual.data.images import Dataset, ImageFiles, Images
from residual.data.transforms import Normalize, Preprocessing, view
from residual.evaluate.error import top_k_error
from residual.evaluate.look import Member, combined, look, with_progress
from residual.evaluate.originals import as_files
from residual.evaluate.protocol import Protocol, keeps_square, multi_scale, one_crop, ten_crop
from residual.evaluate.score import Scores
from residual.pipeline import planned_classification, read_data
from residual.records import RunFolder, convert, read_json
from residual.reproduce.arithmetic import Load, at_scales, looked, together
from residual.reproduce.data import source
from residual.reproduce.exam import Drawn, Examined, Tell, Way, of_run, refuse_other_images
from residual.reproduce.experiment import AnySetting, Measure
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
    return _in(read_json(run / file, dict[str, Any]), name, of=f"{run}: ")


def _in(found: dict[str, Any], name: str, *, of: str = "") -> float:
    if name not in found:
        raise ValueError(f"{of}there is no {name}; a top-5 error is measured where there are more than five classes")
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

PROTOCOLS = {"ten-crop": ten_crop, "multi-scale": multi_scale}


class Views(Way, frozen=True, kw_only=True, tag=True):
    """Held-out images under a test protocol of residual/evaluate/protocol.py, made for each network's own crop.

    The networks of several runs are one ensemble.
    """

    protocol: Literal["ten-crop", "multi-scale"]

    @property
    def words(self) -> str:
        """The protocol's name."""
        return self.protocol

    def examine(self, runs: Sequence[Path], tell: Tell) -> dict[str, Any]:
        """Top-1 error, and of more than five classes top-5 error."""
        scores = _seen(runs, self.protocol, tell)
        errors = {f"top{top}_error": top_k_error(scores, top) for top in (1, 5) if top < scores.logits.shape[1]}
        return {"protocol": msgspec.to_builtins(scores.protocol), "images": len(scores), **errors}

    def rules(self, runs: Sequence[Path]) -> Any:
        """The protocol of each network, told completely."""
        return [_protocol(self.protocol, convert(of_run(run, "preprocessing"), Preprocessing)) for run in runs]

    def load(self, settings: Sequence[AnySetting]) -> Load:
        """Of all views by all networks."""
        views = 10 if self.protocol == "ten-crop" else 2 * at_scales(settings[0])  # and mirrored
        return together(looked(each) for each in settings).times(views)


def error_under(protocol: Literal["ten-crop", "multi-scale"], *, top: int = 1) -> Measure:
    """Top-`top` error of the last weights under a test protocol; of several runs that of their ensemble."""
    return Examined(Views(protocol=protocol), lambda found: _in(found, f"top{top}_error"))


def _protocol(name: str, preprocessing: Preprocessing) -> Protocol:
    return PROTOCOLS[name](one_crop(preprocessing))


def _seen(runs: Sequence[Path], protocol: str, tell: Tell) -> Scores:
    """What the last weights of one or more runs say of their held-out images under a protocol, averaged."""
    plan, data = planned_classification(runs[0]), read_data(planned_classification(runs[0]))
    split, images = held_out(data)
    tell(0, len(images))
    refuse_other_images(runs, split, images)
    networks = [load(run) for run in runs]
    device = pick_device(plan.device)
    members = [
        Member(
            model=network.to(device),
            preprocessing=network.card.preprocessing,
            protocol=_protocol(protocol, network.card.preprocessing),
        )
        for network in networks
    ]
    if isinstance(images, Images) and any(_lacks(images, data, member) for member in members):
        images = as_files(images, Path(plan.data), workers=plan.workers)
    looked_at = with_progress(look(members, images, device), len(images), tell)
    said = [combined(each, members[0].protocol.average) for each in looked_at]
    return Scores(torch.cat(said), images.labels.cpu(), members[0].protocol)


def held_out(data: Dataset) -> tuple[str, Images | ImageFiles]:
    """The test images, or without them the validation images, and the name of their split."""
    for split, images in (("test", data.test), ("validation", data.validation)):
        if images is not None:
            return split, images
    raise ValueError(f"{data.origin} has neither test nor validation images, so nothing can be measured on it")


def _lacks(images: Images, data: Dataset, member: Member) -> bool:
    """Whether the squares that were cut out of photographs do not hold all that a protocol looks at."""
    height, width, _ = images.shape
    uncut = set(data.sizes) <= {f"{width}x{height}"}
    return not uncut and not keeps_square(member.protocol, view(member.preprocessing))


# --- responses (figure 7) --------------------------------------------------------------------------------------


class Responses(Way, frozen=True, kw_only=True, tag=True):
    """How strongly the 3x3 layers respond to the first held-out images; which images, the paper does not say."""

    @property
    def words(self) -> str:
        """In a word."""
        return "responses"

    def examine(self, runs: Sequence[Path], tell: Tell) -> dict[str, Any]:
        """The layers' standard deviations, in their order, with the last weights."""
        (run,) = runs
        plan, network = planned_classification(run), load(run)
        split, images = held_out(read_data(plan))
        tell(0, len(images))
        refuse_other_images(runs, split, images)
        device = pick_device(plan.device)
        normalize, count = Normalize(network.card.preprocessing, device), min(ANALYZED, len(images))

        def batches() -> Iterator[Tensor]:
            places = (torch.arange(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))
            done = 0
            for pixels in images.stream(places):
                yield normalize(pixels.to(device))
                done += len(pixels)
                tell(done, count)

        return {"images": count, "std": responses(network.to(device), batches())}

    def rules(self, runs: Sequence[Path]) -> Any:
        """On how many images."""
        return {"images": ANALYZED}

    def load(self, settings: Sequence[AnySetting]) -> Load:
        """Of one look."""
        return looked(settings[0])

    def images(self, setting: AnySetting) -> int:
        """The first ones."""
        return min(ANALYZED, source(setting.data).held)


def _mean_of(found: dict[str, Any]) -> float:
    return float(fmean(found["std"]))


mean_response = Examined(Responses(), _mean_of)
"""Mean over the 3x3 layers of their responses' standard deviations."""


def _in_order(found: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return {"response": [(float(layer), float(std)) for layer, std in enumerate(found["std"], start=1)]}


def _sorted(found: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    return _in_order({"std": sorted(found["std"], reverse=True)})


responses_in_order = Drawn(Responses(), _in_order)
"""Standard deviation of each 3x3 layer's response against the number of the layer, from 1."""
responses_sorted = Drawn(Responses(), _sorted)
"""The same, the strongest first."""
