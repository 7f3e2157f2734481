"""The report of a reproduction: every table with its verdicts, every figure redrawn, all on one offline page.

Made from the record.json of each experiment (residual/reproduce/record.py) and from nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from residual.records import counted
from residual.report import charts, page
from residual.report.charts import Curve
from residual.report.evidence import read_known

if TYPE_CHECKING:
    from markupsafe import Markup

RECORD = "record.json"
AGREES, DIFFERS = "agrees", "differs"
MARKS = {AGREES: "yes", DIFFERS: "no"}  # the style of a verdict; any other is neither
OF_SEVERAL = ("best", "median", "mean")


class Printed(Struct, frozen=True, kw_only=True):
    """A number as the paper prints it."""

    value: float
    kind: str = "single"
    n: int = 1
    mean: float | None = None
    std: float | None = None


class Short(Struct, frozen=True, kw_only=True):
    """How much of its recipe a shortened training did."""

    iterations: int
    of: int


class Row(Struct, frozen=True, kw_only=True):
    """One number: the paper's, ours of each seed, and what came of the comparison."""

    name: str
    unit: str
    verdict: str
    paper: Printed | None = None
    ours: list[float] = []
    mean: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""
    short: Short | None = None
    seconds: float | None = None
    hardware: str = ""
    torch: str = ""
    commit: str = ""
    data: str = ""  # fingerprint of the training images
    planted: bool = False  # wrong on purpose: it must differ, or the test is no test


class Claim(Struct, frozen=True, kw_only=True):
    """A comparison that the paper draws, and how its test came out."""

    text: str
    verdict: str
    p: float | None = None
    reason: str = ""
    numbers: dict[str, list[float]] = {}
    short: Short | None = None


class Line(Struct, frozen=True, kw_only=True):
    """What one network draws in a figure: points of each of its curves, means over the seeds."""

    name: str
    panel: str
    curves: dict[str, list[tuple[float, float]]]
    seeds: int = 1


class Difference(Struct, frozen=True, kw_only=True):
    """Where the protocol of our runs departs from the paper's."""

    what: str
    paper: Any
    ours: Any
    cost: str | None = None


class LeftOut(Struct, frozen=True, kw_only=True):
    """What was not done, and why."""

    what: str
    why: str
    seconds: float | None = None


class Told(Struct, frozen=True, kw_only=True):
    """What the experiment is."""

    name: str
    title: str
    source: str
    claim: str
    twin_of: str | None = None
    x: str = ""
    y: str = ""


class Record(Struct, frozen=True, kw_only=True):
    """record.json."""

    experiment: Told
    quick: bool = False
    budget: float | None = None  # seconds
    spent: float | None = None  # seconds
    rows: list[Row] = []
    claims: list[Claim] = []
    lines: list[Line] = []
    ledger: list[Difference] = []
    left_out: list[LeftOut] = []
    environment: dict[str, Any] = {}
    finished: str = ""


