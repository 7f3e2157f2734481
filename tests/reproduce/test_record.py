import json
from dataclasses import replace

import pytest

from residual.records import write_json
from residual.reproduce.budget import Allocation
from residual.reproduce.experiment import Line
from residual.reproduce.record import POINTS, Evidence, _mean_curve, build, read_known
from residual.reproduce.store import Run, Store, iterations, shortened


def evidence(tmp_path, experiment, allocation=None, **changes) -> Evidence:
    """Finished runs without trainings: folders that say they are done, and the number that is measured."""
    runs = [Run(setting=row.settings[0], seed=seed) for row in experiment.rows[:2] for seed in range(3)]
    allocation = allocation or Allocation(runs=tuple(runs))
    store = Store(tmp_path)
    for run in allocation.runs:
        store.path(run).mkdir(parents=True)
        write_json(store.path(run) / "run.json", {"environment": {"cpu": "a core"}})
        deep = run.setting.model == "plain14"
        write_json(store.path(run) / "number.json", 50.0 + 10 * deep + run.seed)
        store.set_finished(run, seconds=60.0)
    about = {"seeds": None, "failed": {}, "cost": lambda run: 3_600.0, "quick": False} | changes
    return Evidence(store=store, allocation=allocation, **about)


@pytest.fixture
def planted(experiment):
    """The small experiment, with numbers read from number.json."""
    small = experiment(seeds=3)

    def number(runs):
        return json.loads((runs[0] / "number.json").read_text())

    return replace(small, rows=(*(replace(row, measure=number) for row in small.rows[:2]), *small.rows[2:]), lines=())


def test_numbers_intervals_and_verdicts_of_planted_runs(tmp_path, planted):
    found = build(planted, evidence(tmp_path, planted))
    shallow, deep, *_ = found["rows"]
    assert shallow["ours"] == [50.0, 51.0, 52.0]
    assert shallow["mean"] == 51.0
    assert shallow["interval"] == pytest.approx((51 - 2.484, 51 + 2.484), abs=1e-3)
    assert shallow["seconds"] == 180.0
    assert shallow["hardware"] == "a core"
    assert "4 degrees of freedom" in shallow["reason"], "pooled over both rows of this unit"
    assert deep["ours"] == [60.0, 61.0, 62.0]
    assert found["claims"][0]["verdict"] == "agrees"
    assert not found["left_out"]


def test_a_shortened_record_has_no_paper_and_tests_claims_only(tmp_path, planted):
    runs = [Run(setting=shortened(row.settings[0], 10), seed=seed) for row in planted.rows[:2] for seed in range(3)]
    lengths = {row.settings[0].key: 10 for row in planted.rows[:2]}
    found = build(planted, evidence(tmp_path, planted, Allocation(runs=tuple(runs), lengths=lengths)))
    assert not any(row["paper"] for row in found["rows"])
    assert {row["verdict"] for row in found["rows"][:2]} == {"not tested at this budget"}
    assert found["rows"][0]["short"] == {"iterations": 10, "of": 30}
    assert found["claims"][0]["verdict"] == "agrees"
    assert found["claims"][0]["short"] == {"iterations": 10, "of": 30}
    assert [part["what"] for part in found["left_out"]] == [f"plain-{n}: 3 full-length runs" for n in (8, 14)]
    assert [part["seconds"] for part in found["left_out"]] == [3 * 3_600] * 2


def test_what_is_missing_is_named_with_its_reason_and_cost(tmp_path, planted):
    runs = [Run(setting=planted.rows[0].settings[0], seed=0)]
    lost = Run(setting=planted.rows[1].settings[0], seed=0)
    found = build(planted, evidence(tmp_path, planted, Allocation(runs=tuple(runs)), failed={lost.key: "no memory"}))
    assert [(part["what"], part["why"]) for part in found["left_out"]] == [
        ("plain-8: 2 of 3 seeds", "does not fit into the budget"),
        ("plain-14: 3 of 3 seeds", "no memory"),
    ]
    assert [part["seconds"] for part in found["left_out"]] == [7_200, 10_800]
    assert found["rows"][0]["verdict"] == "not tested at this budget"


def test_a_measure_that_cannot_be_read_is_told_in_its_row(tmp_path, planted):
    about = evidence(tmp_path, planted)
    for path in (tmp_path / "runs").glob("plain8-*/number.json"):
        path.unlink()
    found = build(planted, about)
    assert "number.json" in found["rows"][0]["reason"]
    assert found["rows"][1]["n"] == 3


def test_curves_are_averaged_over_the_seeds_and_thinned(tmp_path, planted):
    def of(run):
        high = json.loads((run / "number.json").read_text())
        return {"error": [(float(x), high + x) for x in range(1_000)]}

    line = Line(name="plain-8", panel="plain", setting=planted.rows[0].settings[0], of=of)
    found = build(replace(planted, lines=(line,)), evidence(tmp_path, planted))
    (drawn,) = found["lines"]
    points = drawn["curves"]["error"]
    assert drawn["seeds"] == 3
    assert len(points) == POINTS
    assert points[0] == (0.0, 51.0)
    assert points[-1] == (999.0, 1_050.0)
    assert _mean_curve([]) == []
    assert _mean_curve([[(0.0, 1.0)], [(0.0, 3.0)]]) == [(0.0, 2.0)]


def test_what_is_no_record_is_read_as_an_empty_one(tmp_path):
    for text in ("", "{", "[]", '{"experiment": 3}'):
        (tmp_path / "record.json").write_text(text)
        assert read_known(tmp_path / "record.json") == {}
    assert read_known(tmp_path / "none.json") == {}


def test_the_length_of_a_finished_run_is_on_record(tmp_path, planted):
    about = evidence(tmp_path, planted)
    run = about.allocation.runs[0]
    assert about.store.finish(run).iterations == iterations(run.setting)
