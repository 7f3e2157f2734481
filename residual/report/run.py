"""A run folder becomes report.html: what was measured, how it was learned, where it is wrong, from what."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residual.report import charts, page
from residual.report.charts import Curve
from residual.report.evidence import (
    SPLITS,
    Bin,
    ClassError,
    Evaluation,
    Look,
    Mistake,
    Run,
    looks,
    read,
    series,
)

if TYPE_CHECKING:
    from markupsafe import Markup

FULL_MATRIX = 30  # classes; above this the confusion matrix is told by its largest entries
NUMBERED_MATRIX = 12  # classes; up to this every cell carries its number
ALL_CLASSES = 30  # classes; above this the table opens with the hardest ones
HARDEST, PAIRS, MISTAKES, PROBLEMS = 15, 20, 24, 20  # how many are shown
COLUMNS = {  # of the stages, in this order; others follow under their own names
    "name": "stage",
    "side": "output side",
    "blocks": "blocks",
    "channels": "channels",
    "parameters": "parameters",
    "macs": "multiply-adds",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Weights that the run offers, and their errors by split, percent."""

    meaning: str
    step: int
    errors: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the confusion matrix."""

    number: int
    share: float  # of the colour's full strength, 0 to 1
    right: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images of `truth` that were taken for `predicted`."""

    truth: str
    predicted: str
    number: int
    share: float  # of all images of `truth`


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The network's stages as a table: (title, is it a number) for every column, then the rows as text."""

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...]


def write(run: Path) -> Path:
    """Write report.html into the run folder from its records alone; returns its path."""
    evidence = read(run)
    description, evaluation = evidence.description, evidence.evaluation
    environment = dict(description.environment)
    commit = environment.pop("commit", None)
    names = tuple(row.name for row in evaluation.per_class) if evaluation else ()
    data = dict(description.data)
    problems = data.pop("problems", None) or []
    return page.write_page(
        run / "report.html",
        "run.html",
        run=description,
        summary=summary(evidence),
        evaluation=evaluation,
        latest=_latest(evidence.metrics),
        choices=choices(evidence),
        missing=missing(evidence),
        curves=_curves(evidence.metrics),
        matrix=matrix(evaluation, names) if evaluation and 0 < len(names) <= FULL_MATRIX else (),
        numbered=len(names) <= NUMBERED_MATRIX,
        names=names,
        pairs=confused(evaluation, names)[:PAIRS] if evaluation else [],
        hardest=_hardest(evaluation.per_class)[:HARDEST] if len(names) > ALL_CLASSES and evaluation else [],
        reliability=_reliability(evaluation.reliability) if evaluation else None,
        mistakes=_mistakes(evaluation),
        stages=stages(description.stages),
        model=page.facts(description.model),
        recipe=page.facts(description.recipe),
        data=page.facts(data),
        preprocessing=page.facts(description.preprocessing),
        averaged=any(look.averaged for look in looks(evidence.metrics)),
        problems=[(row.get("path", ""), row.get("reason", "")) for row in problems],
        shown_problems=PROBLEMS,
        environment=page.facts(environment),
        history=_history(evidence, commit),
    )


def summary(run: Run) -> str:
    """One line under the title: the network, the data, how long, which seed."""
    description = run.description
    recipe, data = description.recipe, description.data
    network = description.model.get("name") or recipe.get("model")
    steps = _iterations(run.metrics)
    parts = [
        str(network) if isinstance(network, str) else "",
        str(data.get("origin", "")),
        page.plural(steps, "iteration") if steps else "",
        f"seed {description.seed}" if description.seed is not None else "",
    ]
    return " · ".join(part for part in parts if part)


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
    named = {
        "the stages of the network": description.stages,
        "the description of the network": description.model,
        "the recipe": description.recipe,
        "the data": description.data,
        "the environment": description.environment,
        "the seed": "yes" if description.seed is not None else "",
    }
    lost = [name for name, value in named.items() if not value]
    if lost:
        absent.append(f"run.json does not tell {', '.join(lost)}.")
    return absent


def choices(run: Run) -> list[Choice]:
    """The weights of the last iteration, and apart from them those with the lowest validation error."""
    measured = looks(run.metrics)
    if not measured and run.evaluation is None:
        return []
    step = _iterations(run.metrics)
    errors: dict[str, float] = {row.split: row.error for row in measured if row.step == measured[-1].step}
    rows = [_choice("last iteration", step, errors, run.evaluation)]
    validation = [look for look in measured if look.split == "validation"]
    if validation:
        best = min(validation, key=lambda look: look.error)  # the first of equals, as in training
        errors = {row.split: row.error for row in measured if row.step == best.step}
        rows.append(_choice("best by validation", best.step, errors, run.best))
    return rows


def _choice(meaning: str, step: int, errors: dict[str, float], evaluation: Evaluation | None) -> Choice:
    """What was measured while training, overruled by the final evaluation where there is one."""
    if evaluation is None:
        return Choice(meaning=meaning, step=step, errors=errors)
    return Choice(meaning=meaning, step=step, errors=errors | {evaluation.split: evaluation.top1_error})


