import json
import signal
import time
from dataclasses import replace

import pytest

from residual.cli import reproduce as command
from residual.cli.reproduce import View, _ours, _seconds, long
from residual.experiments import table1
from residual.pipeline import Stop
from residual.recipes.demo import demo
from residual.reproduce import work
from residual.reproduce.exam import Exam
from residual.reproduce.experiment import Claim, Experiment, Row, Setting
from residual.reproduce.measures import Views, training_error
from residual.reproduce.store import Run, Store

RECIPE = replace(demo(), epochs=None, iterations=20)
SMALL = Experiment(
    name="small",
    title="Two plain networks",
    source="a test",
    claim="the deeper trains worse",
    rows=tuple(
        Row(
            name=name,
            unit="% training error",
            settings=(Setting(model=name, recipe=RECIPE, data="digits"),),
            measure=training_error,
            seeds=2,
        )
        for name in ("plain8", "plain14")
    ),
    claims=(Claim(text="deeper is worse", rising=("plain8", "plain14")),),
    data=("digits",),
)
FAR = replace(SMALL, name="far", data=("cifar10",))
KNOWN = {"table1": table1.experiment, "small": SMALL, "far": FAR}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three experiments instead of the paper's."""
    monkeypatch.setattr(command, "EXPERIMENTS", tuple(KNOWN))
    monkeypatch.setattr(command, "_experiments", lambda names: tuple(KNOWN[name] for name in names))


def test_the_list_says_claim_data_cost_and_what_is_measured(say):
    said = say("reproduce", "list")
    assert said.code == 0
    for experiment in KNOWN.values():
        assert f"{experiment.name}: {experiment.title} ({experiment.source})" in said.out
        assert experiment.claim in said.out
    assert "digits, here" in said.out
    assert "--data cifar10=DIR" in said.out
    assert "nothing: it is computed" in said.out
    assert "on this machine, 4 trainings" in said.out
    assert said.out.splitlines()[-1] == "Next: residual reproduce small --budget 20m"


def test_the_list_is_there_for_programs_too(say):
    found = {each["name"]: each for each in json.loads(say("reproduce", "list", "--json").out)}
    assert found["small"]["data"] == {"digits": True}
    assert found["far"]["data"] == {"cifar10": False}
    assert found["small"]["seconds"] > 0
    assert found["small"]["runs"] == 4
    assert found["table1"]["runs"] == 0


def test_a_computed_experiment_is_written_at_once(say, quiet_place):
    said = say("reproduce", "table1")
    assert said.code == 0
    assert "claim: Deeper networks cost more: agrees" in said.out
    assert said.out.splitlines()[-1] == "Next: residual report runs/reproduce/table1"
    record = json.loads((quiet_place / "runs/reproduce/table1/record.json").read_text())
    assert record["command"] == ["residual", "reproduce", "table1"]
    assert "agrees" in say("reproduce", "list").out, "the list knows what has been measured"


def test_an_experiment_is_trained_measured_and_told(say, quiet_place):
    said = say("reproduce", "small", "--out", "here", "--device", "cpu", "--jobs", "1")
    assert said.code == 0, said.err
    assert said.out.count("done after") == 4
    assert "plain8, % training error" in said.out
    assert "claim: deeper is worse" in said.out
    events = say("reproduce", "small", "--out", "here", "--device", "cpu", "--seeds", "3", "--jobs", "1", "--json")
    lines = [json.loads(line) for line in events.out.splitlines()]
    assert [line["event"] for line in lines if line["event"] in ("planned", "recorded")] == ["planned", "recorded"]
    assert len([line for line in lines if line["event"] == "ended"]) == 2
    assert lines[-1]["record"]["rows"][0]["n"] == 3


