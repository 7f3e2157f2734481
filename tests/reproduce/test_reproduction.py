import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace

import pytest

from residual.pipeline import Plan, Stop, planned, train
from residual.recipes.demo import demo
from residual.recipes.detection import at_side, detection_recipe
from residual.records import AlreadyRunning, RunFolder
from residual.reproduce import detection_ledger, jobs, reproduction, work
from residual.reproduce.calibrate import Calibration, Price
from residual.reproduce.detection_measures import map50, precision
from residual.reproduce.exam import Exam
from residual.reproduce.experiment import Claim, DetectionSetting, Experiment, Printed, Row, Setting
from residual.reproduce.measures import Views, error_under, mean_response
from residual.reproduce.measures import test_error as held_out_error
from residual.reproduce.reproduction import Doing, Order, Planned, Recorded, needed, reproduce, why_not
from residual.reproduce.store import Run, Store

NARROW = {"widths": (2, 2, 4), "stem_width": 2}
SHORT = replace(demo(), name="short", epochs=None, iterations=2)
LONG = replace(demo(), name="long", epochs=None, iterations=100_000)


def follow(order: Order, stop: Stop | None = None) -> list[object]:
    return [event for event in reproduce(order, stop=stop or Stop()) if not isinstance(event, work.Beat | Doing)]


def names(events: list[object], kind: type) -> list[str]:
    return [event.run.name for event in events if isinstance(event, kind)]


def said(process: subprocess.Popen[str]) -> list[list[str]]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [line.split() for line in out.splitlines()]


@pytest.fixture(autouse=True)
def timed_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "TIMED", 0.03)


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory):
    """The small experiment, reproduced once.  Not to be written to."""
    made = {}

    def reproduced(experiment):
        if "it" not in made:
            out = tmp_path_factory.mktemp("done")
            made["it"] = out, follow(Order(experiments=(experiment(),), out=out, device="cpu", jobs=2))
        return made["it"]

    return reproduced


def test_an_experiment_from_its_description_to_its_record(done, experiment):
    out, events = done(experiment)
    assert len(names(events, work.Ended)) == 4
    record = json.loads((out / "small" / "record.json").read_text())
    assert record == json.loads(json.dumps(events[-1].record))
    shallow, deep, answer, others = record["rows"]
    for row in (shallow, deep):
        assert len(row["ours"]) == row["n"] == 2
        assert row["seeds"] == [0, 1]
        assert all((out / "runs" / run / "finished.json").is_file() for run in row["runs"])
        assert row["short"] is None
        assert row["seconds"] > 0
        assert row["interval"][0] < row["mean"] < row["interval"][1]
    assert shallow["paper"]["value"] == 50.0
    assert shallow["verdict"] in ("agrees", "differs", "not tested at this budget")
    assert deep["verdict"] == "measured"
    assert (answer["verdict"], answer["ours"]) == ("agrees", [42.0])
    assert (others["verdict"], others["ours"]) == ("cited", [])
    (claim,) = record["claims"]
    assert 0 <= claim["p"] <= 1
    assert claim["numbers"] == {"plain-8": shallow["ours"], "plain-14": deep["ours"]}
    (line,) = record["lines"]
    assert line["seeds"] == 2
    assert len(line["curves"]["training error"]) > 2
    assert not record["left_out"]
    assert record["environment"]["torch"]


def test_the_same_command_again_trains_nothing(done, experiment):
    out, events = done(experiment)
    again = follow(Order(experiments=(experiment(),), out=out, device="cpu", jobs=2))
    assert [type(event) for event in again] == [Recorded]
    assert again[0].record["rows"] == events[-1].record["rows"]


