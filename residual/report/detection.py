"""The report of a detector: how much it finds, of which classes, and what it takes for what."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from residual.records import RunFolder
from residual.report import charts, confusion, page, training
from residual.report.charts import Curve
from residual.report.description import told, untold
from residual.report.evidence import Description, describe, looks, read_if_there

if TYPE_CHECKING:
    from markupsafe import Markup

ALL_CLASSES = 30  # classes; above this the table opens with the hardest ones
ALL_CURVES = 20  # classes; above this only the hardest and the easiest ones' curves are drawn
HARDEST, EASIEST, TABLED, PAIRS, MISTAKES = 10, 5, 15, 20, 24  # how many are shown
RECALLS = tuple(step / 100 for step in range(101))
BACKGROUND, NOT_FOUND = "background", "not found"
LOSSES = (  # as metrics.jsonl has them, their names in the chart and their colours
    ("loss", "all", charts.THIRD),
    ("proposed", "proposal", charts.FIRST),
    ("placed", "its place", charts.FOURTH),
    ("classed", "class", charts.SECOND),
    ("boxed", "box", charts.FIFTH),
    ("masked", "mask", charts.SIXTH),
    ("outlined", "class in mask", charts.INK),
)
CAUSES = {
    "classification": ("Wrong class", "an object is at this place, of another class"),
    "localization": ("Poor place", "the right class, but the box overlaps the object by less than half"),
    "both": ("Wrong class, poor place", "near an object of another class"),
    "duplicate": ("Found twice", "a second box on an object that was found"),
    "background": ("Nothing there", "a box on the background"),
    "missed": ("Not found", "an object that no box of its class found"),
    "class": ("Wrong class", "the right place or not, the class is another"),
    "place": ("Poor place", "the right class, but the box overlaps no object of it by half"),
}
COCO = {
    "AP": "average precision, mean over overlaps of .5 to .95",
    "AP50": "at an overlap of .5",
    "AP75": "at an overlap of .75",
    "AP small": "objects below 32 × 32 pixels",
    "AP medium": "objects between",
    "AP large": "objects from 96 × 96 pixels on",
    "AR 1": "recall, 1 box of a class an image",
    "AR 10": "recall, 10 boxes of a class an image",
    "AR 100": "recall, 100 boxes of a class an image",
    "AR small": "recall of small objects",
    "AR medium": "recall of objects between",
    "AR large": "recall of large objects",
}
COUNTED = 100  # boxes of a class an image that COCO counts, the surest
WEIGHTS = {
    "last": "the weights of the last iteration",
    "average": "the moving average of the weights",
    "best": "the weights that were best by validation",
}
Count = Annotated[int, Meta(ge=0)]
Curves = list[tuple[float, float]]  # (recall, precision)


class ClassPrecision(Struct, frozen=True, kw_only=True):
    """How much of one class is found."""

    name: str = field(name="class")
    objects: Count
    detections: Count = 0
    ap50: float | None = None  # percent; none where the class has no object
    voc07: float | None = None
    recall: list[float] = []
    precision: list[float] = []


class Confusion(Struct, frozen=True, kw_only=True):
    """What is taken for what, of detections of at least `score`; the last row background, the last column not found."""

    score: float
    counts: list[list[Count]]


class Causes(Struct, frozen=True, kw_only=True):
    """Why detections of at least `score` are wrong."""

    score: float
    counts: dict[str, Count]


class Mistake(Struct, frozen=True, kw_only=True):
    """A part of an image with its truth and a wrong answer drawn on it."""

    name: str
    cause: str
    truth: str | None = None
    predicted: str | None = None
    probability: float | None = None
    overlap: float | None = None
    png: str = ""  # base64


class Evaluation(Struct, frozen=True, kw_only=True):
    """evaluation.json (the last weights) or evaluation-best.json (those best by validation).  Precision in percent."""

    split: str
    weights: str = "last"
    images: Count
    objects: Count
    map50: float
    interval: tuple[float, float] | None = None
    voc07: float | None = None
    coco: dict[str, float | None] | None = None
    coco_masks: dict[str, float | None] | None = None
    coco_missing: str = ""
    coco_most: Count = COUNTED
    per_class: list[ClassPrecision] = []
    confusion: Confusion | None = None
    causes: Causes | None = None
    mistakes: list[Mistake] = []
    procedure: dict[str, Any] = {}
    seconds_per_image: float | None = None


class Procedure(Struct, frozen=True, kw_only=True):
    """How an image was looked at, as `residual.detect.procedure.Procedure`; sides in pixels."""

    side: int
    longest: int
    sides: list[int] = []
    widest: int | None = None
    refined: bool = False
    voters: float | None = None
    shrink: bool = True


@dataclass(frozen=True, kw_only=True)
class Multiple:
    """One small chart of precision over recall: SVG paths in a square of 100 by 100."""

    row: ClassPrecision
    line: str
    area: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One cause of errors in the chart of them."""

    title: str
    words: str
    number: int
    share: float  # of the longest bar
    missed: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A mistake in the gallery."""

    mistake: Mistake
    title: str
    picture: page.Picture | None


def write_detection(run: Path) -> Path:
    """Write report.html into the folder of a detector's run from its records alone; returns its path."""
    description, metrics = describe(run), RunFolder(run).metrics()
    evaluation = read_if_there(run / "evaluation.json", Evaluation)
    best = read_if_there(run / "evaluation-best.json", Evaluation)
    measured = looks(metrics, "map50")
    rows = ranked(evaluation.per_class) if evaluation else []
    known = [row for row in rows if row.ap50 is not None]
    names = tuple(row.name for row in evaluation.per_class) if evaluation else ()
    counts = _counts(evaluation)
    pairs = confusion.confused(counts, names)
    matrix = confusion.matrix(counts, names, beyond=(BACKGROUND, NOT_FOUND))
    procedure = (evaluation and evaluation.procedure) or description.procedure
    return page.write_page(
        run / "report.html",
        "detection.html",
        evaluation=evaluation,
        weights=WEIGHTS.get(evaluation.weights, evaluation.weights) if evaluation else "",
        latest=measured[-1] if measured else None,
        highest=max(measured, key=lambda look: look.value) if measured else None,
        results=results(evaluation, best),
        chosen=best is not None,
        averaged=any(look.averaged for look in measured),
        missing=missing(description, metrics, evaluation),
        curves=training.drawn(
            training.looked(measured),
            training.parts(metrics, LOSSES),
            training.rates(metrics),
            title="mean average precision, %",
        ),
        rows=rows,
        hardest=known[: -TABLED - 1 : -1] if len(rows) > ALL_CLASSES else [],
        unknown=len(rows) - len(known),
        by_voc07=any(row.voc07 is not None for row in rows),
        overall=_overall(known),
        groups=_groups(known),
        mean_line=path(mean_curve(known)) if len(known) > 1 else "",
        matrix=matrix,
        pairs=pairs[:8] if matrix else pairs[:PAIRS],
        lost=[] if matrix else _most(zip(names, _column(counts, len(names)), strict=False)),
        imagined=[] if matrix else _most(zip(names, counts[-1] if counts else [], strict=False)),
        bars=bars(evaluation.causes) if evaluation and evaluation.causes else [],
        mistakes=gallery(evaluation.mistakes) if evaluation else [],
        coco=_coco(evaluation),
        counted=counted_in_words(evaluation),
        procedure=procedure_in_words(procedure),
        procedure_facts=page.facts(procedure),
        **told(description, metrics),
    )