@dataclass(frozen=True, kw_only=True)
class Made:
    """Rows whose runs were trained alike: on one machine, with one code, on the same images."""

    rows: tuple[str, ...]
    hardware: str
    torch: str
    commit: str
    data: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One experiment as the page shows it."""

    record: Record
    panels: "list[tuple[str, Markup]]"
    paper: bool  # whether it has a column of the paper's numbers
    tables: tuple[tuple[str, list[Row]], ...]  # the rows by unit
    timed: bool  # whether a row took time worth a column
    tally: tuple[tuple[str, int], ...]  # verdicts and how many of each
    shortened: str
    budget: str
    spent: str
    made: tuple[Made, ...]
    environment: list[page.Facts]  # of the command that measured and judged


def write_reproduction(folder: Path) -> Path:
    """Write report.html into `folder` from every record.json in it or one level below; returns its path."""
    found = [folder / RECORD] if (folder / RECORD).is_file() else sorted(folder.glob(f"*/{RECORD}"))
    if not found:
        raise ValueError(
            f"there is no reproduction in {folder}: neither it nor a folder in it holds {RECORD}. "
            "Make one with: residual reproduce table1"
        )
    records = sorted((read_known(path, Record) for path in found), key=lambda each: _order(each.experiment.name))
    sections = [section(each) for each in records]
    verdicts = [verdict for each in sections for verdict in verdicts_of(each.record)]
    return page.write_page(
        folder / "report.html",
        "reproduction.html",
        sections=sections,
        tally=_tally(verdicts),
        number=number,
        remark=remark,
        spread=spread,
        marks=MARKS,
        duration=page.duration,
        length=length,
    )


def section(record: Record) -> Section:
    """Everything of one experiment that the template does not reckon itself."""
    units = dict.fromkeys(row.unit for row in record.rows)
    told = [row.short for row in record.rows] + [claim.short for claim in record.claims]
    shorts = {short for short in told if short is not None}
    return Section(
        record=record,
        panels=panels(record),
        paper=any(row.paper is not None for row in record.rows),
        tables=tuple((unit, [row for row in record.rows if row.unit == unit]) for unit in units),
        timed=any(row.seconds for row in record.rows),
        tally=_tally(verdicts_of(record)),
        shortened=" and ".join(map(length, sorted(shorts, key=_length))),
        budget="" if record.budget is None else page.duration(record.budget),
        spent="" if record.spent is None else page.duration(record.spent),
        made=made(record.rows),
        environment=page.facts(record.environment),
    )


def panels(record: Record) -> "list[tuple[str, Markup]]":
    """The parts of the figure by name, in the order of the lines.  Error axes are the same in all of them."""
    drawn: dict[str, list[Curve]] = {}
    for line in record.lines:
        color = charts.SERIES[sum(other.panel == line.panel for other in record.lines[: record.lines.index(line)]) % 6]
        for name, points in line.curves.items():
            if points:
                drawn.setdefault(line.panel, []).append(
                    Curve(
                        label=line.name,
                        steps=tuple(x for x, _ in points),
                        values=tuple(y for _, y in points),
                        color=color,
                        dashed=name.startswith("training"),
                    )
                )
    if not drawn:
        return []
    told = record.experiment
    top = charts.ceiling([curve for curves in drawn.values() for curve in curves]) if "error" in told.y else None
    return [
        (panel, charts.panel(curves, top=top, x=told.x, y=told.y, name=f"{told.name}-{index}"))
        for index, (panel, curves) in enumerate(drawn.items())
    ]


def made(rows: Sequence[Row]) -> tuple[Made, ...]:
    """With what the rows were trained; those that were trained alike together."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        if row.hardware:
            found.setdefault((row.hardware, row.torch, row.commit, row.data), []).append(row.name)
    return tuple(
        Made(rows=tuple(names), hardware=hardware, torch=torch, commit=commit, data=data)
        for (hardware, torch, commit, data), names in found.items()
    )


def length(short: Short) -> str:
    """2,000 of 64,000"""
    return f"{short.iterations:,} of {short.of:,}"


def number(value: float | None, unit: str) -> str:
    """As many digits as the unit deserves: 8.75 for a percentage, 25,557,032 for a count, 1.8 for billions."""
    if value is None:
        return "–"
    if "%" in unit:
        return f"{value:.2f}"
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def remark(paper: Printed, unit: str) -> str:
    """What a printed number is of, where it is not of one run: best of 5, mean 6.61 ± 0.16."""
    notes = [f"{paper.kind} of {paper.n}"] if paper.kind in OF_SEVERAL and paper.n > 1 else []
    if paper.mean is not None and paper.kind != "mean":
        notes.append(f"mean {number(paper.mean, unit)}")
    if notes and paper.std is not None:
        notes[-1] += f" ± {paper.std:.2f}"
    return ", ".join(notes)


def spread(row: Row) -> str:
    """Our mean and half the width of its interval: 8.61 ± 0.21."""
    if not row.ours or row.mean is None:
        return "–"
    told = number(row.mean, row.unit)
    return told if row.interval is None else f"{told} ± {(row.interval[1] - row.interval[0]) / 2:.2f}"


def verdicts_of(record: Record) -> list[str]:
    """As what its rows and claims count."""
    rows = [counted(row.verdict, shortened=row.short is not None, planted=row.planted) for row in record.rows]
    claims = [counted(claim.verdict, shortened=claim.short is not None, planted=False) for claim in record.claims]
    return [verdict for verdict in rows + claims if verdict is not None]


def _tally(verdicts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Verdicts and how many of each: what agrees, then what differs, then the rest."""
    first = [AGREES, DIFFERS]
    order = [*first, *sorted(set(verdicts) - set(first))]
    return tuple((verdict, verdicts.count(verdict)) for verdict in order if verdict in verdicts)


def _order(name: str) -> tuple[int, int, str]:
    """table2 before table10, tables before figures, the follow-up papers last."""
    found = re.fullmatch(r"(table|figure)(\d+)(.*)", name)
    return (("table", "figure").index(found[1]), int(found[2]), found[3]) if found else (2, 0, name)


def _length(short: Short) -> tuple[int, int]:
    return short.of, short.iterations
