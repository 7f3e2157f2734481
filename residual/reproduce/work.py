"""Trains runs and examines them, several side by side, and tells how it goes.

An exam comes as soon as its runs are done, before the next training: what is done early can be tested.  A run or an
exam whose job dies is gone on with once, in a new job; if that dies too it is reported and left out, and the rest goes
on.  Asked to stop, or at the end of the time, every job saves a checkpoint first; an exam begins anew the next time.
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
from residual.reproduce.exam import Exam
from residual.reproduce.jobs import Job, Message, Messages, Start
from residual.reproduce.store import Failure, Run, Store, iterations

BEAT = 0.25  # seconds between looks at the clock and at signals
TRUSTED = 3.0  # seconds of work as estimated, before its true speed is believed


Work = Run | Exam
Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Began:
    """A run begins, or goes on after `step` iterations; or an exam begins."""

    run: Work
    step: int


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A run has done `step` iterations, an exam has seen `step` images."""

    run: Work
    step: int
    iterations: int
    train_error: float | None  # percent, of classifiers that are trained


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run is complete, after so many seconds in all its sittings; or an exam is, and what it found is kept."""

    run: Work
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Halted:
    """A run was stopped; its checkpoint of `step` is safe.  An exam begins anew the next time."""

    run: Work
    step: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A run or an exam ended badly.  again: it is tried once more."""

    run: Work
    reason: str
    again: bool


@dataclass(frozen=True)
class Beat:
    """Nothing happened for a moment."""