def missing(description: Description, metrics: list[dict[str, Any]], evaluation: Evaluation | None) -> list[str]:
    """What the report of a finished run has and this one has not, in plain words."""
    absent = []
    if not metrics:
        absent.append("metrics.jsonl has no measurement yet, so there are no curves.")
    if evaluation is None:
        absent.append(
            "evaluation.json is not there: training has not ended, or the detector was not evaluated. "
            "There is no final number, no precision of classes, no confusion matrix and no list of mistakes."
        )
    else:
        if evaluation.interval is None:
            absent.append("The mean average precision has no interval.")
        if not evaluation.per_class:
            absent.append("The evaluation has no numbers per class.")
        if evaluation.confusion is None:
            absent.append("The evaluation has no confusion matrix.")
        elif not _counts(evaluation):
            absent.append(
                f"The confusion matrix has not {len(evaluation.per_class) + 1:,} rows and columns, one for each class "
                "and one more, so it is left out."
            )
        if evaluation.causes is None:
            absent.append("The evaluation has no causes of errors.")
        if evaluation.coco is None and evaluation.coco_masks is None:
            why = f": {evaluation.coco_missing}" if evaluation.coco_missing else "."
            absent.append(f"COCO's numbers are not there{why}")
    return absent + untold(description, stages=False)