def test_all_leaves_out_what_cannot_be_run_and_says_why(say, monkeypatch):
    order_of: dict[str, object] = {}

    def remember(order, stop, left_out, *, as_json):
        order_of.update(vars(order), **left_out)

    monkeypatch.setattr(command, "_follow", remember)
    assert say("reproduce", "all").code == 0
    assert [each.name for each in order_of["experiments"]] == ["table1", "small"]
    assert "--data cifar10=DIR" in order_of["far"]
    order_of.clear()
    assert say("reproduce", "demo-all", "--quick").code == 0
    assert [each.name for each in order_of["experiments"]] == ["table1", "small", "far"]


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "name the experiments"),
        (["tabel1"], "did you mean table1?"),
        (["far"], "--data cifar10=DIR"),
        (["small", "--budget", "soon"], "--budget 'soon' is no time"),
        (["small", "--budget", "5m", "--quick"], "leave out --budget"),
        (["small", "--on", "mars"], "local or ray"),
        (["small", "--data", "nowhere"], "does not say which"),
        (["far", "--data", "cifar10=nowhere"], "there is no nowhere"),
        (["small", "--out", "file"], "is a file"),
        (["small", "--device", "tpu"], "there is no device"),
        (["small", "--jobs", "0"], "--jobs"),
    ],
)
def test_what_the_user_got_wrong_is_told_in_a_paragraph(say, quiet_place, words, told):
    (quiet_place / "file").touch()
    said = say("reproduce", *words)
    assert said.code == 2
    assert told in said.err.replace("\n", " ")
    assert "Traceback" not in said.err
    assert not (quiet_place / "runs").exists() or not list((quiet_place / "runs").rglob("run.json"))


def test_other_data_than_the_named_is_refused(say, cats_and_dogs, monkeypatch):
    rows = tuple(replace(row, settings=(replace(row.settings[0], data="cifar10"),)) for row in FAR.rows)
    monkeypatch.setitem(KNOWN, "far", replace(FAR, rows=rows))
    said = say("reproduce", "far", "--data", cats_and_dogs, "--device", "cpu")
    assert said.code == 2
    assert "is not CIFAR-10" in said.err


def test_a_stopped_command_says_how_to_go_on(start, quiet_place):
    program = start("reproduce", "figure1", "--quick", "--out", "a b", "--jobs", "1")
    until = time.monotonic() + 60
    while not list(quiet_place.glob("a b/quick/runs/*/metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.05)
    program.send_signal(signal.SIGINT)
    out, _ = program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGINT
    assert out.splitlines()[-1] == "Next: residual reproduce figure1 --quick --out 'a b' --jobs 1"


def test_help_comes_without_torch(end):
    said = end("reproduce", "--help")
    assert said.code == 0
    assert "--budget" in said.out


def test_durations_of_any_length_can_be_read():
    told = [long(seconds) for seconds in (40, 600, 19_000, 200_000, 1e8)]
    assert told == ["40 s", "10 min", "5.3 h", "2.3 days", "3.2 years"]
    assert _seconds("1h30m") == 5_400


def test_our_number_stands_with_its_interval_and_its_runs():
    assert _ours({"mean": 8.756, "interval": [8.5, 9.0], "n": 3, "seeds": [0, 1, 2]}) == "8.76 ± 0.25 (3)"
    assert _ours({"mean": 8.75, "interval": None, "n": 1, "seeds": [0]}) == "8.75 (1 run)"
    assert _ours({"mean": 269722.0, "interval": None, "n": 1, "seeds": []}) == "269,722"
    assert _ours({"mean": None, "interval": None, "n": 0, "seeds": []}) == ""


def test_the_line_tells_how_far_everything_is(tmp_path):
    runs = [Run(setting=row.settings[0], seed=0) for row in SMALL.rows]
    view = View(Stop())
    view.board = work.Board(runs, store=Store(tmp_path), cost=lambda run: 90.0, jobs=1)
    view.board.saw(work.Began(run=runs[0], step=5))
    assert view.line() == "0 of 2 runs, 5 of 40 iterations, about 3 min left (plain8 5)"
    view.until = time.monotonic() + 20
    assert "about 20 s left" in view.line(), "no more than the budget leaves"


def test_the_line_tells_how_far_an_exam_is(tmp_path):
    exam = Exam(way=Views(protocol="ten-crop"), runs=(Run(setting=SMALL.rows[0].settings[0], seed=0),))
    view = View(Stop())
    view.board = work.Board(exam.runs, [exam], store=Store(tmp_path), cost=lambda work: 60.0, jobs=1)
    assert "about 2 min left" in view.line(), "of the training and of the exam"
    view.board.saw(work.Began(run=exam, step=0))
    view.board.saw(work.Moved(run=exam, step=90, iterations=360, train_error=None))
    assert view.line().endswith("(ten-crop, 90 of 360 images)")
    view.board.saw(work.Ended(run=exam, seconds=1.0))
    told = "0 of 1 runs, 0 of 20 iterations, 1 of 1 exams, about"
    assert view.line().startswith(told), "images are no iterations, exams no runs"
    assert view.board.seconds_of(exam) == 0