class Board:
    """What is done, what is going on and how long the rest will take.

    cost: seconds that a run takes from here, or an exam, by the estimate; the speed of this sitting corrects it.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        exams: Iterable[Exam] = (),
        *,
        store: Store,
        cost: Callable[[Work], float],
        jobs: int,
    ) -> None:
        self.jobs, self._store, self._cost = jobs, store, cost
        self.runs: dict[Key, Run] = {}
        self.exams: dict[Key, Exam] = {}
        self.cost: dict[Key, float] = {}  # of runs and exams, as all that follows
        self.length: dict[Key, int] = {}  # iterations, or images
        self.step: dict[Key, int] = {}
        self.first: dict[Key, int] = {}  # the step at which this sitting began
        self.over: set[Key] = set()  # done, of runs and exams, also of those that are not expected
        self.going: dict[Key, float] = {}  # since when
        self.took: dict[Key, float] = {}  # seconds of this sitting, until one was last heard of
        self.expect(*runs, *exams)

    @property
    def done(self) -> set[Key]:
        """Of the runs."""
        return self.over & self.runs.keys()

    @property
    def taken(self) -> set[Key]:
        """Of the exams."""
        return self.over & self.exams.keys()

    def look(self, works: Iterable[Work]) -> None:
        """See which of them are done on the disk; what is known to be done is not looked for again."""
        for work in works:
            if work.key in self.over:
                continue
            if work.is_over(self._store) if isinstance(work, Exam) else self._store.state(work) == "done":
                self.over.add(work.key)
                if work.key in self.step:
                    self.step[work.key] = self.length[work.key]

    def expect(self, *works: Work) -> None:
        """They will be done, now or some time."""
        for work in works:
            key = work.key
            if key in self.cost:
                continue
            self.cost[key] = self._cost(work)
            self.look([work])
            if isinstance(work, Exam):
                self.exams[key] = work
                self.length[key], self.step[key] = work.images, work.images if key in self.over else 0
            else:
                self.runs[key] = work
                self.length[key], self.step[key] = iterations(work.setting), self._store.done(work)
            self.first[key] = self.step[key]

    def saw(self, event: object) -> None:
        """Count what an event tells."""
        match event:
            case Began(run=run, step=step):
                self.going[run.key] = time.monotonic()
                self.step[run.key] = self.first[run.key] = step
            case Moved(run=run, step=step):
                self.step[run.key] = step
                self._heard(run.key)
            case Ended(run=run):
                self.step[run.key] = self.length[run.key]
                self.over.add(run.key)
                self._heard(run.key)
                self.going.pop(run.key, None)
            case Halted(run=run) | Failed(run=run):
                self.going.pop(run.key, None)

    def _heard(self, key: Key) -> None:
        if key in self.going:
            self.took[key] = time.monotonic() - self.going[key]

    def slowness(self) -> float:
        """True seconds per estimated second, in this sitting."""
        counted = sum(self.cost[key] * self._share(key) for key in self.took)
        return sum(self.took.values()) / counted if counted > TRUSTED else 1.0

    def _share(self, key: Key) -> float:
        """How much of what was left of it when it began in this sitting is done."""
        left = self.length[key] - self.first[key]
        return (self.step[key] - self.first[key]) / left if left else 1.0

    def seconds_of(self, work: Work) -> float:
        """What it will still take, alone in its job."""
        if work.key in self.over:
            return 0.0
        if work.key not in self.cost:
            return self._cost(work) * self.slowness()
        return self.cost[work.key] * (1 - self._share(work.key)) * self.slowness()

    def seconds_left(self) -> float:
        """Until all is done, on so many jobs."""
        rest = [self.seconds_of(run) for run in self.runs.values()]
        rest += [self.seconds_of(exam) for exam in self.exams.values()]
        return max(sum(rest) / self.jobs, max(rest, default=0.0))

    def now(self, key: Key) -> str:
        """What goes on, in a few words: resnet56 1,200; or ten-crop, 300 of 10,000 images."""
        if key in self.runs:
            return f"{self.runs[key].setting.model} {self.step[key]:,}"
        return f"{self.exams[key].way.words}, {self.step[key]:,} of {self.length[key]:,} images"

    def iterations(self) -> tuple[int, int]:
        """Of the runs: done, and in all."""
        return sum(self.step[key] for key in self.runs), sum(self.length[key] for key in self.runs)


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
        exams: Sequence[Exam] = (),
        *,
        store: Store,
        plan: Callable[[Run], Plan | DetectionPlan],
        board: Board,
        until: float | None = None,
        grace: float = 5.0,
    ) -> Iterator[object]:
        """Train `runs` in order, then what of `spare` fits; `exams` as soon as their runs are done.

        until: when to stop, on the monotonic clock.  grace: seconds that the jobs then have to stop in.
        """
        pending: list[Work] = [*exams, *runs, *spare]
        board.look(pending)
        tried: set[Key] = set()
        idle, busy = list(self.jobs), dict[int, Work]()
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
                job.order(_order(run, store, plan))
                if isinstance(run, Exam):
                    began = Began(run=run, step=0)
                    board.saw(began)
                    yield began
            if not busy:
                return
            if late and until is not None and time.monotonic() > until + grace:
                for run in busy.values():
                    yield Halted(run=run, step=store.safe(run) if isinstance(run, Run) else 0)
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
                if isinstance(run, Exam):
                    run.set_over(store)
                else:
                    store.set_finished(run, seconds=event.seconds)
            if isinstance(event, Failed):
                event = replace(event, again=event.again and run.key not in tried and not stopping)
                tried.add(run.key)
                if event.again:
                    pending.insert(0, run)
                else:  # what a later sitting must know: survivors alone prove nothing
                    diverged = message is not None and bool(message.get("diverged"))
                    failure = Failure(reason=event.reason, diverged=diverged)
                    if isinstance(run, Exam):
                        run.set_failed(store, failure)
                    else:
                        store.set_failed(run, failure)
            if ended:
                del busy[id(job)]
                idle.append(job if message is not None else self._anew(job))
            if event is not None:
                board.saw(event)
                if isinstance(event, Ended):  # some of what it is asked, a training has recorded
                    board.look(work for work in exams if run.key in [each.key for each in work.runs])
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


def _next(pending: list[Work], board: Board, until: float | None) -> Work | None:
    """Take the first that can be done and ends in time; what does not stays where it is."""
    pending[:] = [work for work in pending if work.key not in board.over]
    for number, work in enumerate(pending):
        if isinstance(work, Exam) and not all(run.key in board.over for run in work.runs):
            continue
        if until is None or time.monotonic() + board.seconds_of(work) <= until:
            return pending.pop(number)
    return None


def _order(work: Work, store: Store, plan: Callable[[Run], Plan | DetectionPlan]) -> Message:
    """As a job is told of it."""
    if isinstance(work, Exam):
        return {"examine": msgspec.to_builtins(work.way), "runs": [str(store.path(run).resolve()) for run in work.runs]}
    told = plan(work)
    of = "detector" if isinstance(told, DetectionPlan) else "classifier"
    return {"train": of, "plan": asdict(told), "path": str(store.path(work).resolve())}


def _event(run: Work, job: Job, message: Message | None) -> Any:
    """What a job's message says of its run or exam; None for what nobody needs to know."""
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