def results(evaluation: Evaluation | None, best: Evaluation | None) -> list[tuple[str, str, list[float | None]]]:
    """Measure, its meaning, and its value for the last weights and for the best by validation, where there are."""
    columns = [each for each in (evaluation, best) if each]
    most = columns[0].coco_most if columns else COUNTED  # of one detector, so of both
    overlaps = "overlaps .5 to .95" + (f", {most:,} boxes of a class an image" if most != COUNTED else "")
    rows: list[tuple[str, str, list[float | None]]] = [
        ("VOC 2010", "area, overlap .5", [each.map50 for each in columns]),
        ("VOC 2007", "11 points, overlap .5", [each.voc07 for each in columns]),
        ("COCO, boxes", overlaps, [(each.coco or {}).get("AP") for each in columns]),
        ("COCO, masks", overlaps, [(each.coco_masks or {}).get("AP") for each in columns]),
    ]
    return [row for row in rows if any(value is not None for value in row[2])]


def ranked(rows: Iterable[ClassPrecision]) -> list[ClassPrecision]:
    """The best found first; those without objects, which have no precision, last."""
    return sorted(rows, key=lambda row: (row.ap50 is None, -(row.ap50 or 0.0), row.name))


def falling(row: ClassPrecision) -> Curves:
    """A class's curve with the precision made falling, as average precision is the area under it."""
    curve: Curves = []
    for recall, precision in sorted(zip(row.recall, row.precision, strict=False), reverse=True):
        below = curve[-1][1] if curve else 0.0
        curve.append((_fraction(recall), max(_fraction(precision), below)))
    return curve[::-1]


def mean_curve(rows: Iterable[ClassPrecision]) -> Curves:
    """The mean precision of all classes at a hundred recalls; a class counts as 0 where it does not reach."""
    sums, number = [0.0] * len(RECALLS), 0
    for row in rows:
        curve, place = falling(row), 0
        number += 1
        for index, recall in enumerate(RECALLS):
            while place < len(curve) and curve[place][0] < recall - 1e-9:
                place += 1
            sums[index] += curve[place][1] if place < len(curve) else 0.0
    return [(recall, each / number) for recall, each in zip(RECALLS, sums, strict=True)] if number else []


def stairs(curve: Curves) -> Curves:
    """The corners of a falling curve, each level from the recall before up to its own."""
    befores = [0.0, *(recall for recall, _ in curve)]
    return [
        corner
        for (recall, level), before in zip(curve, befores, strict=False)
        for corner in ((before, level), (recall, level))
    ]


def path(curve: Curves) -> str:
    """The same as SVG in a square of 100 by 100: recall to the right, precision upward."""
    corners = [f"{100 * recall:.1f},{100 - 100 * precision:.1f}" for recall, precision in stairs(curve)]
    return "M" + "L".join(corners) if corners else ""


def bars(causes: Causes) -> list[Bar]:
    """The causes in their order, what a later version may add behind."""
    most = max(causes.counts.values(), default=0) or 1
    names = [name for name in CAUSES if name in causes.counts] + sorted(causes.counts.keys() - CAUSES.keys())
    return [
        Bar(
            title=CAUSES.get(name, (name, ""))[0],
            words=CAUSES.get(name, (name, ""))[1],
            number=causes.counts[name],
            share=causes.counts[name] / most,
            missed=name == "missed",
        )
        for name in names
    ]


def gallery(mistakes: list[Mistake]) -> list[Shown]:
    """The mistakes that are shown, the surest first as they were recorded."""
    return [
        Shown(mistake=each, title=CAUSES.get(each.cause, (each.cause, ""))[0], picture=page.picture(each.png))
        for each in mistakes[:MISTAKES]
    ]


def understood(procedure: dict[str, Any]) -> Procedure | None:
    """A recorded procedure, or None where it is not one that this version knows."""
    try:
        return msgspec.convert(procedure, Procedure)
    except msgspec.ValidationError:
        return None


