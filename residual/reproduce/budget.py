"""What to train in the time there is.  The rule, from the first to the last second:

1.  Claims come first.  Rows that a claim compares belong together, over all experiments asked for: they are trained
    to one length or not at all.  Such groups are taken from the cheapest to the dearest, and two full-length runs of
    every row are planned where they fit.
2.  Of a group for which that does not fit, a setting that takes more than half of its time is left out, with the
    claims that need it, as long as claims remain.  Groups that still do not fit share what is left equally, and are
    shortened: every setting by the same share of its length (equal recipes keep equal lengths), so that three seeds of
    each fit, or two where three would leave less than a hundredth of the length.  Where two would leave less than a
    thousandth, the group is left out.
3.  Then the seed is planned, again and again, that narrows most per second: a row's half-width with one more seed
    against that without, in units of the spread; a row with less than two runs counts as infinitely wide; a row of a
    claim counts double.  Rows of no claim are trained in full length or left out: no other length is comparable.
4.  What would come next but does not fit by the estimate is trained after all if the rest ends early.

Whether something fits is found by handing the runs, in their order, to as many jobs as there are.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from residual.reproduce.arithmetic import learned
from residual.reproduce.experiment import AnySetting, Experiment, Row
from residual.reproduce.store import Run, iterations, shortened
from residual.reproduce.verdict import half_width

Cost = Callable[[Run], float]
"""Seconds that a run still takes, alone in its job; 0 if it is done."""

THREE, TWO = 3, 2  # seeds of a shortened claim
MOST_SHORT = 5  # seeds of a shortened claim, where time is left over
SHORT, SHORTEST = 1e-2, 1e-3  # shares of the full length


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What is to be trained, in this order.

    lengths: iterations of the settings that are shortened, by the key of the full-length one.
    spare: runs that do not fit by the estimate, in the order in which they would come next.
    """

    runs: tuple[Run, ...]
    lengths: dict[str, int] = field(default_factory=dict)
    spare: tuple[Run, ...] = ()

    def actual(self, setting: AnySetting) -> AnySetting:
        """The setting as it is trained here: in full length, or shortened."""
        length = self.lengths.get(setting.key)
        return setting if length is None else shortened(setting, length)


def everything(experiments: Sequence[Experiment], *, seeds: int | None) -> Allocation:
    """Every run that the rows ask for, or `seeds` of each: all first seeds, all second ones, ..."""
    rows = [(row.settings, seeds or row.seeds) for experiment in experiments for row in experiment.rows]
    lines = [((line.setting,), 1) for experiment in experiments for line in experiment.lines]
    wanted = [
        Run(setting=each, seed=seed) for settings, count in rows + lines for seed in range(count) for each in settings
    ]
    once: dict[tuple[str, int], Run] = {}
    for run in wanted:
        once.setdefault(run.key, run)
    return Allocation(runs=tuple(sorted(once.values(), key=lambda run: run.seed)))


def allocate(
    experiments: Sequence[Experiment], *, seconds: float, jobs: int, seeds: int | None, cost: Cost
) -> Allocation:
    """What fits into `seconds` of `jobs` jobs side by side.  seeds: so many of each row, not what it asks for."""
    work = _Work(seconds, jobs, cost)
    groups = sorted(_groups(experiments), key=lambda group: work.alone(group.runs(TWO))) if seeds != 1 else []
    late_groups = [group for group in groups if not work.add(group.runs(TWO))]
    lighter = [_without_giants(group, work) for group in late_groups]
    short = [group for group in lighter if not work.add(group.runs(TWO))]
    lengths: dict[str, int] = {}
    spare: list[Run] = []
    for number, group in enumerate(short):
        until = work.end() + (seconds - work.end()) / (len(short) - number)
        share, count = _longest(group, work, until, seeds)
        if count:
            work.add(group.runs(count, share))
            lengths |= group.lengths(share)
            spare += [run for seed in range(count, seeds or MOST_SHORT) for run in group.round(seed, share)]
    bound = {setting.key for group in late_groups for setting in group.settings} - work.settings()
    free = [
        row
        for experiment in experiments
        for row in experiment.rows
        if row.settings and not any(setting.key in bound for setting in row.settings)
    ]
    late = _greedy(free, {id(row) for group in groups for row in group.rows}, work, seeds)
    lines = [line.setting for experiment in experiments for line in experiment.lines]
    late += [
        run for run in (Run(setting=each, seed=0) for each in lines if each.key not in bound) if not work.add([run])
    ]
    return Allocation(runs=tuple(work.runs), lengths=lengths, spare=tuple(work.new([*late, *spare])))


