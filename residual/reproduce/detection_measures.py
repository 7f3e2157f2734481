"""How a number is read off finished runs of detectors and localizers.  In percent.

What takes long to measure is an exam: done once, and kept (exam.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from residual.data.decode import Pixels
from residual.data.objects import ObjectImages
from residual.detect.detections import Detections
from residual.detect.detector import Detector, find_together
from residual.detect.evaluation import evaluate_finding
from residual.detect.found import Found
from residual.detect.imagenet import det_precision
from residual.detect.localizer_evaluation import evaluate_localizer, localizing
from residual.detect.procedure import Procedure
from residual.detect.weights import load
from residual.evaluate.protocol import SCALES
from residual.pipeline import DetectionPlan, planned, read_objects
from residual.records import convert, read_json
from residual.reproduce.arithmetic import Load, placed, searched, together
from residual.reproduce.data import held_out, source
from residual.reproduce.exam import Examined, Tell, Way, of_run, refuse_other_images
from residual.reproduce.experiment import AnySetting, DetectionSetting, Measure
from residual.serve.classes import surest_classes
from residual.serve.detect import improved
from residual.train.precision import pick_device

How = Literal["as trained", "refined", "improved"]
"""How a detector is tested: as at the end of its training (tables 7 and 8); with boxes that are judged once more, and
vote ("box refinement" of table 9); with all of table 9 that a single network has, five scales among it.
"""


def procedure_of(how: How, own: Procedure) -> Procedure:
    """That way, from the one in which a detector was tested at the end of its training."""
    match how:
        case "as trained":
            return own
        case "refined":
            return replace(own, refined=True, voters=improved(own).voters)
        case "improved":
            return improved(own)


class Finding(Way, frozen=True, kw_only=True, tag=True):
    """Detectors that look for objects, of several runs together as one."""

    how: How = "as trained"

    @property
    def words(self) -> str:
        """In a word."""
        return f"detection, {self.how}"

    def recorded(self, runs: Sequence[Path]) -> dict[str, Any] | None:
        """evaluation.json, if it is of this and of the images that the lists say."""
        if not self.is_recorded(len(runs)):
            return None
        try:
            found = read_json(runs[0] / "evaluation.json", dict[str, Any])
        except ValueError:
            return None
        whole = {"split", "map50", "voc07", "per_class", "coco"} <= found.keys()
        return found if whole and self.is_recorded(1, _plan(runs[0]).lists, str(found["split"])) else None

    def is_recorded(self, networks: int, lists: str | None = None, split: str = "test") -> bool:
        """Whether a training has looked in this way itself: alone, as it is tested at its end, and at the images that
        the lists say.  split: where it has looked.
        """
        return networks == 1 and self.how == "as trained" and ("/" not in (lists or "") or split == "validation")

    def examine(self, runs: Sequence[Path], tell: Tell) -> dict[str, Any]:
        """As evaluation.json has it, and by DET's rules."""
        plan, detectors = _plan(runs[0]), [load(run) for run in runs]
        split, images = _images(runs, detectors[0], tell)
        procedure = procedure_of(self.how, detectors[0].card.procedure)
        device = pick_device(plan.device)
        for each in detectors:
            each.to(device)
        answers: list[Detections] = []

        def find(pixels: Pixels) -> Found:
            found = find_together(detectors, pixels, procedure)
            answers.append(found.detections())
            return found

        found = evaluate_finding(
            find,
            images,
            split=split,
            procedure=procedure,
            masks=detectors[0].card.masks,
            workers=plan.workers,
            progress=tell,
            mistakes=0,
        )
        return found | {"det": det_precision(answers, images.objects, len(images.classes))[0]}

    def rules(self, runs: Sequence[Path]) -> Any:
        """The procedure, told completely."""
        return procedure_of(self.how, convert(of_run(runs[0], "procedure"), Procedure))

    def load(self, settings: Sequence[AnySetting]) -> Load:
        """Of all networks; of one that its training has tested in this way, nothing."""
        refined, scales, count = self.how != "as trained", self.how == "improved", len(settings)
        detectors = [setting for setting in settings if isinstance(setting, DetectionSetting)]
        if self.is_recorded(count, source(settings[0].data).lists):
            return Load(0, 0)
        return together(searched(each, refined=refined, scales=scales, networks=count) for each in detectors)


