import json
from dataclasses import replace

import pytest

from residual.records import write_json
from residual.reproduce.budget import Allocation
from residual.reproduce.exam import Drawn, Exam, Examined, Way
from residual.reproduce.experiment import Line, Printed
from residual.reproduce.record import POINTS, Evidence, _mean_curve, build
from residual.reproduce.store import Failure, Run, Store, iterations, shortened


def evidence(tmp_path, experiment, allocation=None, **changes) -> Evidence:
    """Finished runs without trainings: folders that say they are done, and the number that is measured."""
    runs = [Run(setting=row.settings[0], seed=seed) for row in experiment.rows[:2] for seed in range(3)]
    allocation = allocation or Allocation(runs=tuple(runs))
    store = Store(tmp_path)
    for run in allocation.runs:
        store.path(run).mkdir(parents=True)
        about = {"cpu": "a core", "torch": "2.15.0", "commit": "aaaa" * 10}
        write_json(store.path(run) / "run.json", {"environment": about, "data": {"fingerprint": "f00d"}})
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
    assert "2 degrees of freedom)" in shallow["reason"], "the other row of this unit has no number of the paper"
    assert (shallow["torch"], shallow["commit"], shallow["data"]) == ("2.15.0", "aaaa" * 10, "f00d")
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


def with_paper(planted, *printed):
    """The small experiment with these numbers of the paper beside its two networks."""
    rows = (replace(row, paper=paper, resolution=9.0) for row, paper in zip(planted.rows[:2], printed, strict=True))
    return replace(planted, rows=(*rows, *planted.rows[2:]))


def test_rows_with_a_number_of_the_paper_are_pooled_but_not_with_bounds(tmp_path, planted):
    both = with_paper(planted, Printed(value=50.0), Printed(value=60.0))
    found = build(both, evidence(tmp_path / "both", both))
    assert "4 degrees of freedom over 2 rows" in found["rows"][0]["reason"]
    bound = with_paper(planted, Printed(value=50.0), Printed(value=20.0, kind="above"))
    found = build(bound, evidence(tmp_path / "bound", bound))
    assert "2 degrees of freedom)" in found["rows"][0]["reason"]


@pytest.mark.parametrize("remembered", [True, False])
def test_a_row_that_lost_a_run_is_not_judged_by_its_survivors(tmp_path, planted, remembered):
    """They were judged before, and the run that diverged was nowhere but among what was left out."""
    both = with_paper(planted, Printed(value=51.0), Printed(value=61.0))
    about = evidence(tmp_path, both)
    assert [row["verdict"] for row in build(both, about)["rows"][:2]] == ["agrees"] * 2
    lost = Run(setting=both.rows[1].settings[0], seed=3)
    allocation = Allocation(runs=(*about.allocation.runs, lost))
    failure = Failure(reason="numbers that are not finite", diverged=True)
    if remembered:  # in an earlier sitting
        about.store.set_failed(lost, failure)
    about = replace(about, allocation=allocation, failed={} if remembered else {lost.key: failure.reason})
    found = build(both, about)
    _, deep, *_ = found["rows"]
    assert deep["verdict"] == "not tested at this budget"
    assert deep["reason"].startswith("seed 3 was lost: numbers that are not finite; ")
    (claim,) = found["claims"]
    assert (claim["verdict"], claim["p"]) == ("not tested at this budget", None)
    assert "plain-14: seed 3 was lost" in claim["reason"]
    about.store.path(lost).mkdir(exist_ok=True)
    write_json(about.store.path(lost) / "run.json", {"environment": {"cpu": "a core"}})
    write_json(about.store.path(lost) / "number.json", 61.5)
    about.store.set_finished(lost, seconds=60.0)
    found = build(both, about)
    assert found["claims"][0]["verdict"] == "agrees", "it was done after all"
    assert found["rows"][1]["n"] == 4


class Counted(Way, frozen=True, kw_only=True, tag=True):
    """An exam whose answer is written by hand."""

    @property
    def words(self):
        return "a look"

    def recorded(self, runs):
        answer = runs[0] / "answer.json"
        return {"number": json.loads(answer.read_text())} if answer.is_file() else None


def asked_for(planted):
    """The deep network's number is found in an exam."""
    shallow, deep = with_paper(planted, Printed(value=51.0), Printed(value=61.0)).rows[:2]
    deep = replace(deep, measure=Examined(Counted(), lambda found: found["number"]))
    return replace(planted, rows=(shallow, deep, *planted.rows[2:]))


