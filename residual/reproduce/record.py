"""What a reproduction leaves: OUT/<experiment>/record.json, all that a report needs to know.

Every number is read off the finished runs anew, so the record can be made again from them at any time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

import msgspec
import numpy as np

from residual.models.description import Description
from residual.records import RunFolder
from residual.reproduce.budget import Allocation
from residual.reproduce.costs import cost
from residual.reproduce.data import source
from residual.reproduce.detection_ledger import DetectionProtocol, of_detection_run
from residual.reproduce.exam import Exam, way_of
from residual.reproduce.experiment import AnySetting, Claim, Experiment, Line, Row
from residual.reproduce.ledger import ledger, of_run
from residual.reproduce.store import Failure, Run, Store, iterations
from residual.reproduce.verdict import Spread, Verdict, interval, judge_claim, judge_number, pooled, spreads
from residual.reproduce.work import Work

POINTS = 200  # of a curve, at most
SURVIVORS = "the runs that are left are not judged without it"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a record is made of.

    seeds: so many of each row were asked for, None for what the rows ask.
    failed: why, by key of the run or exam.  cost: seconds that a run or an exam still takes.
    """

    store: Store
    allocation: Allocation
    seeds: int | None
    failed: Mapping[tuple[str, int], str]
    cost: Callable[[Work], float]
    quick: bool
    stopped: bool = False

    def planned(self, setting: AnySetting) -> dict[int, Run]:
        """The runs of a setting, as it is trained here, by seed."""
        actual = self.allocation.actual(setting)
        seeds = {run.seed for run in (*self.allocation.runs, *self.allocation.spare) if run.key[0] == actual.key}
        return {seed: Run(setting=actual, seed=seed) for seed in sorted(seeds)}

    def runs(self, setting: AnySetting) -> dict[int, Run]:
        """Those of them that are finished."""
        return {seed: run for seed, run in self.planned(setting).items() if self.store.state(run) == "done"}

    def failures(self, setting: AnySetting) -> dict[int, Failure]:
        """Why others ended badly, by seed."""
        found = {seed: self.failure(run) for seed, run in self.planned(setting).items()}
        return {seed: failure for seed, failure in found.items() if failure is not None}

    def failure(self, work: Work) -> Failure | None:
        """Why a run or an exam ended badly, in this sitting or in an earlier one; None: it did not, or is done."""
        if isinstance(work, Exam):
            over, before = work.is_over(self.store), work.failure(self.store)
        else:
            over, before = self.store.state(work) == "done", self.store.failure(work)
        told = None if over else self.failed.get(work.key)
        return before or (None if told is None else Failure(reason=told, diverged=False))

    def exam(self, row: Row, seed: int) -> Exam | None:
        """What a row asks for of its runs with one seed."""
        way = way_of(row.measure)
        runs = tuple(Run(setting=self.allocation.actual(setting), seed=seed) for setting in row.settings)
        return None if way is None else Exam(way=way, runs=runs)

    def short(self, settings: Sequence[AnySetting]) -> dict[str, int] | None:
        """How much of their length was trained; None: all of it."""
        for setting in settings:
            if setting.key in self.allocation.lengths:
                return {"iterations": self.allocation.lengths[setting.key], "of": iterations(setting)}
        return None


