"""Numbers read off tiny trainings of detectors, against the rooms that measure."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from residual import pipeline
from residual.detect import weights
from residual.detect.evaluation import evaluate_detector
from residual.detect.procedure import IMPROVED
from residual.pipeline import DetectionPlan, Plan, read_objects
from residual.recipes.demo import demo
from residual.recipes.detection import at_side, detection_recipe
from residual.reproduce import detection_measures
from residual.reproduce.detection_measures import (
    Finding,
    Placing,
    coco,
    coco_masks,
    det,
    localization_error,
    map50,
    precision,
    procedure_of,
    voc07,
    voc07_of,
)
from residual.reproduce.exam import found


def trained(run: Path, model: str, seed: int = 0) -> Path:
    recipe = detection_recipe("modern", model)
    recipe = replace(recipe, iterations=6, epochs=None, batch=4, augmentation=at_side(recipe.augmentation, 48))
    data = "shapes:16" if model.startswith("localizer") else "scenes:16"
    plan = DetectionPlan(model=model, data=data, recipe=recipe, seed=seed, device="cpu", workers=0, looks=1)
    list(pipeline.train(plan, run))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two detectors that differ in their seed alone."""
    root = tmp_path_factory.mktemp("detectors")
    return [trained(root / str(seed), "mask_rcnn_small_c4", seed) for seed in (0, 1)]


def told(run: Path) -> dict:
    return json.loads((run / "evaluation.json").read_text())


def test_plain_numbers_are_those_of_the_evaluation(runs):
    recorded = told(runs[0])
    assert precision(map50)(runs[:1]) == recorded["map50"]
    assert precision(voc07)(runs[:1]) == recorded["voc07"]
    of_class = {row["class"]: row["voc07"] for row in recorded["per_class"]}
    known = next(name for name, value in of_class.items() if value is not None)
    assert precision(voc07_of(known))(runs[:1]) == of_class[known]
    assert precision(voc07_of("no class of theirs"))(runs[:1]) == recorded["voc07"]


def test_a_class_without_an_object_has_no_number(runs):
    nowhere = next(row["class"] for row in told(runs[0])["per_class"] if row["voc07"] is None)
    with pytest.raises(ValueError, match="no object that this number is of"):
        precision(voc07_of(nowhere))(runs[:1])


def test_cocos_numbers_are_those_of_the_evaluation_or_their_lack_is_told(runs):
    recorded = told(runs[0])
    if recorded["coco"] is None:
        with pytest.raises(ValueError, match="extra"):
            precision(coco("AP"))(runs[:1])
    else:
        assert precision(coco("AP50"))(runs[:1]) == recorded["coco"]["AP50"]
        assert precision(coco_masks("AP"))(runs[:1]) == recorded["coco_masks"]["AP"]


@pytest.mark.parametrize("how", ["refined", "improved"])
@pytest.mark.parametrize("several", [1, 2])
def test_another_procedure_and_an_ensemble_are_measured_once_and_kept(runs, how, several, monkeypatch):
    together = runs[:several]
    value = precision(map50, how)(together)
    detectors = [weights.load(run) for run in together]
    plan = pipeline.planned(runs[0])
    images = read_objects(plan).test
    procedure = procedure_of(how, detectors[0].card.procedure)
    assert value == evaluate_detector(detectors, images, split="test", procedure=procedure, mistakes=0)["map50"]
    monkeypatch.setattr(detection_measures, "evaluate_finding", None)  # a second look would fail
    assert precision(map50, how)(together) == value
    assert precision(det, how)(together) >= 0


def test_what_the_training_has_recorded_is_no_exam(runs, tmp_path):
    assert Finding().recorded(runs[:1]) == told(runs[0])
    assert Finding().recorded(runs) is None, "an ensemble was never looked at"
    assert Finding(how="refined").recorded(runs[:1]) is None


@pytest.mark.parametrize("text", ["", "{}", '{"split": "test"}'])
def test_a_damaged_evaluation_is_no_record_of_the_training(runs, tmp_path, text):
    run = shutil.copytree(runs[0], tmp_path / "run")
    (run / "evaluation.json").write_text(text)
    assert found(Finding(), [run]) is None
    assert precision(map50)([run]) == told(runs[0])["map50"], "looked at anew"


def test_another_procedure_is_another_exam(runs, monkeypatch):
    precision(map50, "improved")(runs[:1])
    assert found(Finding(how="improved"), runs[:1])
    monkeypatch.setattr("residual.serve.detect.IMPROVED", replace(IMPROVED, voters=0.6))
    assert found(Finding(how="improved"), runs[:1]) is None


def test_the_rules_of_imagenet_are_no_stricter_than_vocs(runs):
    """They ask for less overlap of small objects, and are the same otherwise (no object here is difficult)."""
    assert precision(det, "refined")(runs[:1]) >= precision(map50, "refined")(runs[:1]) - 1e-9


@pytest.fixture(scope="module")
def localizer(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("localizer") / "run", "localizer_small")


def test_a_localizer_is_measured_at_its_scales_and_steps(localizer, monkeypatch):
    whole = localization_error("given_class_error", second=True)([localizer])
    assert whole == told(localizer)["given_class_error"]
    asked = [
        localization_error("given_class_error"),
        localization_error("given_class_error", dense=True),
        localization_error("top5_error", dense=True, named=True),
    ]
    values = [measure([localizer]) for measure in asked]
    assert all(0 <= value <= 100 for value in values)
    kept = [json.loads(path.read_text())["found"] for path in localizer.glob("exam-*.json")]
    assert sorted((found["second"], found["sides"]) for found in kept) == sorted(
        [(True, [48]), (False, [48]), (False, [48, 55, 82, 103, 137]), (False, [48, 55, 82, 103, 137])]
    )
    monkeypatch.setattr(detection_measures, "evaluate_localizer", None)
    assert [measure([localizer]) for measure in asked] == values
    assert found(Placing(dense=True), [localizer])
    monkeypatch.setattr(detection_measures, "SCALES", (224, 448))
    assert found(Placing(dense=True), [localizer]) is None, "other scales, another exam"


def test_classes_are_named_by_the_classifier_that_comes_second(localizer, tmp_path):
    plan = Plan(
        model="resnet8", data="shapes", recipe=replace(demo(), epochs=None, iterations=2), device="cpu", workers=0
    )
    list(pipeline.train(plan, tmp_path / "classifier"))
    measure = localization_error("top5_error", named=True)
    error = measure([localizer, tmp_path / "classifier"])
    (kept,) = [
        found
        for path in localizer.glob("exam-*.json")
        if (found := json.loads(path.read_text())["found"])["classes_from"] == str(tmp_path / "classifier")
    ]
    assert error == kept["top5_error"] >= kept["classification"]["top5_error"]


def test_a_classifier_of_other_classes_is_refused(localizer, tmp_path):
    plan = Plan(
        model="resnet8", data="digits", recipe=replace(demo(), epochs=None, iterations=2), device="cpu", workers=0
    )
    list(pipeline.train(plan, tmp_path / "digits"))
    with pytest.raises(ValueError, match="tells other classes apart than the localizer places"):
        localization_error("top5_error", named=True)([localizer, tmp_path / "digits"])
