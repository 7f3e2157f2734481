"""A run folder becomes report.html: what was measured, how it was learned, where it is wrong, from what."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual.report import charts, confusion, page, training
from residual.report.description import told, untold
from residual.report.detection import write_detection
from residual.report.evidence import (
    Bin,
    Evaluation,
    Look,
    Mistake,
    Run,
    describe,
    hardest,
    iterations,
    looks,
    read,
)
from residual.report.localization import write_localization

if TYPE_CHECKING:
    from markupsafe import Markup

ALL_CLASSES = 30  # classes; above this the table opens with the hardest ones
HARDEST, PAIRS, MISTAKES = 15, 20, 24  # how many are shown


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Weights that the run offers, and their errors by split, percent."""

    meaning: str
    step: int
    errors: dict[str, float]


def write(run: Path) -> Path:
    """Write report.html into the run folder from its records alone; returns its path."""
    task = describe(run).task
    writers = {"classification": write_classification, "detection": write_detection, "localization": write_localization}
    if task not in writers:
        raise ValueError(
            f"{run / 'run.json'} says that its task is {task!r}, of which this version of residual makes no report; it "
            f"knows {', '.join(writers)}"
        )
    return writers[task](run)


def write_classification(run: Path) -> Path:
    """The report of a run that told images apart by class."""
    evidence = read(run)
    evaluation = evidence.evaluation
    names = tuple(row.name for row in evaluation.per_class) if evaluation else ()
    measured = looks(evidence.metrics)
    return page.write_page(
        run / "report.html",
        "classification.html",
        evaluation=evaluation,
        latest=measured[-1] if measured else None,
        choices=choices(evidence),
        missing=missing(evidence),
        curves=_curves(evidence.metrics, measured),
        matrix=confusion.matrix(evaluation.confusion, names) if evaluation else None,
        names=names,
        pairs=confusion.confused(evaluation.confusion, names)[:PAIRS] if evaluation else [],
        hardest=hardest(evaluation.per_class)[:HARDEST] if len(names) > ALL_CLASSES and evaluation else [],
        reliability=_reliability(evaluation.reliability) if evaluation else None,
        mistakes=_mistakes(evaluation),
        averaged=any(look.averaged for look in measured),
        **told(evidence.description, evidence.metrics),
    )


def missing(run: Run) -> list[str]:
    """What a finished run has and this one has not, in plain words."""
    description, evaluation = run.description, run.evaluation
    absent = []
    if not run.metrics:
        absent.append("metrics.jsonl has no measurement yet, so there are no curves.")
    if evaluation is None:
        absent.append(
            "evaluation.json is not there: training has not ended, or the network was not evaluated. "
            "There is no final number, confusion matrix, reliability diagram or list of mistakes."
        )
    else:
        if evaluation.interval is None:
            absent.append("The error has no interval.")
        if not evaluation.per_class:
            absent.append("The evaluation has no counts per class.")
        if not evaluation.reliability:
            absent.append("The evaluation has no reliability bins.")
    return absent + untold(description)


def choices(run: Run) -> list[Choice]:
    """The weights of the last iteration, and apart from them those with the lowest validation error."""
    measured = looks(run.metrics)
    if not measured and run.evaluation is None:
        return []
    step = iterations(run.metrics)
    errors: dict[str, float] = {row.split: row.value for row in measured if row.step == measured[-1].step}
    rows = [_choice("last iteration", step, errors, run.evaluation)]
    validation = [look for look in measured if look.split == "validation"]
    if validation:
        best = min(validation, key=lambda look: look.value)  # the first of equals, as in training
        errors = {row.split: row.value for row in measured if row.step == best.step}
        rows.append(_choice("best by validation", best.step, errors, run.best))
    return rows


def _choice(meaning: str, step: int, errors: dict[str, float], evaluation: Evaluation | None) -> Choice:
    """What was measured while training, overruled by the final evaluation where there is one."""
    if evaluation is None:
        return Choice(meaning=meaning, step=step, errors=errors)
    return Choice(meaning=meaning, step=step, errors=errors | {evaluation.split: evaluation.top1_error})


def _mistakes(evaluation: Evaluation | None) -> list[tuple[Mistake, page.Picture | None]]:
    shown = evaluation.mistakes[:MISTAKES] if evaluation else []
    return [(mistake, page.picture(mistake.png)) for mistake in shown]


def _curves(metrics: list[dict[str, Any]], measured: list[Look]) -> "dict[str, Markup] | None":
    errors = training.curve(metrics, "train_error", "training", color=charts.THIRD, dashed=True)
    losses = training.curve(metrics, "loss", "training", color=charts.THIRD)
    return training.drawn([*errors, *training.looked(measured)], losses, training.rates(metrics))


def _reliability(bins: list[Bin]) -> "Markup | None":
    filled = [
        (row.confidence, row.accuracy, row.count)
        for row in bins
        if row.count and row.confidence is not None and row.accuracy is not None
    ]
    return charts.reliability(*zip(*filled, strict=True)) if filled else None