class _Work:
    """Runs in order, and when the last of them ends on so many jobs."""

    def __init__(self, seconds: float, jobs: int, cost: Cost) -> None:
        self.seconds, self.cost = seconds, cost
        self.runs: list[Run] = []
        self.keys: set[tuple[str, int]] = set()
        self.ends = [0.0] * jobs  # a heap

    def has(self, run: Run) -> bool:
        return run.key in self.keys

    def settings(self) -> set[str]:
        """Keys of the settings that are planned."""
        return {key for key, _ in self.keys}

    def new(self, runs: Iterable[Run]) -> list[Run]:
        """Those of the runs that are not planned yet, each once."""
        return [run for run in {run.key: run for run in runs}.values() if not self.has(run)]

    def alone(self, runs: Iterable[Run]) -> float:
        """Seconds of training, one after the other, of what is not planned yet."""
        return sum(self.cost(run) for run in self.new(runs))

    def end(self, runs: Iterable[Run] = ()) -> float:
        """When everything is done, with these runs after the others."""
        return max(self._after(self.new(runs)))

    def add(self, runs: Iterable[Run]) -> bool:
        """Plan the runs if they fit; those that are done always do."""
        new = self.new(runs)
        ends = self._after(new)
        if max(ends) > self.seconds and any(self.cost(run) for run in new):
            return False
        self.ends = ends
        self.runs += new
        self.keys |= {run.key for run in new}
        return True

    def _after(self, new: list[Run]) -> list[float]:
        ends = list(self.ends)
        for run in new:
            heapq.heapreplace(ends, ends[0] + self.cost(run))
        return ends


@dataclass(frozen=True)
class _Group:
    """Claims that have settings in common, directly or by way of others: the rows that each compares."""

    claims: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> list[Row]:
        return list({id(row): row for claim in self.claims for row in claim}.values())

    @property
    def settings(self) -> list[AnySetting]:
        return list({setting.key: setting for row in self.rows for setting in row.settings}.values())

    def runs(self, seeds: int, share: float = 1.0) -> list[Run]:
        """The first two seeds together, dear ones first; then seed by seed: what is done early can be tested."""
        first = [run for seed in range(min(TWO, seeds)) for run in self.round(seed, share)]
        return _dear_first(first) + [run for seed in range(TWO, seeds) for run in self.round(seed, share)]

    def round(self, seed: int, share: float = 1.0) -> list[Run]:
        lengths = self.lengths(share)
        settings = self.settings if share == 1 else [shortened(each, lengths[each.key]) for each in self.settings]
        return _dear_first([Run(setting=each, seed=seed) for each in settings])

    def lengths(self, share: float) -> dict[str, int]:
        return {each.key: max(1, math.floor(share * iterations(each))) for each in self.settings}


def _dear_first(runs: list[Run]) -> list[Run]:
    def arithmetic(run: Run) -> float:
        return learned(run.setting).macs * iterations(run.setting) * run.setting.recipe.batch

    return sorted(runs, key=lambda run: -arithmetic(run))


def _groups(experiments: Sequence[Experiment]) -> list[_Group]:
    """The claims about trainings, those with a common setting together."""
    groups: list[_Group] = []
    for experiment in experiments:
        by_name = {row.name: row for row in experiment.rows}
        for claim in experiment.claims:
            rows = tuple(by_name[name] for name in claim.rising if by_name[name].settings)
            keys = {setting.key for row in rows for setting in row.settings}
            near = [group for group in groups if keys & {setting.key for setting in group.settings}]
            claims = [each for group in near for each in group.claims]
            if rows:
                groups = [group for group in groups if not any(group is each for each in near)] + [
                    _Group((*claims, rows))
                ]
    return groups


def _without_giants(group: _Group, work: _Work) -> _Group:
    """Without the settings that take more than half of the time, and without the claims that need them."""
    while True:
        costs = {each.key: work.cost(Run(setting=each, seed=0)) for each in group.settings}
        giant = max(costs, key=lambda key: costs[key])
        rest = [
            claim for claim in group.claims if giant not in {setting.key for row in claim for setting in row.settings}
        ]
        if costs[giant] <= sum(costs.values()) / 2 or not rest:
            return group
        group = _Group(tuple(rest))


def _longest(group: _Group, work: _Work, until: float, seeds: int | None) -> tuple[float, int]:
    """The largest share of its length, to within a hundredth, at which a group ends by `until`, and the seeds of it.

    None fits: no seeds.
    """
    for count, least in ((seeds or THREE, SHORT), (TWO, SHORTEST)):
        if work.end(group.runs(count, least)) > until:
            continue
        fits, fails = least, 1.0
        while fails > 1.01 * fits:
            share = math.sqrt(fits * fails)
            fits, fails = (share, fails) if work.end(group.runs(count, share)) <= until else (fits, share)
        return fits, count
    return 0.0, 0


def _greedy(rows: list[Row], claimed: set[int], work: _Work, seeds: int | None) -> list[Run]:
    """Plan the seed that narrows most per second until none fits; returns the runs that would come next."""
    late: list[Run] = []
    closed: set[int] = set()
    while True:
        found: list[tuple[float, Row, list[Run]]] = []
        for row in rows:
            seed = _planned(row, work)
            if id(row) not in closed and seed < (seeds or row.seeds):
                runs = work.new(Run(setting=setting, seed=seed) for setting in row.settings)
                weight = 2 if id(row) in claimed else 1
                found.append((weight * _narrowing(seed) / max(1e-9, work.alone(runs)), row, runs))
        if not found:
            return late
        _, row, runs = max(found, key=lambda each: each[0])
        if not work.add(runs):
            closed.add(id(row))
            late += runs


def _planned(row: Row, work: _Work) -> int:
    seed = 0
    while all(work.has(Run(setting=setting, seed=seed)) for setting in row.settings):
        seed += 1
    return seed


def _narrowing(n: int) -> float:
    """What one more seed does to the half-width, in spreads; before the second run there is none."""
    return 100.0 if n < TWO else half_width(n, n - 1) - half_width(n + 1, n)
