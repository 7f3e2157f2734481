"""What there is to reproduce: what each experiment claims, needs and costs on this machine, and what is measured."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from residual.records import counted, environment, make_folder, read_json, write_json
from residual.reproduce import data, jobs
from residual.reproduce.budget import everything
from residual.reproduce.calibrate import Calibration, calibrate, kind_of
from residual.reproduce.costs import RESULTS, read_record
from residual.reproduce.exam import exams
from residual.reproduce.experiment import Experiment
from residual.reproduce.store import Store
from residual.train.precision import pick_device

TIMED = 0.3  # seconds for which a network is timed


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One experiment.

    data: each set it needs, and each trained network, and whether it is here.
    runs, done: trainings in all, and finished ones in the folder.
    exams: that finished trainings go through, and how many of them are over.
    seconds: that the rest takes on this machine, with `jobs` of them side by side; None: unknown.
    verdicts: how many rows and claims came out how, by record, counted as its report counts them.
    """

    name: str
    title: str
    source: str
    claim: str
    twin_of: str | None
    data: dict[str, bool]
    runs: int
    done: int
    exams: int
    examined: int
    seconds: float | None
    jobs: int
    verdicts: dict[str, dict[str, int]]


def overview(
    experiments: Sequence[Experiment], out: Path, places: Mapping[str, Path], *, device: str, count: int | None
) -> Iterator[Overview]:
    """Every experiment, with costs measured by a short calibration.  count: jobs, None for as many as fit."""
    place = pick_device(device)
    count = count or (jobs.cores() if place.type == "cpu" else 1)
    kinds = {kind_of(setting) for each in experiments for setting in each.settings}
    calibration = measured(kinds, device=device, threads=max(1, jobs.cores() // count), out=out)
    store = Store(out)
    for each in experiments:
        runs = everything([each], seeds=None).runs
        rest = [run for run in runs if store.state(run) != "done"]
        asked = exams([each], runs, actual=lambda setting: setting)
        open_exams = [exam for exam in asked if not exam.is_over(store)]
        known = all(data.source(run.setting.data).train for run in rest)
        times = [calibration.seconds(run.setting) for run in rest] if known else []
        times += [calibration.examining(exam.way, exam.settings) for exam in open_exams] if known else []
        yield Overview(
            name=each.name,
            title=each.title,
            source=each.source,
            claim=each.claim,
            twin_of=each.twin_of,
            data={name: data.where(name, places) is not None for name in each.data},
            runs=len(runs),
            done=len(runs) - len(rest),
            exams=len(asked),
            examined=len(asked) - len(open_exams),
            seconds=max(sum(times) / count, max(times, default=0.0)) if known else None,
            jobs=count,
            verdicts=_verdicts(each.name, out),
        )


def measured(kinds: set[str], *, device: str, threads: int, out: Path | None = None) -> Calibration:
    """This machine's calibration, as it was measured before in `out`, or now."""
    place = pick_device(device)
    about = environment()
    key = {name: about[name] for name in ("cpu", "cores", "gpu", "torch")} | {"device": str(place), "threads": threads}
    file = None if out is None else out / "calibration.json"
    if file is not None and file.is_file():
        kept = read_json(file, dict[str, Any])
        if kept.get("machine") == key and kinds <= kept["calibration"]["learning"].keys():
            return msgspec.convert(kept["calibration"], Calibration)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = replace(calibrate(kinds, device=device, seconds=TIMED), start=2.0)
    finally:
        torch.set_num_threads(before)
    if file is not None and file.parent.is_dir():
        make_folder(file.parent)
        write_json(file, {"machine": key, "calibration": found})
    return found


def _verdicts(name: str, out: Path) -> dict[str, dict[str, int]]:
    """Of the records of an experiment, in the folder and among the committed results."""
    found = {}
    for path in (out / name / "record.json", *sorted(RESULTS.glob("**/*.json"))):
        record = read_record(path)
        if record and record["experiment"].get("name") == name and not record.get("quick"):
            parts = [part for kind in ("rows", "claims") for part in record.get(kind, [])]
            verdicts = (
                counted(str(part.get("verdict")), shortened=bool(part.get("short")), planted=bool(part.get("planted")))
                for part in parts
            )
            found[str(path)] = dict(Counter(verdict for verdict in verdicts if verdict is not None))
    return found
