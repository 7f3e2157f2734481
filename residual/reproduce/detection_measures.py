"""How a number is read off finished runs of detectors and localizers.  In percent.

What takes long to measure is kept in the folder of the first run, beside what it was measured with, and measured once.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from residual.data.decode import Pixels
from residual.data.objects import ObjectImages
from residual.detect.detections import Detections
from residual.detect.detector import Detector, find_together
from residual.detect.evaluation import evaluate_finding, evaluate_localizer, localizing
from residual.detect.found import Found
from residual.detect.imagenet import det_precision
from residual.detect.procedure import Procedure
from residual.detect.weights import load
from residual.evaluate.protocol import SCALES
from residual.pipeline import DetectionPlan, planned, read_objects
from residual.records import RunFolder, convert, read_json, write_json
from residual.reproduce.data import held_out
from residual.reproduce.experiment import Measure
from residual.serve.classes import surest_classes
from residual.serve.detect import improved
from residual.train.precision import pick_device

How = Callable[[Procedure], Procedure]
"""What becomes of the way in which a detector was tested at the end of its training."""


def as_trained(own: Procedure) -> Procedure:
    """The plain way: tables 7 and 8."""
    return own


def refined(own: Procedure) -> Procedure:
    """Boxes are judged once more, and vote: "box refinement" of table 9."""
    return replace(own, refined=True, voters=improved(own).voters)


def precision(of: Callable[[dict[str, Any]], Any], how: How = as_trained) -> Measure:
    """A number of an evaluation, with the last weights; of several runs that of their ensemble.

    of: picks the number, as `map50` and its like do.
    """

    def measure(runs: Sequence[Path]) -> float:
        own = convert(RunFolder.open(runs[0]).description["procedure"], Procedure)
        as_it_ended = len(runs) == 1 and how(own) == own and of is not det
        found = _at_the_end(runs[0]) if as_it_ended else _together(runs, how(own))
        if (value := of(found)) is None:
            raise ValueError(f"what {runs[0]} was measured on has no object that this number is of")
        return float(value)

    return measure


def map50(found: dict[str, Any]) -> Any:
    """Mean average precision at an overlap of half, area under the curve."""
    return found["map50"]


def voc07(found: dict[str, Any]) -> Any:
    """The same as PASCAL VOC 2007 has it: the mean of the precision at eleven recalls."""
    return found["voc07"]


def voc07_of(name: str) -> Callable[[dict[str, Any]], Any]:
    """That of one class.  Data without such a class, as the drawn images of a miniature are, tells the mean."""
    return lambda found: {row["class"]: row["voc07"] for row in found["per_class"]}.get(name, found["voc07"])


def coco(number: str) -> Callable[[dict[str, Any]], Any]:
    """One of COCO's twelve numbers of boxes: "AP", "AP50"."""
    return lambda found: _coco(found, "coco", number)


def coco_masks(number: str) -> Callable[[dict[str, Any]], Any]:
    """One of COCO's twelve numbers of masks."""
    return lambda found: _coco(found, "coco_masks", number)


def det(found: dict[str, Any]) -> Any:
    """Mean average precision by the rules of ImageNet's detection task: smaller overlaps do for small objects."""
    return found["det"]


def _coco(found: dict[str, Any], of: str, number: str) -> Any:
    if found[of] is None:
        raise ValueError(found.get("coco_missing", "COCO's numbers of masks need an outline of every object"))
    return found[of][number]


def _at_the_end(run: Path) -> dict[str, Any]:
    """What a run recorded of its last weights, unless other images are asked for."""
    found = read_json(run / "evaluation.json", dict[str, Any])
    if "/" in (_plan(run).lists or "") and found["split"] != "validation":
        return _together([run], convert(found["procedure"], Procedure))
    return found


def _together(runs: Sequence[Path], procedure: Procedure) -> dict[str, Any]:
    """What the detectors of one or more runs find together, measured: as evaluation.json has it, and by DET's rules."""
    asked = {"runs": [run.name for run in runs], "procedure": msgspec.to_builtins(procedure)}
    return _kept(runs[0], asked, lambda: _looked(runs, procedure))


def _looked(runs: Sequence[Path], procedure: Procedure) -> dict[str, Any]:
    plan, detectors = _plan(runs[0]), [load(run) for run in runs]
    split, images = _images(plan, detectors[0])
    device = pick_device(plan.device)
    for each in detectors:
        each.to(device)
    answers: list[Detections] = []

    def find(pixels: Pixels) -> Found:
        found = find_together(detectors, pixels, procedure)
        answers.append(replace(found, masks=None).detections())
        return found

    masks, workers = detectors[0].card.masks, plan.workers
    found = evaluate_finding(find, images, split=split, procedure=procedure, masks=masks, workers=workers, mistakes=0)
    return found | {"det": det_precision(answers, images.objects, len(images.classes))[0]}


def _images(plan: DetectionPlan, detector: Detector) -> tuple[str, ObjectImages]:
    """The images that a run is measured on, and the name of their split."""
    data = read_objects(plan)
    images = held_out(data, plan.lists)
    if images is None:
        raise ValueError(f"{data.origin} has neither test nor validation images, so nothing can be measured on it")
    assert images.classes == detector.card.classes, "a run's data has its classes in its order"
    return next(name for name, each in data.splits().items() if each is images), images


def _plan(run: Path) -> DetectionPlan:
    plan = planned(run)
    assert isinstance(plan, DetectionPlan), f"{run} is of a detector"
    return plan


def _kept(run: Path, asked: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured before, or now."""
    digest = hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()[:8]
    path = run / f"evaluation-{digest}.json"
    if not path.is_file():
        write_json(path, {"asked": asked} | measure())
    return read_json(path, dict[str, Any])


# --- localization (tables 13 and 14) -----------------------------------------------------------------------------


def localization_error(of: str, *, dense: bool = False, second: bool = False, named: bool = False) -> Measure:
    """An error of a localizer: "given_class_error", or "top5_error".

    dense: looked at whole at the five scales of section 3.4 in proportion, not at one.  second: with the second step
    (R-CNN).  named: the five classes are a classifier's: of the run that comes second, or else the network that the
    localizer began with; without either, its own.
    """

    def measure(runs: Sequence[Path]) -> float:
        localizer, classifiers = runs[0], list(runs[1:])
        asked = {"runs": [run.name for run in runs], "dense": dense, "second": second, "named": named}
        found = _kept(
            localizer, asked, lambda: _localized(localizer, classifiers, dense=dense, second=second, named=named)
        )
        return float(found[of])

    return measure


def _localized(run: Path, classifiers: list[Path], *, dense: bool, second: bool, named: bool) -> dict[str, Any]:
    plan, detector = _plan(run), load(run)
    split, images = _images(plan, detector)
    device: torch.device = pick_device(plan.device)
    detector.to(device)
    side = detector.card.procedure.side
    sides = tuple(round(scale * side / SCALES[0]) for scale in SCALES) if dense else (side,)
    source = next(iter([*map(str, classifiers), plan.trunk])) if named else None
    classify = None if source is None else surest_classes(source, images.classes, device)
    find, place = localizing(detector, sides, second=second, classify=classify)
    return evaluate_localizer(
        find,
        place,
        images,
        split=split,
        classes_from=source or "itself",
        sides=sides,
        second=second,
        workers=plan.workers,
        mistakes=0,
    )