def precision(of: Callable[[dict[str, Any]], Any], how: How = "as trained") -> Measure:
    """A number of an evaluation, with the last weights; of several runs that of their ensemble.

    of: picks the number, as `map50` and its like do.
    """
    assert of is not det or how != "as trained", "no training records it"

    def pick(found: dict[str, Any]) -> float:
        if (value := of(found)) is None:
            raise ValueError("what it was measured on has no object that this number is of")
        return float(value)

    return Examined(Finding(how=how), pick)


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


def _images(runs: Sequence[Path], detector: Detector, tell: Tell) -> tuple[str, ObjectImages]:
    """The images that detectors are measured on together, and the name of their split."""
    plan = _plan(runs[0])
    data = read_objects(plan)
    images = held_out(data, plan.lists)
    if images is None:
        raise ValueError(f"{data.origin} has neither test nor validation images, so nothing can be measured on it")
    assert images.classes == detector.card.classes, "a run's data has its classes in its order"
    split = next(name for name, each in data.splits().items() if each is images)
    tell(0, len(images))
    refuse_other_images(runs, split, images)
    return split, images


def _plan(run: Path) -> DetectionPlan:
    plan = planned(run)
    assert isinstance(plan, DetectionPlan), f"{run} is of a detector"
    return plan


# --- localization (tables 13 and 14) -----------------------------------------------------------------------------


class Placing(Way, frozen=True, kw_only=True, tag=True):
    """A localizer that places objects: the first of the runs.

    dense: looked at whole at the five scales of section 3.4 in proportion, not at one.  second: with the second step
    (R-CNN).  named: the five classes are a classifier's: of the run that comes second, or else the network that the
    localizer began with; without either, its own.
    """

    dense: bool = False
    second: bool = False
    named: bool = False

    @property
    def words(self) -> str:
        """In a word."""
        said = {"five scales": self.dense, "R-CNN": self.second, "classes of a classifier": self.named}
        return ", ".join(["localization", *(word for word, is_so in said.items() if is_so)])

    def others(self, runs: Sequence[Path]) -> list[Path]:
        """The network that the localizer began with, where it names the classes."""
        trunk = _plan(runs[0]).trunk if self.named and len(runs) == 1 else None
        return [] if trunk is None else [Path(trunk)]

    def examine(self, runs: Sequence[Path], tell: Tell) -> dict[str, Any]:
        """As a localizer's evaluation.json has it."""
        run = runs[0]
        plan, detector = _plan(run), load(run)
        split, images = _images([run], detector, tell)
        device: torch.device = pick_device(plan.device)
        detector.to(device)
        sides = self._sides(detector.card.procedure.side)
        namer = next(iter([*map(str, runs[1:]), plan.trunk])) if self.named else None
        classify = None if namer is None else surest_classes(namer, images.classes, device)
        find, place = localizing(detector, sides, second=self.second, classify=classify)
        return evaluate_localizer(
            find,
            place,
            images,
            split=split,
            classes_from=namer or "itself",
            sides=sides,
            second=self.second,
            workers=plan.workers,
            progress=tell,
            mistakes=0,
        )

    def rules(self, runs: Sequence[Path]) -> Any:
        """At which sides."""
        return {"sides": self._sides(convert(of_run(runs[0], "procedure"), Procedure).side)}

    def _sides(self, side: int) -> tuple[int, ...]:
        return tuple(round(scale * side / SCALES[0]) for scale in SCALES) if self.dense else (side,)

    def load(self, settings: Sequence[AnySetting]) -> Load:
        """Of the localizer; a classifier's one view is little beside it."""
        assert isinstance(settings[0], DetectionSetting), "the localizer comes first"
        return placed(settings[0], dense=self.dense, second=self.second, named=self.named)


def localization_error(of: str, *, dense: bool = False, second: bool = False, named: bool = False) -> Measure:
    """An error of a localizer, "given_class_error" or "top5_error", found in one of the ways of `Placing`."""
    return Examined(Placing(dense=dense, second=second, named=named), lambda found: float(found[of]))
