"""Exams: found once by content, priced, told how far they are, and stopped."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from residual import pipeline
from residual.experiments import table3, table5
from residual.pipeline import Plan, Stop
from residual.recipes.demo import demo
from residual.records import write_json
from residual.reproduce import exam, measures
from residual.reproduce.budget import everything
from residual.reproduce.detection_measures import Finding, Placing
from residual.reproduce.exam import Exam, Way, examined, exams, exams_by_last, found, way_of
from residual.reproduce.measures import Responses, Views
from residual.reproduce.photographs import on_tiny_imagenet
from residual.reproduce.store import Failure, Run, Store, shortened
from residual.reproduce.worker import follow


class Counting(Way, frozen=True, kw_only=True, tag=True):
    """Counts how often somebody looks."""

    how: str = "once"

    @property
    def words(self) -> str:
        return self.how

    def examine(self, runs: Sequence[Path], tell: exam.Tell) -> dict[str, object]:
        looked.append([run.name for run in runs])
        return {"how": self.how}


looked: list[list[str]] = []


@pytest.fixture
def run(tmp_path):
    """What an exam reads of a finished run."""
    looked.clear()
    return a_run(tmp_path / "run")


def a_run(place: Path, weights: bytes = b"weights", test: str = "these") -> Path:
    place.mkdir()
    (place / "model.safetensors").write_bytes(weights)
    write_json(place / "run.json", {"data": {"fingerprints": {"train": "others", "test": test}}})
    return place


def test_an_exam_is_taken_once(run):
    assert found(Counting(), [run]) is None
    assert examined(Counting(), [run]) == examined(Counting(), [run]) == {"how": "once"}
    assert found(Counting(), [run]) == {"how": "once"}
    assert len(looked) == 1


def test_other_weights_other_images_another_way_or_other_company_are_another_exam(run, tmp_path):
    first = examined(Counting(), [run])
    other = a_run(tmp_path / "other", b"other weights")
    examined(Counting(how="twice"), [run])
    examined(Counting(), [run, other])
    (run / "model.safetensors").write_bytes(b"trained anew")
    assert found(Counting(), [run]) is None
    (run / "model.safetensors").write_bytes(b"weights")
    assert found(Counting(), [run]) == first
    write_json(run / "run.json", {"data": {"fingerprints": {"train": "others", "test": "those"}}})
    assert found(Counting(), [run]) is None
    write_json(run / "run.json", {"data": {"fingerprints": {"train": "other others", "test": "these"}}})
    assert found(Counting(), [run]) == first, "on what was trained does not matter"
    assert len(looked) == 3


def test_a_run_that_is_moved_takes_its_exams_along(run, tmp_path):
    examined(Counting(), [run])
    shutil.move(run, tmp_path / "elsewhere")
    assert found(Counting(), [tmp_path / "elsewhere"]) == {"how": "once"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"found": {"how": "never"}}'])
def test_a_damaged_exam_is_as_if_nobody_had_looked(run, text):
    """The whole reproduction ended of it, and the list of what there is."""
    examined(Counting(), [run])
    (kept,) = run.glob("exam-*.json")
    whole = json.loads(kept.read_text())
    kept.write_text(text)
    assert found(Counting(), [run]) is None
    assert examined(Counting(), [run]) == {"how": "once"}
    assert json.loads(kept.read_text()) == whole, "under the same name"
    assert len(looked) == 2


def test_weights_are_read_again_only_where_they_look_different(run, monkeypatch):
    examined(Counting(), [run])
    read = []
    monkeypatch.setattr(exam, "_known_sha256", lambda file, *about: read.append(file) or exam._sha256(file))
    assert found(Counting(), [run]) == {"how": "once"}
    assert not read
    weights = run / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert found(Counting(), [run]) == {"how": "once"}
    assert read == [weights]
    weights.write_bytes(b"longer weights")
    assert found(Counting(), [run]) is None
    assert read == [weights], "another size is enough"


def an_exam(store: Store, setting) -> Exam:
    """Of a finished run that lies in the store."""
    made = Run(setting=setting, seed=0)
    store.path(made).parent.mkdir(parents=True)
    a_run(store.path(made))
    about = json.loads((store.path(made) / "run.json").read_text())
    write_json(store.path(made) / "run.json", about | {"environment": {"cpu": "a core"}})
    store.set_finished(made, seconds=1.0)
    return Exam(way=Counting(), runs=(made,))


def test_a_run_that_says_nothing_of_its_images_has_no_exam_and_ends_nothing(tmp_path, setting):
    store = Store(tmp_path)
    asked = an_exam(store, setting())
    for text in ("", "{}", '{"data": 3}'):
        (store.path(asked.runs[0]) / "run.json").write_text(text)
        assert not asked.is_over(store)


def test_why_an_exam_failed_is_kept_until_it_is_taken(tmp_path, setting):
    store = Store(tmp_path)
    asked = an_exam(store, setting())
    assert asked.failure(store) is None
    asked.set_failed(store, Failure(reason="no memory", diverged=False))
    assert asked.failure(store).reason == "no memory"
    (file,) = store.path(asked.runs[0]).glob("exam-*.failed.json")
    file.write_text("{")
    assert file.name in asked.failure(store).reason, "that it failed is known at least"
    examined(asked.way, [store.path(asked.runs[0])])
    assert asked.failure(store) is None
    asked.set_over(store)
    assert not file.exists()


def test_what_a_measure_cannot_find_is_told_with_its_run(run):
    for pick, told in ((lambda found: found["det"], "has no 'det'"), (lambda found: float("x"), "could not convert")):
        with pytest.raises(ValueError, match=f"twice of {run}: .*{told}"):
            exam.Examined(Counting(how="twice"), pick)([run])


def test_images_that_have_changed_since_the_training_are_not_looked_at(run):
    class Other:
        fingerprint = "those"

    with pytest.raises(ValueError, match="put the data back"):
        exam.refuse_other_images([run], "test", Other())


def test_all_of_an_ensemble_began_with_the_images_of_today(run, tmp_path):
    """Only the first was asked."""

    class These:
        fingerprint = "these"

    exam.refuse_other_images([run], "test", These())
    other = a_run(tmp_path / "other", test="those")
    with pytest.raises(ValueError, match=f"that {other} began with"):
        exam.refuse_other_images([run, other], "test", These())


@pytest.mark.parametrize(
    "way", [Views(protocol="ten-crop"), Responses(), Finding(how="improved"), Placing(dense=True, named=True)]
)
def test_a_way_is_data_that_comes_back_from_json(way):
    told = json.loads(json.dumps(msgspec.to_builtins(way)))
    assert msgspec.convert(told, Views | Responses | Finding | Placing) == way
    assert way.words


def test_rows_that_look_in_the_same_way_share_an_exam():
    allocation = everything([table3.experiment], seeds=2)
    asked = exams([table3.experiment], allocation.runs, allocation.actual)
    assert len(asked) == 2 * 7, "top-1 and top-5 are of one look"
    assert {each.way for each in asked} == {Views(protocol="ten-crop")}
    assert {len(each.runs) for each in asked} == {1}


def test_an_ensemble_waits_for_all_its_members(tmp_path):
    allocation = everything([table5.experiment], seeds=1)
    *some, last = allocation.runs
    assert not [each for each in exams([table5.experiment], some, allocation.actual) if len(each.runs) == 5]
    (ensemble,) = [
        each for each in exams([table5.experiment], allocation.runs, allocation.actual) if len(each.runs) > 1
    ]
    assert not ensemble.is_ready(Store(tmp_path))
    assert "and 4 more" in ensemble.name
    asked = exams_by_last([table5.experiment])
    (due,) = asked.values()
    assert list(asked) == [shortened(shortened(last.setting, 500), 1).key], "of whatever length"
    assert sorted(len(settings) for _, settings in due) == [1, 5]


def test_after_a_shortened_training_an_ensemble_is_of_networks_that_are_shortened_alike(setting):
    one, other = setting("plain8", iterations=30), setting("plain14", iterations=60)
    asked = {shortened(other, 1).key: [(Views(protocol="ten-crop"), (one, other))]}
    (due,) = exam.due_after(Run(setting=shortened(other, 20), seed=3), asked)
    assert [run.key for run in due.runs] == [(shortened(one, 10).key, 3), (shortened(other, 20).key, 3)]
    (due,) = exam.due_after(Run(setting=other, seed=3), asked)
    assert [run.key for run in due.runs] == [(one.key, 3), (other.key, 3)]


def test_a_line_can_ask_for_an_exam_too(experiment):
    small = experiment()
    drawn = replace(small, lines=(replace(small.lines[0], of=measures.responses_in_order),))
    allocation = everything([drawn], seeds=2)
    asked = exams([drawn], allocation.runs, allocation.actual)
    assert [(each.way, each.runs[0].seed) for each in asked] == [(Responses(), 0), (Responses(), 1)]


def test_a_number_that_the_training_records_is_no_exam(experiment):
    assert way_of(measures.test_error) is None
    allocation = everything([experiment()], seeds=None)
    assert exams([experiment()], allocation.runs, allocation.actual) == []


def test_ten_crops_cost_ten_views_and_an_ensemble_what_its_members_cost():
    small, large = (on_tiny_imagenet(name) for name in ("ResNet-18", "ResNet-34"))
    once, ten = Responses().load([small]), Views(protocol="ten-crop").load([small])
    assert ten.macs == pytest.approx(10 * once.macs)
    scales = Views(protocol="multi-scale")
    assert scales.load([small]).macs == pytest.approx(2 * 18.0 * once.macs, rel=0.01), (
        "mirrored, at 1 to 2.86 times the side"
    )
    assert scales.load([small, large]).macs == pytest.approx(scales.load([small]).macs + scales.load([large]).macs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network after a few iterations on drawn shapes."""
    place = tmp_path_factory.mktemp("runs") / "run"
    plan = Plan(
        model="resnet8",
        data="shapes",
        recipe=replace(demo(), iterations=2, epochs=None),
        size=16,
        device="cpu",
        workers=0,
        changes={"widths": (4, 4, 8), "stem_width": 4},
    )
    list(pipeline.train(plan, place))
    return place