def with_answers(about, experiment, *seeds):
    for seed in seeds:
        run = Run(setting=experiment.rows[1].settings[0], seed=seed)
        write_json(about.store.path(run) / "answer.json", 60.0 + seed)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_row_whose_exam_failed_is_not_judged_by_the_others(tmp_path, planted, remembered):
    """In the next sitting it was forgotten, and two of three had a verdict."""
    small = asked_for(planted)
    about = evidence(tmp_path, small)
    with_answers(about, small, 0, 2)
    lost = Exam(way=Counted(), runs=(Run(setting=small.rows[1].settings[0], seed=1),))
    if remembered:
        lost.set_failed(about.store, Failure(reason="no memory", diverged=False))
    found = build(small, replace(about, failed={} if remembered else {lost.key: "no memory"}))
    deep = found["rows"][1]
    assert deep["n"] == 2
    assert deep["verdict"] == "not tested at this budget"
    assert deep["reason"].startswith("seed 1 was lost: no memory; ")
    assert found["claims"][0]["verdict"] == "not tested at this budget"
    (left,) = found["left_out"]
    assert (left["what"], left["why"]) == ("plain-14: a look of 1 trained seed", "no memory")
    with_answers(about, small, 1)
    assert build(small, about)["rows"][1]["verdict"] == "agrees", "it was taken after all"


def test_what_is_due_is_left_out_by_name_even_where_a_measure_fails(tmp_path, planted):
    small = asked_for(planted)
    about = evidence(tmp_path, small)
    with_answers(about, small, 0)
    (about.store.path(Run(setting=small.rows[1].settings[0], seed=0)) / "answer.json").write_text('"no number"')
    deep = replace(small.rows[1], measure=Examined(Counted(), lambda found: float(found["number"])))
    found = build(replace(small, rows=(small.rows[0], deep, *small.rows[2:])), about)
    assert "could not convert" in found["rows"][1]["reason"]
    assert [part["what"] for part in found["left_out"]] == ["plain-14: a look of 2 trained seeds"]


def test_a_line_waits_for_its_own_exam_and_for_no_other(tmp_path, planted):
    small = asked_for(planted)
    about = evidence(tmp_path, small)
    with_answers(about, small, 0)
    deep = small.rows[1].settings[0]
    lines = (
        Line(name="read", panel="", setting=deep, of=lambda run: {"error": [(0.0, 1.0)]}),
        Line(name="looked", panel="", setting=deep, of=Drawn(Counted(), lambda found: {"": [(0.0, found["number"])]})),
    )
    found = build(replace(small, lines=lines), about)
    assert [(line["name"], line["seeds"]) for line in found["lines"]] == [("read", 3), ("looked", 1)]


def test_where_the_paper_says_that_a_network_fails_a_run_that_diverged_counts_as_one_that_guesses(tmp_path, planted):
    bound = with_paper(planted, Printed(value=51.0), Printed(value=20.0, kind="above", n=5))
    about = evidence(tmp_path, bound)
    lost = Run(setting=bound.rows[1].settings[0], seed=3)
    about = replace(about, allocation=Allocation(runs=(*about.allocation.runs, lost)))
    about.store.set_failed(lost, Failure(reason="numbers that are not finite", diverged=True))
    deep = build(bound, about)["rows"][1]
    assert deep["ours"] == [60.0, 61.0, 62.0, 90.0], "of ten classes"
    assert deep["seeds"] == [0, 1, 2, 3]
    assert len(deep["runs"]) == 3
    assert deep["reason"].endswith("1 of 4 runs diverged, and counts as guessing")
    about.store.set_failed(lost, Failure(reason="no memory", diverged=False))
    assert "seed 3 was lost: no memory" in build(bound, about)["rows"][1]["reason"]


def test_runs_of_several_commits_are_told_in_their_row_and_claim(tmp_path, planted):
    about = evidence(tmp_path, planted)
    run = about.store.path(about.allocation.runs[0])
    write_json(run / "run.json", {"environment": {"cpu": "another", "torch": "2.11.0", "commit": "bbbb" * 10 + "+"}})
    found = build(planted, about)
    shallow, deep, *_ = found["rows"]
    assert shallow["reason"].endswith("runs of 2 commits: aaaaaaaa, bbbbbbbb+")
    assert shallow["torch"] == "2.11.0, 2.15.0"
    assert found["claims"][0]["reason"].endswith("runs of 2 commits: aaaaaaaa, bbbbbbbb+")
    assert "commits" not in deep["reason"]


def test_what_a_reader_has_to_know_of_a_row_stands_in_its_reason(tmp_path, planted):
    noted = replace(planted, rows=(*planted.rows[:2], replace(planted.rows[2], note="by our rule"), *planted.rows[3:]))
    assert build(noted, evidence(tmp_path, noted))["rows"][2]["reason"].endswith("; by our rule")


def test_whatever_a_measure_runs_into_costs_its_row_alone(tmp_path, planted):
    def broken(runs):
        raise KeyError("top1_error")

    shallow, *others = planted.rows
    found = build(replace(planted, rows=(replace(shallow, measure=broken), *others)), evidence(tmp_path, planted))
    assert found["rows"][0]["reason"] == "KeyError: 'top1_error'"
    assert found["rows"][1]["n"] == 3


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


def test_the_length_of_a_finished_run_is_on_record(tmp_path, planted):
    about = evidence(tmp_path, planted)
    run = about.allocation.runs[0]
    assert about.store.finish(run).iterations == iterations(run.setting)