def test_another_experiment_shares_the_runs_and_more_seeds_are_added(done, experiment):
    out, _ = done(experiment)
    other = experiment(name="other")
    shared = follow(Order(experiments=(other,), out=out, device="cpu", jobs=2))
    assert [type(event) for event in shared] == [Recorded]
    assert shared[0].record["rows"][0]["n"] == 2
    more = follow(Order(experiments=(experiment(),), out=out, device="cpu", jobs=1, seeds=3))
    assert sorted(name[-5:] for name in names(more, work.Ended)) == ["seed2", "seed2"]
    assert more[-1].record["rows"][0]["n"] == 3


def test_a_run_is_what_the_pipeline_alone_makes_of_it(done, experiment, setting, tmp_path):
    out, _ = done(experiment)
    plan = Plan(model="plain8", data="digits", recipe=setting().recipe, seed=1, device="cpu", workers=0)
    for _ in train(plan, tmp_path / "alone"):
        pass
    ours = Store(out).path(Run(setting=setting(), seed=1))
    error = [json.loads((run / "evaluation.json").read_text())["top1_error"] for run in (tmp_path / "alone", ours)]
    assert error[0] == error[1]
    assert (tmp_path / "alone" / "model.safetensors").stat().st_size == (ours / "model.safetensors").stat().st_size


def test_two_commands_in_one_folder_at_once_are_refused(tmp_path, experiment):
    with RunFolder(tmp_path).lock(), pytest.raises(AlreadyRunning, match="process"):
        follow(Order(experiments=(experiment(),), out=tmp_path, device="cpu", jobs=1))