def procedure_in_words(procedure: dict[str, Any]) -> list[str]:
    """How an image was looked at; nothing where the record is not understood."""
    found = understood(procedure)
    if found is None:
        return []
    bound = f"unless its longer side would exceed {found.longest:,}"
    sentences = [
        f"To propose regions, an image is brought to a shorter side of {found.side:,} pixels, {bound}."
        if found.shrink
        else f"To propose regions, an image is enlarged to a shorter side of {found.side:,} pixels if it is smaller; a "
        f"larger one stays as it is, {bound}."
    ]
    if found.sides:
        widest = f", its longer side at most {found.widest:,}" if found.widest is not None else ""
        sides = ", ".join(f"{side:,}" for side in found.sides)
        larger = "" if found.shrink else ", in proportion more where the image is larger"
        sentences.append(
            f"Regions are judged on the image at shorter sides of {sides} pixels{larger}{widest}: each at the two that "
            "suit its size best, which are merged by their maxima."
        )
    else:
        sentences.append("Regions are judged at that one size.")
    sentences.append(
        "The boxes that come of it are judged once more, and both judgements count."
        if found.refined
        else "Each region is judged once."
    )
    sentences.append(
        "Of boxes of a class that overlap, the surest stays; "
        + (
            "none votes on its place."
            if found.voters is None
            else f"those that overlap it by {found.voters:g} or more vote on its place."
        )
    )
    return sentences


def _fraction(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _counts(evaluation: Evaluation | None) -> list[list[int]]:
    """The confusion matrix, empty where it is not one of the classes and one more."""
    counts = evaluation.confusion.counts if evaluation and evaluation.confusion else []
    sides = {len(counts), *map(len, counts)}
    return counts if evaluation and sides == {len(evaluation.per_class) + 1} else []


def _column(counts: list[list[int]], number: int) -> list[int]:
    return [row[number] for row in counts]


def _most(rows: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The largest of what happened at all."""
    return sorted(((name, number) for name, number in rows if number), key=lambda row: (-row[1], row[0]))[:PAIRS]


def _overall(known: list[ClassPrecision]) -> "tuple[Markup, list[tuple[str, str, float]]] | None":
    """The mean curve with that of the best and the worst class, and (style, name, precision) of each."""
    drawn = [row for row in known if falling(row)]
    if len(known) < 2 or not drawn:
        return None
    mean = sum(row.ap50 or 0.0 for row in known) / len(known)
    shown = [("--third", "mean of the classes", mean, mean_curve(known), charts.THIRD)]
    shown += [
        (style, row.name, row.ap50 or 0.0, [*falling(row), (falling(row)[-1][0], 0.0)], color)
        for style, row, color in (("--first", drawn[0], charts.FIRST), ("--second", drawn[-1], charts.SECOND))
    ]
    curves = [
        Curve(label=name, steps=tuple(r for r, _ in corners), values=tuple(p for _, p in corners), color=color)
        for _, name, _, curve, color in shown
        for corners in [stairs(curve)]
    ]
    return charts.precision_recall(curves), [(style, name, number) for style, name, number, _, _ in shown]


def _groups(known: list[ClassPrecision]) -> list[tuple[str, list[Multiple]]]:
    """The small charts: every class, or of many the hardest and the easiest."""
    every = [_multiple(row) for row in known] if len(known) <= ALL_CURVES else []
    if every or not known:
        return [("", every)] if every else []
    return [
        (f"The {HARDEST} hardest classes", [_multiple(row) for row in known[: -HARDEST - 1 : -1]]),
        (f"The {EASIEST} easiest classes", [_multiple(row) for row in known[:EASIEST]]),
    ]


def _multiple(row: ClassPrecision) -> Multiple:
    curve = falling(row)
    line = path(curve)
    return Multiple(row=row, line=line, area=f"{line}V100H0Z" if line else "")


def counted_in_words(evaluation: Evaluation | None) -> str:
    """How many boxes COCO's numbers count, where it is not COCO's hundred."""
    if evaluation is None or evaluation.coco_most == COUNTED:
        return ""
    return (
        f"They are of the {evaluation.coco_most:,} surest boxes of a class on an image, where COCO counts {COUNTED}: "
        "no number here but AR 1 and AR 10 compares with those of others."
    )


def _coco(evaluation: Evaluation | None) -> list[tuple[str, str, float | None, float | None]]:
    """COCO's numbers of boxes and of masks: what each is called, what it means, and the two."""
    boxes, masks = ((evaluation.coco or {}), (evaluation.coco_masks or {})) if evaluation else ({}, {})
    there = boxes.keys() | masks.keys()
    most = evaluation.coco_most if evaluation else COUNTED
    told = {name: (name, meaning) for name, meaning in COCO.items()}
    if most != COUNTED:  # whose recall stands under the name of a hundred
        told[f"AR {COUNTED}"] = (f"AR {most}", f"recall, {most:,} boxes of a class an image")
    names = [name for name in COCO if name in there] + sorted(there - COCO.keys())
    return [(*told.get(name, (name, "")), boxes.get(name), masks.get(name)) for name in names]
