"""What every report page tells of run.json: network, recipe, data, and what is needed to make the numbers again."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual.report import page
from residual.report.evidence import Description, iterations, series

PROBLEMS = 20  # how many are shown
COLUMNS = {  # of the stages, in this order; others follow under their own names
    "name": "stage",
    "side": "output side",
    "blocks": "blocks",
    "channels": "channels",
    "parameters": "parameters",
    "macs": "multiply-adds",
}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The network's stages as a table: (title, is it a number) for every column, then the rows as text."""

    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...]


def told(description: Description, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What templates/description.html prints."""
    environment, data = dict(description.environment), dict(description.data)
    commit, problems, notes = environment.pop("commit", None), data.pop("problems", None), data.pop("notes", None)
    return {
        "run": description,
        "summary": summary(description, metrics),
        "stages": stages(description.stages),
        "model": page.facts(description.model),
        "recipe": page.facts(description.recipe),
        "data": page.facts(data),
        "preprocessing": page.facts(description.preprocessing),
        "problems": _problems(problems),
        "shown_problems": PROBLEMS,
        "notes": [str(note) for note in notes] if isinstance(notes, list) else [],
        "environment": page.facts(environment),
        "history": history(description, metrics, commit),
    }


def summary(description: Description, metrics: list[dict[str, Any]]) -> str:
    """One line under the title: the network, the data, how long, which seed."""
    recipe, data = description.recipe, description.data
    network = description.model.get("name") or recipe.get("model")
    steps = iterations(metrics)
    parts = [
        str(network) if isinstance(network, str) else "",
        str(data.get("origin", "")),
        page.plural(steps, "iteration") if steps else "",
        f"seed {description.seed}" if description.seed is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def untold(description: Description, *, stages: bool = True) -> list[str]:
    """What run.json should tell and does not, in plain words.  stages: whether such a run tells its stages."""
    named = {
        "the stages of the network": description.stages or not stages,
        "the description of the network": description.model,
        "the recipe": description.recipe,
        "the data": description.data,
        "the environment": description.environment,
        "the seed": description.seed is not None,
    }
    lost = [name for name, value in named.items() if not value]
    return [f"run.json does not tell {', '.join(lost)}."] if lost else []


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


def history(description: Description, metrics: list[dict[str, Any]], commit: object) -> list[page.Facts]:
    """Where the numbers come from, apart from the environment: seed, commit, command, start, duration."""
    seconds = series(metrics, "time")[1]
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


def _problems(problems: object) -> list[tuple[str, str]]:
    rows = [row for row in problems if isinstance(row, dict)] if isinstance(problems, list) else []
    return [(str(row.get("path", "")), str(row.get("reason", ""))) for row in rows]


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


def _command(command: str | list[str]) -> str:
    """As it was typed: the program by its name, not by where it is installed."""
    if isinstance(command, str):
        return command
    return shlex.join([Path(command[0]).name, *command[1:]]) if command else ""