def build(experiment: Experiment, evidence: Evidence) -> dict[str, Any]:
    """The record, but for what only the command knows: its budget, times, environment and words."""
    measured = {row.name: _measured(row, evidence) for row in experiment.rows}
    incomparable = evidence.quick or any(evidence.short(row.settings) for row in experiment.rows)
    samples: dict[str, dict[str, list[float]]] = {}
    for row in experiment.rows:
        if _is_usual(row, measured[row.name]):
            samples.setdefault(row.unit, {})[row.name] = list(measured[row.name].values.values())
    pools = {name: spread for found in samples.values() for name, spread in spreads(found).items()}
    rows = {
        row.name: _row(row, measured[row.name], evidence, pools.get(row.name), comparable=not incomparable)
        for row in experiment.rows
    }
    return {
        "experiment": {
            name: getattr(experiment, name) for name in ("name", "title", "source", "claim", "twin_of", "x", "y")
        },
        "quick": evidence.quick,
        "rows": list(rows.values()),
        "claims": [_claim(claim, experiment, measured, evidence) for claim in experiment.claims],
        "lines": [found for line in experiment.lines if (found := _line(line, evidence))],
        "ledger": [] if evidence.quick else [each | {"cost": _cost(each)} for each in _ledger(experiment, evidence)],
        "left_out": [found for row in experiment.rows for found in _left_out(row, measured[row.name], evidence)],
    }


@dataclass(frozen=True, kw_only=True)
class _Measured:
    values: dict[int, float]  # by seed; of a computed number, by 0
    runs: list[Run]
    due: dict[int, Exam] = field(default_factory=dict)  # by seed: what was not taken of what it needs
    trouble: str = ""
    lost: str = ""  # why a run is missing that was begun
    at_chance: tuple[int, ...] = ()  # seeds that diverged, where that is what the paper says


def _is_usual(row: Row, found: _Measured) -> bool:
    """Whether a row's runs may say how noisy the others are: it has a number of the paper, and nothing went wrong."""
    printed = row.paper is not None and row.paper.kind not in ("exact", "above", "below")
    return printed and bool(row.settings) and not (row.planted or found.lost)


def _measured(row: Row, evidence: Evidence) -> _Measured:
    if row.measure is None:
        return _Measured(values={}, runs=[])
    due: dict[int, Exam] = {}
    try:
        if not row.settings:
            return _Measured(values={0: float(row.measure(()))}, runs=[])
        by_setting = [evidence.runs(setting) for setting in row.settings]
        seeds = sorted(set.intersection(*(set(found) for found in by_setting)))
        due = {seed: exam for seed in seeds if (exam := evidence.exam(row, seed)) and not exam.is_over(evidence.store)}
        together = {seed: [found[seed] for found in by_setting] for seed in seeds if seed not in due}
        values = {seed: float(row.measure(list(map(evidence.store.path, runs)))) for seed, runs in together.items()}
    except (ValueError, OSError) as error:
        return _Measured(values={}, runs=[], due=due, trouble=str(error))
    except Exception as error:  # of one row; the others are not lost with it
        return _Measured(values={}, runs=[], due=due, trouble=f"{type(error).__name__}: {error}")
    failures = [evidence.failures(setting) for setting in row.settings]
    untaken = {seed: failure for seed, exam in due.items() if (failure := evidence.failure(exam)) is not None}
    diverged = set.intersection(*({seed for seed, each in found.items() if each.diverged} for found in failures))
    at_chance = tuple(sorted(diverged)) if row.paper is not None and row.paper.kind == "above" else ()
    for seed in at_chance:
        values[seed] = 100 - 100 / source(row.settings[0].data).classes
    return _Measured(
        values=dict(sorted(values.items())),
        runs=[run for runs in together.values() for run in runs],
        due=due,
        lost=_told([*failures, untaken], besides=at_chance),
        at_chance=at_chance,
    )


def _told(failures: Iterable[Mapping[int, Failure]], *, besides: Sequence[int]) -> str:
    """Which seeds were lost, and why."""
    lost = sorted({(seed, each.reason) for found in failures for seed, each in found.items() if seed not in besides})
    return "; ".join(f"seed {seed} was lost: {reason}" for seed, reason in lost)


