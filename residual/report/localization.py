"""The report of a localizer: on how many images the class and the place of its object are not told rightly."""

from pathlib import Path
from typing import Any

from msgspec import Struct

from residual.records import RunFolder
from residual.report import charts, page, training
from residual.report.description import told, untold
from residual.report.detection import WEIGHTS, Count, Mistake, gallery, understood
from residual.report.evidence import ClassError, Description, describe, hardest, looks, read_if_there

ALL_CLASSES, HARDEST = 30, 15  # classes; above the one the table opens with so many of the hardest
LOSSES = (  # as metrics.jsonl has them, their names in the chart and their colours
    ("loss", "all", charts.THIRD),
    ("scored", "score", charts.FIRST),
    ("placed", "box", charts.FOURTH),
    ("scored_again", "score again", charts.SECOND),
    ("placed_again", "box again", charts.FIFTH),
)


class Alone(Struct, frozen=True, kw_only=True):
    """The errors of the classes that were told, whatever the place; percent."""

    top1_error: float
    top5_error: float | None = None


class Evaluation(Struct, frozen=True, kw_only=True):
    """evaluation.json (the last weights) or evaluation-best.json (those best by validation).  Errors in percent."""

    split: str
    weights: str = "last"
    images: Count
    classes_from: str = ""
    given_class_error: float
    interval: tuple[float, float] | None = None
    top1_error: float | None = None
    top5_error: float | None = None
    classification: Alone | None = None
    per_class: list[ClassError] = []  # with the class given
    mistakes: list[Mistake] = []
    sides: list[int] = []
    second: bool | None = None
    seconds_per_image: float | None = None


def write_localization(run: Path) -> Path:
    """Write report.html into the folder of a localizer's run from its records alone; returns its path."""
    description, metrics = describe(run), RunFolder(run).metrics()
    evaluation = read_if_there(run / "evaluation.json", Evaluation)
    measured = looks(metrics)
    rows = evaluation.per_class if evaluation else []
    return page.write_page(
        run / "report.html",
        "localization.html",
        evaluation=evaluation,
        weights=WEIGHTS.get(evaluation.weights, evaluation.weights) if evaluation else "",
        best=read_if_there(run / "evaluation-best.json", Evaluation),
        latest=measured[-1] if measured else None,
        averaged=any(look.averaged for look in measured),
        missing=missing(description, metrics, evaluation),
        curves=training.drawn(
            training.looked(measured),
            training.parts(metrics, LOSSES),
            training.rates(metrics),
            title="error, class given, %",
        ),
        hardest=hardest(rows)[:HARDEST] if len(rows) > ALL_CLASSES else [],
        mistakes=gallery(evaluation.mistakes) if evaluation else [],
        procedure=procedure_in_words(evaluation, description.procedure) if evaluation else [],
        procedure_facts=page.facts(description.procedure),
        **told(description, metrics),
    )


def missing(description: Description, metrics: list[dict[str, Any]], evaluation: Evaluation | None) -> list[str]:
    """What the report of a finished run has and this one has not, in plain words."""
    absent = []
    if not metrics:
        absent.append("metrics.jsonl has no measurement yet, so there are no curves.")
    if evaluation is None:
        absent.append(
            "evaluation.json is not there: training has not ended, or the localizer was not evaluated. "
            "There is no final number and no list of mistakes."
        )
    else:
        if evaluation.interval is None:
            absent.append("The error has no interval.")
        if evaluation.top1_error is None and evaluation.top5_error is None:
            absent.append("The error with the classes told, not given, was not measured.")
        if not evaluation.per_class:
            absent.append("The evaluation has no errors per class.")
    return absent + untold(description, stages=False)


def procedure_in_words(evaluation: Evaluation, usual: dict[str, Any]) -> list[str]:
    """How an image was looked at.  usual: the procedure of run.json, which holds where the evaluation has no sides."""
    known = understood(usual)
    sides = evaluation.sides or (known.sides or [known.side] if known else [])
    at = f", at a shorter side of {', '.join(f'{side:,}' for side in sides)} pixels" if sides else ""
    sentences = [f"An image is looked at whole{at}."]
    if evaluation.second is not None:
        sentences.append(
            "The surest boxes of a class are cut out and judged again by the second network, whose surest counts."
            if evaluation.second
            else "The surest box of a class counts; there was no second network to judge it again."
        )
    sentences.append("A box is right if it overlaps an object of the image's class by at least half.")
    if evaluation.classes_from == "itself":
        sentences.append("Which five classes are asked for, the localizer tells itself.")
    elif evaluation.classes_from:
        sentences.append(f"Which five classes are asked for, another network tells: {evaluation.classes_from}.")
    return sentences