def test_a_run_that_cannot_be_is_left_out_with_its_reason_and_the_rest_goes_on(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr(reproduction.data, "where", lambda name, places: "nowhere" if name == "shapes" else name)
    first, second = (replace(row, seeds=1) for row in experiment().rows[:2])
    first = replace(first, settings=(replace(first.settings[0], data="shapes"),))
    broken = replace(experiment(), rows=(first, second), claims=(), lines=())
    events = follow(Order(experiments=(broken,), out=tmp_path, device="cpu", jobs=1))
    assert [event.again for event in events if isinstance(event, work.Failed)] == [False], "it would fail again"
    assert len(names(events, work.Ended)) == 1
    (left_out,) = events[-1].record["left_out"]
    assert "nowhere" in left_out["why"]


def test_kill_9_of_everything_loses_nothing_behind_a_checkpoint(tmp_path, script, setting):
    """The command and its jobs are killed; the same command goes on, and no finished run is done again."""
    out = tmp_path / "out"
    first = script(out, iterations=60, seeds=1, jobs=1)
    for line in first.stdout:
        if line.startswith("Ended"):
            break
    jobs_of = {int(path.read_text() or 0) for path in out.glob("runs/*/run.lock")} - {0}
    for pid in (first.pid, *jobs_of):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    finished = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/finished.json")}
    assert len(finished) == 1
    second = said(script(out, iterations=60, seeds=1, jobs=1))
    assert not {line[1] for line in second if line[0] == "Began"} & finished.keys()
    assert {path.parent.name for path in out.glob("runs/*/finished.json")} >= finished.keys()
    assert all((out / "runs" / name / "finished.json").stat().st_mtime_ns == then for name, then in finished.items())
    record = json.loads((out / "small" / "record.json").read_text())
    assert [row["n"] for row in record["rows"][:2]] == [1, 1]


def test_quick_runs_lie_apart_and_have_no_paper(tmp_path, experiment):
    events = follow(Order(experiments=(experiment(),), out=tmp_path, device="cpu", jobs=1, quick=True))
    record = json.loads((tmp_path / "quick" / "small" / "record.json").read_text())
    assert record["quick"]
    assert not any(row["paper"] for row in record["rows"])
    assert record["claims"][0]["verdict"] == "not tested at this budget"
    assert not (tmp_path / "small").exists()
    assert all("quick" in name for name in names(events, work.Ended))


def test_a_computed_experiment_starts_no_job(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr(jobs, "processes", None)
    computed = replace(experiment(), rows=(experiment().rows[2],), claims=(), lines=(), data=())
    (recorded,) = follow(Order(experiments=(computed,), out=tmp_path, device="cpu"))
    assert recorded.record["rows"][0]["verdict"] == "agrees"


def test_missing_data_is_a_reason_not_to_run(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path))
    ready = experiment()
    assert why_not(ready, {}) is None
    elsewhere = replace(ready, data=("cifar10", "digits"))
    assert "--data cifar10=DIR" in why_not(elsewhere, {})
    assert why_not(elsewhere, {"cifar10": tmp_path}) is None
    assert why_not(elsewhere, {}, download=True) is None
    assert needed([elsewhere, ready]) == {"cifar10"}


def test_the_time_left_is_corrected_by_the_speed_of_this_sitting(tmp_path, setting, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(work.time, "monotonic", lambda: now[0])
    runs = [Run(setting=setting(), seed=seed) for seed in range(4)]
    board = work.Board(runs, store=Store(tmp_path), cost=lambda run: 10.0, jobs=2)
    assert board.seconds_left() == 20
    for run in runs[:2]:
        board.saw(work.Began(run=run, step=0))
    now[0] += 10
    for run in runs[:2]:
        board.saw(work.Moved(run=run, step=15, iterations=30, train_error=50.0))
    assert board.seconds_left() == pytest.approx(30), "half of the first two took twice as long as estimated"
    assert board.iterations() == (30, 120)
    for run in runs[:2]:
        board.saw(work.Ended(run=run, seconds=10))
    assert len(board.done) == 2
    spare = Run(setting=setting(), seed=9)
    assert board.seconds_of(spare) == pytest.approx(10 * board.slowness()), "one that was not expected has a price too"
    assert board.seconds_of(runs[0]) == 0


def test_what_is_known_to_be_done_is_not_looked_for_on_every_beat(tmp_path, setting, monkeypatch):
    run = Run(setting=setting(), seed=0)
    exam = Exam(way=Views(protocol="ten-crop"), runs=(run,))
    board = work.Board([run], [exam], store=Store(tmp_path), cost=lambda work: 10.0, jobs=1)
    monkeypatch.setattr(Exam, "is_over", None)
    monkeypatch.setattr(Store, "state", None)
    pending = [exam]
    assert work._next(pending, board, None) is None, "its run is not done"
    board.saw(work.Ended(run=run, seconds=10))
    assert work._next(pending, board, None) is exam
    board.saw(work.Ended(run=exam, seconds=10))
    assert (board.done, board.taken) == ({run.key}, {exam.key})
    assert board.seconds_left() == 0


def test_a_plan_says_how_many_trainings_there_are(done, experiment):
    _, events = done(experiment)
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert len(planned.board.runs) == 4
    assert planned.jobs == 2
    assert not planned.resumed


def a_detector(member: int = 0) -> DetectionSetting:
    """A training of a second or two."""
    recipe = detection_recipe("modern", "faster_rcnn_small_c4")
    recipe = replace(recipe, iterations=6, batch=2, augmentation=at_side(recipe.augmentation, 48))
    return DetectionSetting(model="faster_rcnn_small_c4", recipe=recipe, data="scenes:16", member=member)


def test_a_detector_goes_through_the_same_store_jobs_and_record(tmp_path):
    rows = (
        Row(name="one", unit="% mAP", paper=Printed(value=50.0), settings=(a_detector(),), measure=precision(map50)),
        Row(name="two", unit="% mAP", settings=(a_detector(), a_detector(1)), measure=precision(map50)),
    )
    small = Experiment(
        name="detectors", title="", source="", claim="", rows=rows, data=("scenes:16",), protocol=detection_ledger.VOC
    )
    events = follow(Order(experiments=(small,), out=tmp_path, device="cpu", jobs=1))
    plan = next(event for event in events if isinstance(event, Planned))
    assert plan.board.seconds_left() == 0.0
    assert all(event.train_error is None for event in events if isinstance(event, work.Moved))
    seeds = [planned(Store(tmp_path).path(Run(setting=a_detector(member), seed=0))).seed for member in (0, 1)]
    assert seeds == [0, reproduction.MEMBERS]
    record = events[-1].record
    one, two = record["rows"]
    assert one["ours"]
    assert two["ours"]
    assert len(two["runs"]) == 2
    assert "side" in {difference["what"] for difference in record["ledger"]}
    again = follow(Order(experiments=(small,), out=tmp_path, device="cpu", jobs=1))
    assert [type(event) for event in again] == [Recorded]


def examined(out, name="ways", seeds=2):
    """Two trainings whose rows look at their images in two ways, and together."""
    one, other = (Setting(model=model, recipe=SHORT, data="shapes", changes=NARROW) for model in ("plain8", "resnet8"))
    ways = {"ten": ((one,), "ten-crop"), "scales": ((one,), "multi-scale"), "both": ((one, other), "ten-crop")}
    rows = tuple(
        Row(name=row, unit="%", settings=settings, measure=error_under(views), seeds=seeds)
        for row, (settings, views) in ways.items()
    )
    small = Experiment(name=name, title="", source="", claim="", rows=rows, data=("shapes",))
    return Order(experiments=(small,), out=out, device="cpu", jobs=1)


@pytest.fixture(scope="session")
def ways(tmp_path_factory):
    """Such an experiment, reproduced once.  Not to be written to."""
    out = tmp_path_factory.mktemp("ways")
    return out, follow(examined(out))


def of_exams(events: list[object], kind: type) -> list[str]:
    return [event.run.name for event in events if isinstance(event, kind) and isinstance(event.run, Exam)]


def test_exams_are_taken_by_jobs_as_soon_as_their_runs_are_done(ways):
    _, events = ways
    begun = [event.run for event in events if isinstance(event, work.Began)]
    assert len(of_exams(events, work.Ended)) == 6, "three ways, two seeds"
    for number, run in enumerate(begun):
        if isinstance(run, Exam):
            assert {each.key for each in run.runs} <= {each.key for each in begun[:number]}
    last = next(number for number, run in enumerate(begun) if isinstance(run, Run) and run.seed == 1)
    assert any(isinstance(run, Exam) for run in begun[:last]), "before the next seed is trained"
    assert [row["n"] for row in events[-1].record["rows"]] == [2, 2, 2]


def test_another_experiment_and_the_same_command_again_take_no_exam_twice(ways):
    out, events = ways
    again = follow(examined(out))
    assert [type(event) for event in again] == [Recorded]
    assert again[0].record["rows"] == events[-1].record["rows"]
    other = follow(examined(out, name="others"))
    assert [type(event) for event in other] == [Recorded]
    assert [row["ours"] for row in other[0].record["rows"]] == [row["ours"] for row in events[-1].record["rows"]]


def test_an_exam_that_was_lost_is_taken_again_without_a_training(ways, tmp_path):
    out, events = ways
    shutil.copytree(out, tmp_path / "copy")
    lost = sorted((tmp_path / "copy").glob("runs/*/exam-*.json"))[0]
    lost.unlink()
    again = follow(examined(tmp_path / "copy"))
    assert names(again, work.Ended) == of_exams(again, work.Ended)
    assert len(names(again, work.Ended)) == 1
    assert [row["ours"] for row in again[-1].record["rows"]] == [row["ours"] for row in events[-1].record["rows"]]


def test_a_stopped_command_does_not_measure_and_says_what_is_left_out(ways, tmp_path):
    out, _ = ways
    shutil.copytree(out, tmp_path / "copy")
    for kept in (tmp_path / "copy").glob("runs/*/exam-*.json"):
        kept.unlink()
    order, stop, events = examined(tmp_path / "copy"), Stop(), []
    for event in reproduce(order, stop=stop):
        events.append(event)
        stop.signal = signal.SIGTERM
    assert not list((tmp_path / "copy").glob("runs/*/exam-*.json"))
    told = events[-1].record["left_out"]
    assert [each["what"] for each in told] == [
        "ten: ten-crop of 2 trained seeds",
        "scales: multi-scale of 2 trained seeds",
        "both: ten-crop of 2 trained seeds",
    ]
    assert {each["why"] for each in told} == {"stopped before it was done"}
    assert [row["n"] for row in events[-1].record["rows"]] == [0, 0, 0]


def test_an_exam_that_fails_costs_its_row_and_no_other(tmp_path):
    order = examined(tmp_path, seeds=1)
    (small,) = order.experiments
    setting = Setting(model="resnet8", recipe=SHORT, data="shapes", changes=NARROW | {"order": "full"})
    impossible = Row(name="impossible", unit="", settings=(setting,), measure=mean_response)
    events = follow(replace(order, experiments=(replace(small, rows=(small.rows[0], impossible)),)))
    (failed,) = [event for event in events if isinstance(event, work.Failed)]
    assert isinstance(failed.run, Exam)
    assert not failed.again, "it would fail again"
    good, bad = events[-1].record["rows"]
    assert (good["n"], bad["n"]) == (1, 0)
    assert bad["verdict"] == "not tested at this budget"
    assert "has no such place" in bad["reason"]


def test_exams_are_in_the_price_of_a_plan(tmp_path, monkeypatch):
    """A network that takes long to look at gets a shorter training than one that is read off its own record."""
    lengths = {}
    for name, measure in {"read": held_out_error, "looked": error_under("multi-scale")}.items():
        rows = tuple(
            Row(name=model, unit="%", measure=measure, settings=(Setting(model=model, recipe=LONG, data="shapes"),))
            for model in ("plain8", "plain14")
        )
        claims = (Claim(text="", rising=("plain8", "plain14")),)
        small = Experiment(name=name, title="", source="", claim="", rows=rows, claims=claims, data=("shapes",))
        order = Order(experiments=(small,), out=tmp_path / name, device="cpu", jobs=1, budget=400.0)
        planning = reproduction._Reproduction(order, order.experiments, tmp_path / name, Stop())
        price = Price(mac=1e-11, layer=1e-5)
        planning.calibration = Calibration(learning={"float32": price}, looking={"float32": price})
        lengths[name] = set(planning.allocate().lengths.values())
    (read,), (looked,) = lengths.values()
    assert looked < 0.95 * read


def test_a_detector_that_was_stopped_goes_on_in_a_new_job(tmp_path):
    setting = a_detector()
    setting = replace(setting, recipe=replace(setting.recipe, iterations=60))
    row = Row(name="one", unit="% mAP", settings=(setting,), measure=precision(map50))
    small = Experiment(name="detectors", title="", source="", claim="", rows=(row,), data=("scenes:16",))
    order, stop, events = Order(experiments=(small,), out=tmp_path, device="cpu", jobs=1), Stop(), []
    for event in reproduce(order, stop=stop):
        events.append(event)
        if isinstance(event, work.Moved) and event.step > 10:
            stop.signal = signal.SIGTERM
    (halted,) = [event for event in events if isinstance(event, work.Halted)]
    began = next(event for event in follow(order) if isinstance(event, work.Began))
    assert began.step == halted.step > 10
    assert Store(tmp_path).state(Run(setting=setting, seed=0)) == "done"


def test_detectors_never_share_a_device_from_threads():
    row = Row(name="one", unit="% mAP", settings=(a_detector(),), measure=precision(map50))
    small = Experiment(name="detectors", title="", source="", claim="", rows=(row,), data=("scenes:16",))
    assert not reproduction.can_share([small])
    assert reproduction.side_by_side("cuda", [small]) == 1


def test_data_that_is_not_here_is_a_reason(experiment, tmp_path):
    far = replace(experiment(), data=("imagenet-det",))
    assert "say where it lies with --data imagenet-det=DIR" in why_not(far, {})
    assert why_not(far, {"imagenet-det": tmp_path}) is None
