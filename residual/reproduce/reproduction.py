"""From experiments to records: plan -> train -> examine -> measure -> judge -> record.

A command that is cut off, however it is, goes on when it is given again: with the same plan, what is left of its time,
and every run from its newest checkpoint.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from residual.pipeline import DetectionPlan, Plan, Stop, asks_nothing_of_the_host
from residual.records import RunFolder, environment, make_folder, read_json, write_json
from residual.reproduce import data, jobs, work
from residual.reproduce.budget import Allocation, allocate, everything
from residual.reproduce.calibrate import Calibration, kind_of, looks
from residual.reproduce.exam import Exam, due_after, exams, exams_by_last
from residual.reproduce.experiment import DetectionSetting, Experiment, Setting
from residual.reproduce.quick import quick
from residual.reproduce.record import Evidence, build
from residual.reproduce.store import Run, Store, iterations
from residual.reproduce.work import Board, Failed, Work
from residual.train.precision import pick_device

SAFETY = 0.8  # share of the time that is planned: machines slow down, and what is left over buys more seeds
STRANDS = 8  # small networks that train side by side on one GPU
SPENT_EVERY = 5.0  # seconds between notes of the time that was spent
TIMED = 3.0  # seconds for which a network is timed, at most
MEMBERS = 1000  # seeds between one member of an ensemble and the next


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a user asks for.

    out: the folder of runs and records.  places: where data lies, by the name of the data set.
    seeds: of each row, None for what the rows ask.  budget: seconds for the whole command, None for no limit.
    jobs: trainings side by side, None for one per core, or STRANDS on a GPU.
    began: when the command began, on the monotonic clock.
    """

    experiments: tuple[Experiment, ...]
    out: Path
    places: Mapping[str, Path] = field(default_factory=dict)
    seeds: int | None = None
    budget: float | None = None
    jobs: int | None = None
    on: Literal["local", "ray"] = "local"
    device: str = "auto"
    quick: bool = False
    download: bool = False
    began: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What will be done.  lengths: iterations of shortened trainings, and their full length, by network."""

    board: Board
    jobs: int
    lengths: dict[str, tuple[int, int]]
    seconds_left: float | None  # of the budget
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """An experiment's record is written."""

    name: str
    path: Path
    record: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Doing:
    """Something takes a moment before the trainings begin."""

    what: str


class _Commitment(msgspec.Struct, kw_only=True):
    """OUT/plans/NAME.json: what a command decided to do; the same command goes on with it."""

    asked: dict[str, Any]
    runs: list[tuple[str, int]]
    spare: list[tuple[str, int]]
    lengths: dict[str, int]
    calibration: Calibration | None
    made: str


def why_not(experiment: Experiment, places: Mapping[str, Path], *, download: bool = False) -> str | None:
    """Why an experiment cannot be run now: which data is missing; None: it can."""
    for name in experiment.data:
        if data.where(name, places) is None and not (download and name in data.FETCHED):
            return f"{experiment.name} needs {data.missing(name)}"
    return None


def can_share(experiments: Sequence[Experiment]) -> bool:
    """Whether all their trainings can share a GPU from threads: none draws from the generator that threads share."""
    settings = [setting for each in experiments for setting in each.settings]
    return all(
        isinstance(setting, Setting) and asks_nothing_of_the_host(setting.description, setting.recipe)
        for setting in settings
    )


def side_by_side(device: str, experiments: Sequence[Experiment]) -> int:
    """How many trainings go on at once where the user does not say."""
    if device == "cpu":
        return jobs.cores()
    return STRANDS if device.startswith("cuda") and can_share(experiments) else 1


def reproduce(order: Order, *, stop: Stop) -> Iterator[object]:
    """Do what is asked and yield what happens: `Doing`, `Planned`, the events of work.py, and `Recorded` at the end."""
    out = order.out / "quick" if order.quick else order.out
    experiments = tuple(quick(each) if order.quick else each for each in order.experiments)
    make_folder(out)
    with RunFolder(out).lock():
        yield from _Reproduction(order, experiments, out, stop).events()