def _row(row: Row, found: _Measured, evidence: Evidence, spread: Spread | None, *, comparable: bool) -> dict[str, Any]:
    values = list(found.values.values())
    short = evidence.short(row.settings)
    finishes = [finish for run in found.runs if (finish := evidence.store.finish(run)) is not None]
    verdict = _verdict(row, found, short, spread, comparable=comparable)
    made = _made(found.runs, evidence)
    return {
        "name": row.name,
        "unit": row.unit,
        "paper": asdict(row.paper) if row.paper is not None and comparable else None,
        "ours": values,
        "seeds": list(found.values) if row.settings else [],
        "mean": fmean(values) if values else None,
        "interval": interval(values),
        "n": len(values),
        "verdict": verdict.outcome,
        "reason": "; ".join(filter(None, [verdict.reason, _at_chance(found), _mixed(made), row.note])),
        "short": short,
        "planted": row.planted,
        "lost": found.lost,
        "seconds": sum(finish.seconds for finish in finishes),
        "runs": [evidence.store.path(run).name for run in found.runs],
        "hardware": ", ".join(sorted({finish.hardware for finish in finishes})),
        **{name: ", ".join(values) for name, values in made.items()},
    }


def _made(runs: Sequence[Run], evidence: Evidence) -> dict[str, list[str]]:
    """With which code and on which images the runs of a row were trained; of each usually one."""
    found: dict[str, set[str]] = {"commit": set(), "torch": set(), "data": set()}
    for run in runs:
        about = RunFolder.open(evidence.store.path(run)).description
        environment, data = about.get("environment", {}), about.get("data", {})
        for name, value in (*environment.items(), ("data", data.get("fingerprint"))):
            if name in found and value:
                found[name].add(str(value))
    return {name: sorted(values) for name, values in found.items()}


def _mixed(made: Mapping[str, Sequence[str]]) -> str:
    """A remark where runs that are compared were not made by the same code."""
    commits = [f"{each[:8]}{'+' if each.endswith('+') else ''}" for each in made["commit"]]
    return f"runs of {len(commits)} commits: {', '.join(commits)}" if len(commits) > 1 else ""


def _at_chance(found: _Measured) -> str:
    count = len(found.at_chance)
    return f"{count} of {len(found.values)} runs diverged, and count{'s' * (count == 1)} as guessing" if count else ""


def _verdict(
    row: Row, found: _Measured, short: dict[str, int] | None, spread: Spread | None, *, comparable: bool
) -> Verdict:
    values = list(found.values.values())
    if row.measure is None:
        return Verdict(outcome="cited", reason="the paper's number, which nothing here measures")
    if found.trouble or found.lost:
        return Verdict(outcome="not tested at this budget", reason=found.trouble or f"{found.lost}; {SURVIVORS}")
    if short is not None:
        told = f"trained for {short['iterations']:,} of {short['of']:,} iterations: no number of the paper is like it"
        return Verdict(outcome="not tested at this budget", reason=told)
    if row.paper is None or not comparable:
        told = "no number of the paper stands beside it" if comparable else "part of a quick or shortened record"
        return Verdict(outcome="measured" if values else "not tested at this budget", reason=told)
    return judge_number(values, row.paper, spread=spread or pooled([values]), resolution=row.resolution, unit=row.unit)


def _claim(
    claim: Claim, experiment: Experiment, measured: Mapping[str, _Measured], evidence: Evidence
) -> dict[str, Any]:
    rows = {row.name: row for row in experiment.rows}
    numbers = {name: list(measured[name].values.values()) for name in claim.rising}
    exact = not any(rows[name].settings for name in claim.rising)
    verdict = judge_claim(list(numbers.values()), list(numbers), margin=claim.margin, exact=exact)
    lost = [f"{name}: {measured[name].lost}" for name in claim.rising if measured[name].lost]
    if lost:
        told = f"{'; '.join(lost)}; {SURVIVORS}"
        verdict = Verdict(outcome="not tested at this budget", reason=told)
    mixed = _mixed(_made([run for name in claim.rising for run in measured[name].runs], evidence))
    if evidence.quick:  # the path of a test, not its outcome
        verdict = replace(
            verdict, outcome="not tested at this budget", reason=f"part of a quick record; {verdict.reason}"
        )
    return {
        "text": claim.text,
        "p": verdict.p,
        "verdict": verdict.outcome,
        "reason": "; ".join(filter(None, [verdict.reason, mixed])),
        "numbers": numbers,
        "short": evidence.short([setting for name in claim.rising for setting in rows[name].settings]),
    }


