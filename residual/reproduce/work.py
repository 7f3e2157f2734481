"""Trains runs, several side by side, and tells how it goes.

A run whose job dies is gone on with once, in a new job; if that dies too it is reported and left out, and the rest
goes on.  Asked to stop, or at the end of the time, every job saves a checkpoint first.
"""

import queue
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from residual.pipeline import DetectionPlan, Plan, Stop
from residual.reproduce.calibrate import Calibration, mean
from residual.reproduce.jobs import Job, Message, Messages, Start
from residual.reproduce.store import Failure, Run, Store, iterations

BEAT = 0.25  # seconds between looks at the clock and at signals
TRUSTED = 3.0  # seconds of work as estimated, before its true speed is believed


@dataclass(frozen=True, kw_only=True)
class Began:
    """A run begins, or goes on after `step` iterations."""

    run: Run
    step: int


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A run has done `step` iterations."""

    run: Run
    step: int
    iterations: int
    train_error: float | None  # percent, of classifiers


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run is complete, after so many seconds in all its sittings."""

    run: Run
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Halted:
    """A run was stopped; its checkpoint of `step` is safe."""

    run: Run
    step: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A run ended badly.  again: it is tried once more."""

    run: Run
    reason: str
    again: bool


@dataclass(frozen=True)
class Beat:
    """Nothing happened for a moment."""


class Board:
    """What is done, what is going on and how long the rest will take.

    cost: seconds that a run takes from here, by the estimate; the speed of this sitting corrects it.
    """

    def __init__(self, runs: Iterable[Run], *, store: Store, cost: Callable[[Run], float], jobs: int) -> None:
        self.jobs, self._store, self._cost = jobs, store, cost
        self.runs: dict[tuple[str, int], Run] = {}
        self.cost: dict[tuple[str, int], float] = {}
        self.length: dict[tuple[str, int], int] = {}
        self.step: dict[tuple[str, int], int] = {}
        self.first: dict[tuple[str, int], int] = {}  # the step at which this sitting began
        self.done: set[tuple[str, int]] = set()
        self.going: dict[tuple[str, int], float] = {}  # since when
        self.took: dict[tuple[str, int], float] = {}  # seconds of this sitting, until a run was last heard of
        for run in runs:
            self.expect(run)

    def expect(self, run: Run) -> None:
        """A run will be done, now or some time."""
        if run.key in self.runs:
            return
        self.runs[run.key], self.cost[run.key] = run, self._cost(run)
        self.length[run.key] = iterations(run.setting)
        self.step[run.key] = self.first[run.key] = self._store.done(run)
        if self._store.state(run) == "done":
            self.done.add(run.key)

    def saw(self, event: object) -> None:
        """Count what an event tells."""
        match event:
            case Began(run=run, step=step):
                self.going[run.key] = time.monotonic()
                self.step[run.key] = self.first[run.key] = step
            case Moved(run=run, step=step):
                self.step[run.key] = step
                self._heard(run)
            case Ended(run=run):
                self.step[run.key] = self.length[run.key]
                self.done.add(run.key)
                self._heard(run)
                self.going.pop(run.key, None)
            case Halted(run=run) | Failed(run=run):
                self.going.pop(run.key, None)

    def _heard(self, run: Run) -> None:
        if run.key in self.going:
            self.took[run.key] = time.monotonic() - self.going[run.key]

    def slowness(self) -> float:
        """True seconds per estimated second, in this sitting."""
        counted = sum(self.cost[key] * self._share(key) for key in self.took)
        return sum(self.took.values()) / counted if counted > TRUSTED else 1.0

    def _share(self, key: tuple[str, int]) -> float:
        """How much of what was left of a run when it began in this sitting is done."""
        left = self.length[key] - self.first[key]
        return (self.step[key] - self.first[key]) / left if left else 1.0

    def seconds_of(self, run: Run) -> float:
        """What a run will still take, alone in its job."""
        if run.key in self.done:
            return 0.0
        if run.key not in self.runs:
            return self._cost(run) * self.slowness()
        return self.cost[run.key] * (1 - self._share(run.key)) * self.slowness()

    def seconds_left(self) -> float:
        """Until all is done, on so many jobs."""
        rest = [self.seconds_of(run) for run in self.runs.values()]
        return max(sum(rest) / self.jobs, max(rest, default=0.0))

    def iterations(self) -> tuple[int, int]:
        """Done, and in all."""
        return sum(self.step.values()), sum(self.length.values())


class Pool:
    """Jobs that wait for orders.  Use `pool(...)`, which ends them."""

    def __init__(self, start: Start, count: int, stop: Stop) -> None:
        self.start, self.stop = start, stop
        self.messages: Messages = queue.Queue()
        self.jobs: list[Job] = [start(self.messages) for _ in range(count)]

    def calibrate(
        self, kinds: set[str], *, device: str, seconds: float, until: float | None = None
    ) -> Calibration | None:
        """What all jobs measure at the same time, on average; None if that is not known by `until`."""
        for job in self.jobs:
            job.order({"calibrate": {"kinds": sorted(kinds), "device": device, "seconds": seconds}})
        found: list[Calibration] = []
        while len(found) < len(self.jobs):
            try:
                job, message = self.messages.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                return None
            if message is None or "failed" in message:
                told = job.last_words() if message is None else message["failed"]
                raise (ValueError if message and message["final"] else RuntimeError)(told)
            found.append(msgspec.convert(message["calibrated"], Calibration))
        return mean(found)

    def work(
        self,
        runs: Sequence[Run],
        spare: Sequence[Run] = (),
        *,
        store: Store,
        plan: Callable[[Run], Plan | DetectionPlan],
        board: Board,
        until: float | None = None,
        grace: float = 5.0,
    ) -> Iterator[object]:
        """Train `runs` in order, then what of `spare` fits.

        until: when to stop, on the monotonic clock.  grace: seconds that the jobs then have to stop in.
        """
        pending = [run for run in (*runs, *spare) if store.state(run) != "done"]
        tried: set[tuple[str, int]] = set()
        idle, busy = list(self.jobs), dict[int, Run]()
        stopping: int | None = None
        while True:
            late = until is not None and time.monotonic() > until
            if not stopping and (self.stop.signal or late):
                stopping = self.stop.signal or signal.SIGALRM
                for job in self.jobs:
                    job.stop(stopping)
            while idle and not stopping and (run := _next(pending, board, until)) is not None:
                job = idle.pop(0)
                busy[id(job)] = run
                board.expect(run)
                told = plan(run)
                of = "detector" if isinstance(told, DetectionPlan) else "classifier"
                job.order({"train": of, "plan": asdict(told), "path": str(store.path(run).resolve())})
            if not busy:
                return
            if late and until is not None and time.monotonic() > until + grace:
                yield from (Halted(run=run, step=store.safe(run)) for run in busy.values())
                return
            try:
                job, message = self.messages.get(timeout=BEAT)
            except queue.Empty:
                yield Beat()
                continue
            if id(job) not in busy:
                if message is None and job in idle:
                    idle[idle.index(job)] = self._anew(job)
                continue
            run = busy[id(job)]
            event = _event(run, job, message)
            if isinstance(event, Halted) and not stopping:  # somebody else told it to stop, and it would again
                event, message = Failed(run=run, reason="its process was told to stop", again=True), None
            ended = isinstance(event, Ended | Halted | Failed)
            if isinstance(event, Ended):
                store.set_finished(run, seconds=event.seconds)
            if isinstance(event, Failed):
                event = replace(event, again=event.again and run.key not in tried and not stopping)
                tried.add(run.key)
                if event.again:
                    pending.insert(0, run)
                else:  # what a later sitting must know: survivors alone prove nothing
                    diverged = message is not None and bool(message.get("diverged"))
                    store.set_failed(run, Failure(reason=event.reason, diverged=diverged))
            if ended:
                del busy[id(job)]
                idle.append(job if message is not None else self._anew(job))
            if event is not None:
                board.saw(event)
                yield event

    def _anew(self, dead: Job) -> Job:
        """A new job in the place of one that has died."""
        dead.end(now=True)
        self.jobs[self.jobs.index(dead)] = job = self.start(self.messages)
        return job

    def end(self) -> None:
        """End all jobs, whatever they do."""
        for job in self.jobs:
            job.end(now=True)


@contextmanager
def pool(start: Start, count: int, stop: Stop) -> Iterator[Pool]:
    """`count` jobs that are ended when the context is left, however it is left."""
    with ExitStack() as held:
        opened = Pool(start, count, stop)
        held.callback(opened.end)
        yield opened


def _next(pending: list[Run], board: Board, until: float | None) -> Run | None:
    """Take the first run that ends in time; what does not stays where it is."""
    for number, run in enumerate(pending):
        if until is None or time.monotonic() + board.seconds_of(run) <= until:
            return pending.pop(number)
    return None


def _event(run: Run, job: Job, message: Message | None) -> Any:
    """What a job's message says of its run; None for what nobody needs to know."""
    if message is None:
        return Failed(run=run, reason=job.last_words(), again=True)
    if "failed" in message:
        return Failed(run=run, reason=message["failed"], again=not message["final"])
    match message["event"]:
        case "Started":
            return Began(run=run, step=message["step"])
        case "Progress":
            return Moved(
                run=run, step=message["step"], iterations=message["iterations"], train_error=message["train_error"]
            )
        case "Stopped":
            return Halted(run=run, step=message["step"])
        case "Finished":
            return Ended(run=run, seconds=message["seconds"])
    return None
