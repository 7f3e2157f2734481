"""One job: a process that trains and examines what it is told, one thing at a time, and says what happens.

    python -m residual.reproduce.worker THREADS

It reads JSON lines from standard input and writes JSON lines to standard output.  When standard input ends, whoever
started it has gone: it saves a checkpoint and stops too.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from residual import pipeline
from residual.pipeline import DetectionPlan, Diverged, Plan, Stop
from residual.records import AlreadyRunning, convert
from residual.reproduce import calibrate, exam
from residual.reproduce.detection_measures import Finding, Placing
from residual.reproduce.exam import Way
from residual.reproduce.measures import Responses, Views

PATIENCE = 30.0  # seconds: a job whose starter was killed may still be saving this run
TOLD_EVERY = 0.5  # seconds between words of how far an exam is


def main() -> None:
    """Do what standard input says until it ends."""
    said = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no message
    torch.set_num_threads(int(sys.argv[1]))
    stop = Stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; whoever started us decides
    signal.signal(signal.SIGTERM, lambda number, _: setattr(stop, "signal", number))
    orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_listen, args=(orders, stop), daemon=True).start()
    while (order := orders.get()) is not None:
        for message in follow(order, stop):
            said.write(json.dumps(message, default=str) + "\n")


def _listen(orders: "queue.Queue[dict[str, Any] | None]", stop: Stop) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "stop" in order:
            stop.signal = order["stop"]
        else:
            orders.put(order)
    stop.signal = stop.signal or signal.SIGTERM
    orders.put(None)


def follow(order: dict[str, Any], stop: Stop) -> Iterator[dict[str, Any]]:
    """Do one thing: calibrate, train or resume a run, or examine finished ones.

    Yields what happens, and an error as the last message.
    """
    try:
        if "calibrate" in order:
            about = order["calibrate"]
            found = calibrate.calibrate(set(about["kinds"]), device=about["device"], seconds=about["seconds"])
            yield {"calibrated": asdict(found)}
        elif "examine" in order:
            way: Way = msgspec.convert(order["examine"], Views | Responses | Finding | Placing)
            yield from _examine(way, [Path(run) for run in order["runs"]], stop)
        else:
            plan = convert(order["plan"], DetectionPlan) if order["train"] == "detector" else _plan(order["plan"])
            for event in _train(plan, Path(order["path"]), stop):
                assert is_dataclass(event)
                assert not isinstance(event, type)
                yield {"event": type(event).__name__, **asdict(event)}
    except Exception as error:
        final = isinstance(error, ValueError | Diverged)  # it would happen again
        if not final:
            traceback.print_exc()
        told = str(error) if final or isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        yield {"failed": told, "final": final, "diverged": isinstance(error, Diverged)}


class _Stopped(Exception):
    """Somebody asked to stop."""


def _examine(way: Way, runs: Sequence[Path], stop: Stop) -> Iterator[dict[str, Any]]:
    """An exam, beside this thread, so that it can be told how far it is; in the words of a training."""
    began, seen = time.monotonic(), (0, 0)

    def tell(done: int, images: int) -> None:
        nonlocal seen
        seen = done, images
        if stop.signal:
            raise _Stopped

    with ThreadPoolExecutor(max_workers=1) as beside:
        examining = beside.submit(exam.examined, way, runs, tell)
        while not wait([examining], timeout=TOLD_EVERY).done:
            yield {"event": "Progress", "step": seen[0], "iterations": seen[1], "train_error": None}
        try:
            examining.result()
        except _Stopped:
            yield {"event": "Stopped", "step": 0}
        else:
            yield {"event": "Finished", "seconds": time.monotonic() - began}


def _plan(told: dict[str, Any]) -> Plan:
    plan = convert(told, Plan)
    changes = {name: tuple(value) if isinstance(value, list) else value for name, value in plan.changes.items()}
    return replace(plan, changes=changes)


def _train(plan: Plan | DetectionPlan, path: Path, stop: Stop) -> Iterator[object]:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            yield from _begin(plan, path)(stop)
            return
        except AlreadyRunning:
            if time.monotonic() > until or stop.signal:
                raise
            time.sleep(0.5)


def _begin(plan: Plan | DetectionPlan, path: Path) -> Callable[[Stop], Iterator[object]]:
    if not (path / "run.json").is_file():
        return lambda stop: pipeline.train(plan, path, stop=stop)
    return lambda stop: pipeline.resume(path, stop=stop, workers=plan.workers, device=plan.device, data=plan.data)


if __name__ == "__main__":
    main()