def matrix(evaluation: Evaluation, names: tuple[str, ...]) -> list[list[Cell]]:
    """Counts with the strength of their colour: the right by their share, the wrong against the worst."""
    sums = [max(sum(row), 1) for row in evaluation.confusion]
    shares = [[number / sums[i] for number in row] for i, row in enumerate(evaluation.confusion)]
    worst = max((s for i, row in enumerate(shares) for j, s in enumerate(row) if i != j), default=0.0) or 1.0
    return [
        [
            Cell(
                number=number,
                share=round(shares[i][j] if i == j else (shares[i][j] / worst) ** 0.6, 3),
                right=i == j,
                title=f"{names[i]} taken for {names[j]}: {number} of {sums[i]}",
            )
            for j, number in enumerate(row[: len(names)])
        ]
        for i, row in enumerate(evaluation.confusion[: len(names)])
    ]


def confused(evaluation: Evaluation, names: tuple[str, ...]) -> list[Pair]:
    """Every confusion that happened, the most frequent first."""
    pairs = [
        Pair(truth=names[i], predicted=names[j], number=number, share=number / sum(row))
        for i, row in enumerate(evaluation.confusion[: len(names)])
        for j, number in enumerate(row[: len(names)])
        if i != j and number
    ]
    return sorted(pairs, key=lambda pair: (-pair.number, -pair.share, pair.truth, pair.predicted))


def stages(rows: list[dict[str, Any]]) -> Stages | None:
    """The table of stages as run.json has it: one column for every key, numbers to the right, sums below."""
    if not rows:
        return None
    there = {key for row in rows for key in row}
    keys = [key for key in COLUMNS if key in there] + sorted(there - COLUMNS.keys())
    numeric = {key: all(isinstance(row.get(key), int | float | None) for row in rows) for key in keys}
    summed = {key for key in keys if key in ("parameters", "macs") and numeric[key]}
    total = [page.count(sum(row.get(key) or 0 for row in rows)) if key in summed else "" for key in keys]
    if summed and not total[0]:
        total[0] = "whole network"
    return Stages(
        columns=tuple((COLUMNS.get(key, key.replace("_", " ")), numeric[key]) for key in keys),
        rows=tuple(tuple(_stage_cell(row.get(key)) for key in keys) for row in rows),
        total=tuple(total) if summed else (),
    )


def _stage_cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int() | float():
            return page.count(value)
        case list():
            return " × ".join(str(item) for item in value)
    return str(value)


def _iterations(metrics: list[dict[str, Any]]) -> int:
    return max((line["step"] for line in metrics if isinstance(line.get("step"), int)), default=0)


def _latest(metrics: list[dict[str, Any]]) -> Look | None:
    """The newest error measured while training."""
    return next(reversed(looks(metrics)), None)


def _mistakes(evaluation: Evaluation | None) -> list[tuple[Mistake, page.Picture | None]]:
    shown = evaluation.mistakes[:MISTAKES] if evaluation else []
    return [(mistake, page.picture(mistake.png)) for mistake in shown]


def _hardest(rows: list[ClassError]) -> list[ClassError]:
    return sorted(rows, key=lambda row: (-(row.error if row.error is not None else -1.0), row.name))


def _curves(metrics: list[dict[str, Any]]) -> "dict[str, Markup] | None":
    """The chart of the training in two widths, or None before the first measurement."""
    errors = []
    steps, values = series(metrics, "train_error")
    if values:
        steps, values = charts.averaged(steps, values)
        errors.append(Curve(label="training", steps=steps, values=values, color=charts.THIRD, dashed=True))
    measured = looks(metrics)
    for split, color in zip(SPLITS, (charts.SECOND, charts.FIRST), strict=True):
        if found := [look for look in measured if look.split == split]:
            errors.append(
                Curve(
                    label=split,
                    steps=tuple(float(look.step) for look in found),
                    values=tuple(look.error for look in found),
                    color=color,
                )
            )
    losses, rates = [], []
    steps, values = series(metrics, "loss")
    if values:
        steps, values = charts.averaged(steps, values)
        losses.append(Curve(label="training", steps=steps, values=values, color=charts.THIRD))
    steps, values = series(metrics, "rate")
    if any(value > 0 for value in values):
        rates.append(Curve(label="rate", steps=steps, values=values, color=charts.INK))
    if not (errors or losses):
        return None
    return {
        "wide": charts.training(errors, losses, rates, "wide"),
        "narrow": charts.training(errors, losses, rates, "narrow"),
    }


def _reliability(bins: list[Bin]) -> "Markup | None":
    filled = [
        (row.confidence, row.accuracy, row.count)
        for row in bins
        if row.count and row.confidence is not None and row.accuracy is not None
    ]
    return charts.reliability(*zip(*filled, strict=True)) if filled else None


def _history(run: Run, commit: object) -> list[page.Facts]:
    """Where the numbers come from, apart from the environment: seed, commit, command, start, duration."""
    description = run.description
    seconds = [line["time"] for line in run.metrics if isinstance(line.get("time"), int | float)]
    budget = description.plan.get("budget")
    rows = {
        "seed": "not recorded" if description.seed is None else str(description.seed),
        "commit": str(commit) if commit else "not recorded",
        "command": _command(description.command) or "not recorded",
        "started": description.started or "not recorded",
        "training time": page.duration(max(seconds)) if seconds else "not recorded",
        "time budget": page.duration(budget) if isinstance(budget, int | float) else "none",
        "device": description.device or "not recorded",
        "precision": description.precision or "not recorded",
        "processes": str(description.processes),
    }
    return [page.Facts(title="", rows=tuple(rows.items()))]


def _command(command: str | list[str]) -> str:
    """As it was typed: the program by its name, not by where it is installed."""
    if isinstance(command, str):
        return command
    return shlex.join([Path(command[0]).name, *command[1:]]) if command else ""