def test_a_job_takes_an_exam_and_says_how_far_it_is(trained, monkeypatch):
    monkeypatch.setattr("residual.reproduce.worker.TOLD_EVERY", 0.001)
    order = {"examine": msgspec.to_builtins(Views(protocol="multi-scale")), "runs": [str(trained)]}
    *progress, last = follow(order, Stop())
    assert last["event"] == "Finished"
    assert all(each["event"] == "Progress" for each in progress)
    assert found(Views(protocol="multi-scale"), [trained])["images"] == 500
    assert [each["event"] for each in follow(order, Stop())][-1] == "Finished", "there is nothing left to do"


def test_an_exam_stops_when_it_is_told_to_and_leaves_nothing(trained):
    stop = Stop()
    stop.signal = 15
    before = set(trained.iterdir())
    order = {"examine": msgspec.to_builtins(Views(protocol="ten-crop")), "runs": [str(trained)]}
    assert [each["event"] for each in follow(order, stop)][-1] == "Stopped"
    assert set(trained.iterdir()) == before


def test_an_exam_stops_before_and_after_data_is_read(trained, monkeypatch):
    order = {"examine": msgspec.to_builtins(Views(protocol="ten-crop")), "runs": [str(trained)]}
    stop, reads, read_data = Stop(), [], measures.read_data

    def reading(plan):
        reads.append(plan)
        stop.signal = 15
        return read_data(plan)

    monkeypatch.setattr(measures, "read_data", reading)
    monkeypatch.setattr(measures, "load", None)  # what comes next
    assert [each["event"] for each in follow(order, stop)][-1] == "Stopped"
    assert [each["event"] for each in follow(order, stop)][-1] == "Stopped"
    assert len(reads) == 1, "the second was told before it read anything"


def test_an_exam_that_cannot_be_taken_says_why(trained, tmp_path):
    cut = shutil.copytree(trained, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (*_, last) = follow({"examine": {"type": "Responses"}, "runs": [str(cut)]}, Stop())
    assert last["final"], "it would fail again"
    assert str(weights) in last["failed"]
    assert "cut short" in last["failed"]


def test_equal_exams_have_one_key(setting):
    one, other = (Exam(way=Views(protocol="ten-crop"), runs=(Run(setting=setting(), seed=1),)) for _ in range(2))
    assert one.key == other.key
    assert one.key != replace(one, way=Views(protocol="multi-scale")).key
    assert one.key != replace(one, runs=one.runs * 2).key
