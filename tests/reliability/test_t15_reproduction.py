"""T15: a reproduction whose jobs die, or that is stopped or killed, goes on; one with a time budget ends on time."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from residual.pipeline import Stop
from residual.reproduce import work
from residual.reproduce.reproduction import Order, reproduce
from residual.reproduce.store import Run, Store

REPRODUCE = Path(__file__).parents[1] / "reproduce" / "conftest.py"


@pytest.fixture
def small():
    """The conftest of tests/reproduce: a small experiment, and a plain script that reproduces it."""
    spec = importlib.util.spec_from_file_location("reproduce_conftest", REPRODUCE)
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    return conftest


@pytest.fixture
def script(small, tmp_path):
    """script(out, iterations=300, budget=60.0)"""
    yield from small.scripts(tmp_path)


def said(process: subprocess.Popen[str]) -> list[list[str]]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return [line.split() for line in out.splitlines()]


def _job_of(out: Path, run: Run) -> int:
    return int((Store(out).path(run) / "run.lock").read_text())


@pytest.mark.reliability
def test_a_job_that_dies_goes_on_in_a_new_one_and_one_that_dies_twice_is_left_out(tmp_path, small):
    long = replace(small.an_experiment(iterations=3_000), claims=(), lines=())
    long = replace(long, rows=(replace(long.rows[0], seeds=1), replace(long.rows[1], seeds=1)))
    short = replace(long.rows[1], settings=small.an_experiment().rows[1].settings)
    long = replace(long, rows=(long.rows[0], short))
    victims, failed, ended = [], [], []
    for event in reproduce(Order(experiments=(long,), out=tmp_path, device="cpu", jobs=1), stop=Stop()):
        match event:
            case work.Moved() if event.iterations == 3_000 and len(victims) < 2:
                victims.append(_job_of(tmp_path, event.run))
                os.kill(victims[-1], signal.SIGKILL)
            case work.Failed():
                failed.append(event.again)
            case work.Ended():
                ended.append(event.run.setting.model)
    assert failed == [True, False]
    assert victims[0] != victims[1]
    assert ended == ["plain14"]


@pytest.mark.reliability
def test_a_signal_stops_all_jobs_with_a_checkpoint_and_they_go_on_there(tmp_path, script):
    out = tmp_path / "out"
    first = script(out, iterations=400, seeds=1, jobs=2)
    begun = set()
    for line in first.stdout:
        begun |= {line.split()[1]} if line.startswith("Moved") else set()
        if len(begun) == 2:
            break
    first.send_signal(signal.SIGTERM)
    halted = {line[1]: int(line[2]) for line in said(first) if line[0] == "Halted"}
    assert halted.keys() == begun
    second = said(script(out, iterations=400, seeds=1, jobs=2))
    assert {line[1]: int(line[2]) for line in second if line[0] == "Began"} == halted
    assert len([line for line in second if line[0] == "Ended"]) == 2


@pytest.mark.reliability
def test_jobs_end_when_their_command_is_killed(tmp_path, script):
    out = tmp_path / "out"
    process = script(out, iterations=20_000, seeds=1, jobs=1)
    for line in process.stdout:
        if line.startswith("Moved"):
            break
    (job,) = {int(path.read_text() or 0) for path in out.glob("runs/*/run.lock")} - {0}
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{job}").exists() and Path(f"/proc/{job}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.reliability
def test_a_budget_ends_on_time_with_shortened_runs_that_test_the_claim(tmp_path, script):
    began = time.monotonic()
    lines = said(script(tmp_path / "out", iterations=60_000, seeds=3, jobs=2, budget=60.0))
    seconds = time.monotonic() - began
    assert seconds < 60.0 + 3
    record = json.loads((tmp_path / "out" / "small" / "record.json").read_text())
    rows = record["rows"][:2]
    assert {row["short"]["of"] for row in rows} == {60_000}
    (length,) = {row["short"]["iterations"] for row in rows}
    assert length < 60_000
    assert min(row["n"] for row in rows) >= 2
    assert not any(row["paper"] for row in record["rows"]), "no shortened number stands beside the paper's"
    assert {row["verdict"] for row in rows} == {"not tested at this budget"}
    assert record["claims"][0]["p"] is not None
    assert record["claims"][0]["short"]["iterations"] == length
    assert "full-length" in record["left_out"][0]["what"]
    assert record["budget"] == 60.0
    assert record["spent"] < 60.0 + 3
    assert [line for line in lines if line[0] == "Ended"]


@pytest.mark.reliability
def test_a_budget_that_was_cut_off_goes_on_with_the_same_plan_and_what_is_left(tmp_path, script):
    out = tmp_path / "out"
    first = script(out, iterations=60_000, seeds=3, jobs=2, budget=60.0)
    for line in first.stdout:
        if line.startswith("Ended"):
            break
    first.kill()
    first.wait()
    (plan,) = out.glob("plans/*.json")
    planned, finished = plan.read_bytes(), set(out.glob("runs/*/finished.json"))
    spent = json.loads(plan.with_suffix(".spent").read_text())
    assert spent > 0
    began = time.monotonic()
    second = said(script(out, iterations=60_000, seeds=3, jobs=2, budget=60.0))
    assert time.monotonic() - began < 60.0 + 3 - spent
    assert plan.read_bytes() == planned
    assert not {line[1] for line in second if line[0] == "Began"} & {path.parent.name for path in finished}
    assert json.loads((out / "small" / "record.json").read_text())["spent"] > spent


@pytest.mark.reliability
def test_ray_does_the_same_as_processes(tmp_path, script):
    pytest.importorskip("ray")
    numbers = {}
    for on in ("local", "ray"):
        lines = said(script(tmp_path / on, seeds=2, jobs=2, on=on))
        record = json.loads((tmp_path / on / "small" / "record.json").read_text())
        numbers[on] = [row["ours"] for row in record["rows"]], sorted(line[1] for line in lines if line[0] == "Ended")
    assert numbers["local"] == numbers["ray"]
    assert len(numbers["ray"][1]) == 4