def _line(line: Line, evidence: Evidence) -> dict[str, Any] | None:
    way, runs = way_of(line.of), list(evidence.runs(line.setting).values())
    if way is not None:
        runs = [run for run in runs if Exam(way=way, runs=(run,)).is_over(evidence.store)]
    found = [line.of(evidence.store.path(run)) for run in runs]
    if not found:
        return None
    curves = {name: _mean_curve([each[name] for each in found if each.get(name)]) for name in found[0]}
    return {
        "name": line.name,
        "panel": line.panel,
        "curves": {name: points for name, points in curves.items() if points},
        "seeds": len(found),
        "short": evidence.short([line.setting]),
    }


def _mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over the seeds at the points of the first, thinned."""
    if not curves:
        return []
    x = np.array([point[0] for point in curves[0]])
    y = np.mean([np.interp(x, [p[0] for p in curve], [p[1] for p in curve]) for curve in curves], axis=0)
    kept = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).round().astype(int))
    return [(round(float(x[i]), 6), round(float(y[i]), 4)) for i in kept]


def _cost(difference: Mapping[str, str]) -> str | None:
    known = cost(difference)
    return None if known is None else str(known)


def _ledger(experiment: Experiment, evidence: Evidence) -> list[dict[str, str]]:
    protocol = experiment.protocol
    if protocol is None:
        return []
    firsts = [run for setting in experiment.settings for run in list(evidence.runs(setting).values())[:1]]
    told = [RunFolder.open(evidence.store.path(run)).description for run in firsts]
    if isinstance(protocol, DetectionProtocol):
        return ledger((protocol, of_detection_run(about)) for about in told)
    networks = [{name: value for name, value in about["model"].items() if name != "name"} for about in told]
    described = [protocol(msgspec.convert(network, Description)) for network in networks]
    return ledger(zip(described, map(of_run, told), strict=True))


def _left_out(row: Row, found: _Measured, evidence: Evidence) -> list[dict[str, Any]]:
    """What is missing of a row, why, and the seconds of work that it would take."""
    if not row.settings:
        return []
    asked = evidence.seeds or row.seeds
    default = "stopped before it was done" if evidence.stopped else "does not fit into the budget"
    short = evidence.short(row.settings)
    whole = [Run(setting=setting, seed=seed) for setting in row.settings for seed in range(asked)]
    if short is not None:
        what = f"{row.name}: {asked} full-length run{'s' if asked > 1 else ''}"
        why = f"shortened to {short['iterations']:,} of {short['of']:,} iterations to fit into the budget"
    else:
        whole = [run for run in whole if evidence.store.state(run) != "done"]
        missing = len({run.seed for run in whole})
        what = f"{row.name}: {missing} of {asked} seeds"
        why = _why(whole, evidence) or default
    works: list[tuple[str, str, Sequence[Work]]] = [(what, why, whole)]
    if due := list(found.due.values()):
        what = f"{row.name}: {due[0].way.words} of {len(due)} trained seed{'s' if len(due) > 1 else ''}"
        works.append((what, _why(due, evidence) or default, due))
    return [
        {"what": what, "why": why, "seconds": None if evidence.quick else round(sum(map(evidence.cost, work)))}
        for what, why, work in works
        if work
    ]


def _why(works: Sequence[Work], evidence: Evidence) -> str:
    """For what reasons some of them ended badly."""
    reasons = [failure.reason for work in works if (failure := evidence.failure(work)) is not None]
    return "; ".join(dict.fromkeys(reasons))
