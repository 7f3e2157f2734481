"""The whole story: a description becomes a run.

    plan -> data -> model -> train -> evaluate -> record

`train` is a generator: it yields what happens (residual/events.py) and whoever iterates decides how to show it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from residual.pipeline.classification import Classification, asks_nothing_of_the_host, read_data
from residual.pipeline.detection import Detection, read_objects
from residual.pipeline.run import Diverged, Stop
from residual.recipes.detection_plan import DetectionPlan
from residual.recipes.plan import Plan
from residual.records import RunFolder, convert
from residual.train import distributed
from residual.train.precision import pick_device

__all__ = [
    "DetectionPlan",
    "Diverged",
    "Plan",
    "Stop",
    "asks_nothing_of_the_host",
    "planned",
    "planned_classification",
    "read_data",
    "read_objects",
    "resume",
    "train",
]


def train(plan: Plan | DetectionPlan, run: Path, *, stop: Stop | None = None) -> Iterator[object]:
    """Train as planned, into the new folder `run`, and yield what happens.

    Nothing is written before the data is read and the network stands, so a refused plan leaves no trace.
    """
    yield from _together(plan, run, stop or Stop(), resume=False)


def resume(
    run: Path,
    *,
    stop: Stop | None = None,
    workers: int | None = None,
    device: str | None = None,
    data: str | None = None,
) -> Iterator[object]:
    """Go on with the run in the folder `run` from its newest whole checkpoint: bit for bit as if never cut off.

    workers, device: other ones than the run began with; the device must be of the same kind.
    data: where the images lie now, if they have moved; other images are refused.
    """
    plan = planned(run)
    plan = replace(
        plan,
        workers=plan.workers if workers is None else workers,
        device=plan.device if device is None else device,
    )
    yield from _together(plan, run, stop or Stop(), resume=True, place=data)


def planned_classification(run: Path) -> Plan:
    """The plan of a run that trained a classifier; refuses a detector's."""
    plan = planned(run)
    if not isinstance(plan, Plan):
        raise ValueError(f"{run} trained a detector; a classifier's run is needed here")
    return plan


def planned(run: Path) -> Plan | DetectionPlan:
    """The plan that a run folder was started with."""
    described = RunFolder.open(run).description
    try:
        if described.get("task", "classification") == "classification":
            return convert(described["plan"], Plan)
        return convert(described["plan"], DetectionPlan)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{run / 'run.json'} does not hold a plan that this version can follow: {error}") from error


def _together(
    plan: Plan | DetectionPlan, run: Path, stop: Stop, *, resume: bool, place: str | None = None
) -> Iterator[object]:
    world = distributed.join(pick_device(plan.device))
    try:
        if isinstance(plan, Plan):
            events = Classification(plan, run, stop, world, place).events(resume=resume)
        else:
            events = Detection(plan, run, stop, world, place).events(resume=resume)
        if world.leads:
            yield from events
        else:
            for _ in events:
                pass  # only the leader speaks
    finally:
        distributed.leave()