class _Reproduction:
    """One command, from its plan to its records: what its chapters share."""

    def __init__(self, order: Order, experiments: tuple[Experiment, ...], out: Path, stop: Stop) -> None:
        self.order, self.experiments, self.stop = order, experiments, stop
        self.store = Store(out)
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        device = pick_device(order.device)
        self.device = order.device if ":" in order.device else device.type
        self.jobs = order.jobs or side_by_side(device.type, self.experiments)
        self.failed: dict[tuple[str, int], str] = {}
        self.calibration: Calibration | None = None
        name = experiments[0].name if len(experiments) == 1 else f"{len(experiments)}-experiments"
        digest = hashlib.sha256(msgspec.json.encode(self.asked(), order="deterministic")).hexdigest()[:8]
        self.plan_file = out / "plans" / f"{name}-{digest}.json"
        self.spent_file = self.plan_file.with_suffix(".spent")
        self.spent_before = read_json(self.spent_file, float) if self.spent_file.exists() else 0.0
        self.noted = 0.0

    def asked(self) -> dict[str, Any]:
        """What makes another plan when it changes."""
        return {
            "experiments": {
                each.name: [[[setting.key for setting in row.settings], row.seeds] for row in each.rows]
                for each in self.experiments
            },
            "seeds": self.order.seeds,
            "budget": self.order.budget,
            "jobs": self.jobs,
            "device": self.device,
        }

    def spent(self) -> float:
        """Seconds of this command in all its sittings."""
        return self.spent_before + time.monotonic() - self.order.began

    def until(self) -> float | None:
        """When the trainings stop, on the monotonic clock: early enough for all that comes after."""
        if self.order.budget is None:
            return None
        return self.order.began + self.order.budget - self.spent_before - self.reserve()

    def reserve(self) -> float:
        """Seconds of the budget that are kept for stopping, measuring and writing."""
        return 0.0 if self.order.budget is None else min(20.0, max(3.0, 0.03 * self.order.budget))

    def events(self) -> Iterator[object]:
        """The chapters in order."""
        make_folder(self.plan_file.parent)
        self.note_spent()
        committed = self.read_plan()
        allocation = committed or everything(self.experiments, seeds=self.order.seeds)
        if self.is_left(allocation) and not self.is_over():
            yield from self.read_data()
            count = self.jobs if self.order.budget is not None else min(self.jobs, len(allocation.runs))
            with work.pool(self.start(), count, self.stop) as pool:
                if self.calibration is None and not self.order.quick:
                    yield Doing(what="timing this machine")
                    self.calibrate(pool)
                if committed is None and self.order.budget is not None:
                    allocation = self.allocate()
                if committed is None and not self.is_over():
                    self.write_plan(allocation)
                    self.note_spent()
                yield from self.train(pool, allocation, resumed=committed is not None)
        self.note_spent()
        for experiment in self.experiments:
            yield Doing(what=f"measuring {experiment.name}")
            yield self.record(experiment, allocation)

    def is_left(self, allocation: Allocation) -> bool:
        """Whether there is something to train or to examine."""
        runs = (*allocation.runs, *allocation.spare)
        done = all(self.store.state(run) == "done" for run in runs)
        return not done or not all(exam.is_over(self.store) for exam in self.exams(allocation))

    def exams(self, allocation: Allocation) -> list[Exam]:
        """What the rows ask of the runs of an allocation."""
        return exams(self.experiments, (*allocation.runs, *allocation.spare), allocation.actual)

    def is_over(self) -> bool:
        """Whether the time is up."""
        until = self.until()
        return until is not None and time.monotonic() >= until

    def read_data(self) -> Iterator[Doing]:
        """Refuse data that is not what it is called.  What is decoded here, the jobs find decoded."""
        began, order = time.monotonic(), self.order
        settings = [setting for each in self.experiments for setting in each.settings]
        detectors = [setting for setting in settings if isinstance(setting, DetectionSetting)]

        def read(names: Iterable[str], refuse: Callable[[str, str], None]) -> Iterator[Doing]:
            for name in sorted(set(names)):
                if name not in data.DRAWN:
                    yield Doing(what=f"reading {data.source(name).title}")
                    refuse(name, data.where(name, order.places) or name)

        yield from read(
            (setting.data for setting in settings if isinstance(setting, Setting)),
            partial(data.refuse_others, workers=self.jobs, download=order.download),
        )
        yield from read((setting.data for setting in detectors), partial(data.refuse_other_objects, workers=self.jobs))
        yield from read((setting.trunk for setting in detectors if setting.trunk), data.refuse_other_weights)
        self.reading = time.monotonic() - began

    def start(self) -> jobs.Start:
        """How a job begins."""
        threads = max(1, jobs.cores() // self.jobs)
        if self.order.on == "ray":
            return jobs.on_ray(self.jobs, threads, gpu=self.device.startswith("cuda"))
        if self.device.startswith("cuda") and can_share(self.experiments):
            return jobs.strands(self.device)
        return jobs.processes(threads, self.store.out / "jobs.log")

    def calibrate(self, pool: work.Pool) -> None:
        """Time the machine with all jobs at once, as they will train."""
        kinds = {kind_of(setting) for each in self.experiments for setting in each.settings}
        seconds = TIMED / 3 if self.order.budget is None else min(TIMED, self.order.budget / 120)
        found = pool.calibrate(kinds, device=self.device, seconds=seconds, until=self.until())
        if found is not None:
            self.calibration = replace(found, start=min(self.reading, 5.0) + 1.0)

    def cost(self, work: Work) -> float:
        """Seconds that a run or an exam still takes; in a quick reproduction all runs are alike."""
        if isinstance(work, Exam):
            if self.calibration is None or work.is_over(self.store):
                return 0.0
            return self.calibration.examining(work.way, work.settings)
        if self.store.state(work) == "done":
            return 0.0
        whole = 1.0 if self.calibration is None else self.calibration.seconds(work.setting)
        return whole * (1 - self.store.done(work) / (iterations(work.setting) + 1))

    def allocate(self) -> Allocation:
        """What fits into the time that is left."""
        until = self.until()
        if self.calibration is None or until is None:
            return Allocation(runs=())
        asked = exams_by_last(self.experiments)
        costs: dict[tuple[str, int], float] = {}

        def cost(run: Run) -> float:
            """With the exams that it is the last to be needed for."""
            if run.key not in costs:
                costs[run.key] = self.cost(run) + sum(map(self.cost, due_after(run, asked)))
            return costs[run.key]

        seconds = SAFETY * max(0.0, until - time.monotonic())
        return allocate(self.experiments, seconds=seconds, jobs=self.jobs, seeds=self.order.seeds, cost=cost)

    def train(self, pool: work.Pool, allocation: Allocation, *, resumed: bool) -> Iterator[object]:
        """The trainings, with a note of the time they take now and then."""
        exams = self.exams(allocation)
        planned = {run.key for run in allocation.runs}
        expected = [exam for exam in exams if all(run.key in planned for run in exam.runs)]
        board = Board(allocation.runs, expected, store=self.store, cost=self.cost, jobs=self.jobs)
        until = self.until()
        full = {setting.key: setting for each in self.experiments for setting in each.settings}
        yield Planned(
            board=board,
            jobs=self.jobs,
            lengths={full[key].model: (k, iterations(full[key])) for key, k in allocation.lengths.items()},
            seconds_left=None if until is None else until - time.monotonic(),
            resumed=resumed,
        )
        happenings = pool.work(
            allocation.runs,
            allocation.spare,
            exams,
            store=self.store,
            plan=self.plan,
            board=board,
            until=until,
            grace=self.reserve() / 2,
        )
        for event in happenings:
            if isinstance(event, Failed) and not event.again:
                self.failed[event.run.key] = event.reason
            if time.monotonic() - self.noted > SPENT_EVERY:
                self.note_spent()
            yield event

    def plan(self, run: Run) -> Plan | DetectionPlan:
        """A run as the pipeline is told of it."""
        setting, name = run.setting, run.setting.data
        place = data.where(name, self.order.places) or name
        workers = 0 if name in data.DRAWN else max(1, jobs.cores() // self.jobs)
        if isinstance(setting, DetectionSetting):
            return DetectionPlan(
                model=setting.model,
                data=place,
                recipe=setting.recipe,
                lists=data.source(name).lists,
                trunk=None if setting.trunk is None else data.where(setting.trunk, self.order.places),
                seed=run.seed + MEMBERS * setting.member,
                device=self.device,
                workers=workers,
                looks=looks(setting),
            )
        return Plan(
            model=setting.model,
            data=place,
            recipe=setting.recipe,
            size=setting.size,
            seed=run.seed,
            device=self.device,
            workers=workers,
            download=self.order.download,
            changes=setting.changes,
            looks=looks(setting),
        )

    def note_spent(self) -> None:
        """Remember the time, for the next sitting."""
        self.noted = time.monotonic()
        write_json(self.spent_file, round(self.spent(), 2))

    # --- the plan ----------------------------------------------------------------------------------------------

    def write_plan(self, allocation: Allocation) -> None:
        """Commit to it: the same command goes on with the same plan."""
        write_json(
            self.plan_file,
            _Commitment(
                asked=self.asked(),
                runs=[run.key for run in allocation.runs],
                spare=[run.key for run in allocation.spare],
                lengths=allocation.lengths,
                calibration=self.calibration,
                made=datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )

    def read_plan(self) -> Allocation | None:
        """What this command committed to before; None if this is its first time."""
        if not self.plan_file.exists():
            return None
        found = read_json(self.plan_file, _Commitment)
        self.calibration = found.calibration
        bare = Allocation(runs=(), lengths=found.lengths)
        known = [setting for each in self.experiments for setting in each.settings]
        by_key = {each.key: each for setting in reversed(known) for each in (setting, bare.actual(setting))}
        try:
            runs, spare = (
                tuple(Run(setting=by_key[key], seed=seed) for key, seed in keys) for keys in (found.runs, found.spare)
            )
        except KeyError as error:
            raise ValueError(
                f"{self.plan_file} plans a training {error} that no experiment asked for has; it is damaged: remove "
                "it to plan anew (finished runs are kept)"
            ) from error
        return Allocation(runs=runs, lengths=found.lengths, spare=spare)

    # --- the record --------------------------------------------------------------------------------------------

    def record(self, experiment: Experiment, allocation: Allocation) -> Recorded:
        """Measure, judge and write down."""
        evidence = Evidence(
            store=self.store,
            allocation=allocation,
            seeds=self.order.seeds,
            failed=self.failed,
            cost=self.cost,
            quick=self.order.quick,
            stopped=bool(self.stop.signal),
        )
        record = build(experiment, evidence) | {
            "budget": self.order.budget,
            "spent": round(self.spent(), 1),
            "environment": environment(),
            "command": sys.argv,
            "started": self.started,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = self.store.out / experiment.name / "record.json"
        make_folder(path.parent)
        write_json(path, record)
        return Recorded(name=experiment.name, path=path, record=record)


def needed(experiments: Sequence[Experiment]) -> set[str]:
    """Names of the data sets that the user has to bring."""
    return {name for each in experiments for name in each.data if name not in data.DRAWN}
