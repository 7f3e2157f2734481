"""The demo's report: do plain networks degrade with depth, and residual ones not?  After figure 6."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from residual.report import charts, page
from residual.report.charts import Curve
from residual.report.evidence import read_known

if TYPE_CHECKING:
    from markupsafe import Markup

FAMILIES: tuple[Literal["plain", "residual"], ...] = ("plain", "residual")


class Test(Struct, frozen=True, kw_only=True):
    """One claim with the p-value of its test."""

    claim: str
    p: float | None
    holds: bool
    numbers: Any = None


class Verdict(Struct, frozen=True, kw_only=True):
    """Whether the claim as a whole showed, in a sentence, with the tests behind it."""

    holds: bool
    sentence: str
    tests: list[Test] = []


class Point(Struct, frozen=True, kw_only=True):
    """The training error of one pass."""

    step: int
    epoch: float | None = None
    train_error: float  # percent


class Final(Struct, frozen=True, kw_only=True):
    """What a training came to."""

    train_error: float  # percent
    test_error: float  # percent
    train_loss: float | None = None


class Training(Struct, frozen=True, kw_only=True):
    """One network trained with one seed."""

    network: str
    family: Literal["plain", "residual"]
    depth: int
    seed: int
    curve: list[Point]
    final: Final


class Demo(Struct, frozen=True, kw_only=True):
    """demo.json."""

    claim: str
    verdict: Verdict
    depths: list[int]
    runs: list[Training]
    environment: dict[str, Any] = {}
    seconds: float | None = None
    settings: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network over its seeds: means, and every value in the order of the seeds."""

    network: str
    family: str
    depth: int
    seeds: tuple[int, ...]
    train: tuple[float, ...]
    test: tuple[float, ...]

    @property
    def mean_train(self) -> float:
        return mean(self.train)

    @property
    def mean_test(self) -> float:
        return mean(self.test)


def write_demo(folder: Path) -> Path:
    """Write report.html into the demo's folder from its demo.json; returns its path."""
    if not (folder / "demo.json").is_file():
        raise ValueError(
            f"there is no demo in {folder}: its folder holds demo.json, and this one does not. "
            "Make one with: residual demo"
        )
    demo = read_known(folder / "demo.json", Demo)
    panels = {family: curves(demo, family) for family in FAMILIES}
    top = charts.ceiling([curve for lines in panels.values() for curve in lines])
    table = rows(demo)
    return page.write_page(
        folder / "report.html",
        "demo.html",
        demo=demo,
        panels={family: _panel(lines, top, family) for family, lines in panels.items()},
        rows=table,
        seeds=sorted({run.seed for run in demo.runs}),
        shallow=min(demo.depths, default=0),
        deep=max(demo.depths, default=0),
        time="" if demo.seconds is None else page.duration(demo.seconds),
        tests=[(test, _numbers(test.numbers)) for test in demo.verdict.tests],
        settings=page.facts(demo.settings),
        environment=page.facts(demo.environment),
    )


def rows(demo: Demo) -> list[Row]:
    """The networks, plain before residual, shallow before deep."""
    found = defaultdict(list)
    for run in demo.runs:
        found[FAMILIES.index(run.family), run.depth, run.network].append(run)
    return [
        Row(
            network=network,
            family=FAMILIES[family],
            depth=depth,
            seeds=tuple(run.seed for run in runs),
            train=tuple(run.final.train_error for run in runs),
            test=tuple(run.final.test_error for run in runs),
        )
        for (family, depth, network), runs in (
            (key, sorted(found[key], key=lambda run: run.seed)) for key in sorted(found)
        )
    ]


def curves(demo: Demo, family: str) -> list[Curve]:
    """Mean training error over the seeds and the band from the lowest to the highest, for every depth."""
    lines = []
    for depth in sorted(demo.depths):
        points = defaultdict(list)
        runs = [run for run in demo.runs if run.family == family and run.depth == depth]
        for run in runs:
            for point in run.curve:
                points[point.step].append(point.train_error)
        steps = sorted(step for step, values in points.items() if len(values) == len(runs))  # all seeds
        if steps:
            lines.append(
                Curve(
                    label=f"{depth} layers",
                    steps=tuple(float(step) for step in steps),
                    values=tuple(mean(points[step]) for step in steps),
                    low=tuple(min(points[step]) for step in steps),
                    high=tuple(max(points[step]) for step in steps),
                    color=charts.FIRST if depth == min(demo.depths) else charts.SECOND,
                )
            )
    return lines


def _panel(lines: list[Curve], top: float, family: str) -> "Markup | None":
    return charts.degradation(lines, top=top, name=family) if lines else None


def _numbers(numbers: Any) -> str:
    """The numbers of a test as the demo recorded them: an object, a list or one value."""
    if numbers is None:
        return ""
    named = numbers if isinstance(numbers, dict) else {"": numbers}
    return "; ".join(f"{name} {value}".strip() for group in page.facts(named) for name, value in group.rows)
