"""The page of a detector, made of records that its own evaluation wrote of drawn scenes and imagined answers."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from residual.data.objects import Objects
from residual.data.scenes import draw_scenes
from residual.data.shapes import CLASSES
from residual.detect.detections import Detections
from residual.detect.evaluation import evaluation
from residual.detect.precision import match
from residual.detect.procedure import IMPROVED, Procedure
from residual.report import write
from residual.report.detection import ClassPrecision, falling, mean_curve, path, procedure_in_words

Make = Callable[..., Path]
Read = Callable[[Path], Any]
SCENES, SIDE = 60, 128
EVIL = "<script>alert(1)</script>"
PARTS = {"proposed": 0.4, "placed": 0.25, "classed": 1.1, "boxed": 0.8, "masked": 0.9}


def imagined(truth: Objects, rng: np.random.Generator) -> Detections:
    """What a middling detector would say: the truth, moved, some of it missed, mistaken, told twice, and inventions."""
    boxes, labels, scores = [], [], []
    for box, label in zip(truth.boxes, truth.labels.tolist(), strict=True):
        for sure in (1.0, 0.7):
            if rng.random() < (0.93 - 0.02 * label if sure == 1 else 0.1):
                side = np.tile(box[2:] - box[:2], 2)
                boxes.append(box + rng.normal(0, 0.07 if rng.random() < 0.85 else 0.3, 4) * side)
                labels.append(label if rng.random() < 0.93 else int(rng.integers(len(CLASSES))))
                scores.append(sure * rng.beta(9, 1.4))
    for _ in range(rng.poisson(0.5)):
        corner = rng.uniform(0, SIDE - 50, 2)
        boxes.append(np.concatenate([corner, corner + rng.uniform(15, 50, 2)]))
        labels.append(int(rng.integers(len(CLASSES))))
        scores.append(rng.beta(2, 2.5))
    order = np.argsort(-np.array(scores), kind="stable")
    corners = np.sort(np.array(boxes).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    return Detections(
        boxes=corners[order], labels=np.array(labels, np.int64)[order], scores=np.array(scores, np.float64)[order]
    )


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """evaluation.json of an imagined detector."""
    rng = np.random.default_rng(3)
    images = draw_scenes(SCENES, size=SIDE, seed=1)
    answers = [imagined(truth, rng) for truth in images.objects]
    found = evaluation(answers, images, split="test", procedure=Procedure(side=128), seed=0, seconds_per_image=0.0312)
    return dict(json.loads(json.dumps(found)))


def many_classes(number: int) -> dict[str, Any]:
    """An evaluation of more classes than fit on a screen, some without objects, some without answers."""
    rng = random.Random(1)
    rows = []
    for label in range(number):
        objects = 0 if label % 50 == 7 else rng.randrange(1, 4_000)
        answers = 0 if label % 50 == 9 else rng.randrange(1, 80)
        recall = sorted(rng.random() for _ in range(answers)) if objects else []
        rows.append(
            {
                "class": f"kind {label} of a thing with a long name",
                "objects": objects,
                "detections": answers,
                "ap50": rng.uniform(0, 99) if objects and answers else 0.0 if objects else None,
                "voc07": None,
                "recall": recall,
                "precision": [1 - 0.5 * value * rng.random() for value in recall],
            }
        )
    counts = [[rng.randrange(9) if rng.random() < 0.1 else 0 for _ in range(number + 1)] for _ in range(number + 1)]
    return {
        "task": "detection", "split": "validation", "weights": "last", "images": 5_000, "objects": 36_335,
        "map50": 41.23, "interval": [40.9, 41.6], "per_class": rows, "coco": None, "coco_masks": None,
        "coco_missing": "the extra `detect` is not installed", "confusion": {"score": 0.5, "counts": counts},
        "causes": {"score": 0.5, "counts": {"background": 10**15, "missed": 3, "classification": 0}},
    }  # fmt: skip


# --- what is on the page -------------------------------------------------------------------------------------


def test_the_page_holds_all_it_shows(make_detector: Make, read_page: Read, trained: Make, measured: dict[str, Any]):
    file = write(trained(make_detector(measured), PARTS))
    text, report = file.read_text(), read_page(file)
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in report.addresses)
    assert not report.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert "default-src 'none'" in text
    assert len(set(report.ids)) == len(report.ids)
    assert {address[1:] for address in report.addresses if address.startswith("#")} <= set(report.ids)


def test_the_numbers_are_there(make_detector: Make, measured: dict[str, Any], read_page: Read, trained: Make):
    words = read_page(write(trained(make_detector(measured), PARTS))).words
    low, high = measured["interval"]
    assert f"{measured['map50']:.1f} %" in words
    assert f"on {SCENES} images of the test set with {measured['objects']} objects to find" in words
    assert f"95 % interval {low:.1f} to {high:.1f} %" in words
    assert f"VOC 2010 area, overlap .5 {measured['map50']:.1f} %" in words
    assert f"VOC 2007 11 points, overlap .5 {measured['voc07']:.1f} %" in words
    for row in measured["per_class"]:
        numbers = f"{row['objects']} {row['detections']} {row['ap50']:.1f} % {row['voc07']:.1f} %"
        assert f"{row['class']} {numbers}" in words
    for number in measured["causes"]["counts"].values():
        assert re.search(rf"(by half|than half|class|found|background) {number} ", words)
    assert "mask_rcnn_small_c4 · drawn scenes, seed 0 · 8,000 iterations · seed 7" in words
    assert "an image is brought to a shorter side of 128 pixels" in words
    assert "An image took 0.0312 s on average, on cpu." in words
    assert "Annotations/000012.xml box (4, 8, 4, 90) has no area" in words
    assert "28 min" in words
    assert "What this report lacks" not in words


def test_what_is_worth_knowing_of_the_data_is_no_file_left_out(
    make_detector: Make, measured: dict[str, Any], read_page: Read
):
    note = "train: 2 image(s), such as <a>.png, stay without any object, as background"
    words = read_page(write(make_detector(measured, data={"origin": "pets", "notes": [note], "problems": []}))).words
    assert f"Worth knowing {note} Left out No file was left out." in words
    for nonsense in ("none", [[1]], {"a": 1}):
        write(make_detector(measured, data={"origin": "pets", "notes": nonsense}))


def test_the_confusions_are_those_of_the_record(make_detector: Make, measured: dict[str, Any]):
    text = write(make_detector(measured)).read_text()
    counts, names = measured["confusion"]["counts"], [*CLASSES, "background"]
    for truth, row in zip(names, counts, strict=True):
        whole = max(sum(row), 1)
        for answer, number in zip([*CLASSES, "not found"], row, strict=True):
            if truth != "background":
                assert f'title="{truth} taken for {answer}: {number} of {whole}"' in text
            elif number:
                assert f'title="background taken for {answer}: {number} of ' in text


def test_the_page_says_by_which_rules_causes_and_confusions_are_counted(make_detector: Make, read_page: Read):
    """One object, found as another class and once more at a poor place: three causes, two places in the matrix."""
    images = draw_scenes(1, size=SIDE, most=1)
    (truth,) = images.objects
    label, other = int(truth.labels[0]), int(truth.labels[0] == 0)
    box = truth.boxes[0]
    poor = box + [0, 0.5 * (box[3] - box[1])] * 2
    answers = Detections(boxes=np.stack([box, poor]), labels=np.array([other, label]), scores=np.array([0.9, 0.8]))
    found = evaluation([answers], images, split="test", procedure=Procedure(side=SIDE), seconds_per_image=0.1)
    causes, counts = found["causes"]["counts"], np.array(found["confusion"]["counts"])
    assert {name: number for name, number in causes.items() if number} == dict.fromkeys(
        ("classification", "localization", "missed"), 1
    )
    assert (counts[label, other], counts[-1, label], counts.sum()) == (1, 1, 2)
    twice = "an object that was found only as another class counts twice"
    once = "an object counts once, and a box that takes none counts as one where nothing is, also at a poor place"
    for each in (found, many_classes(31)):
        words = read_page(write(make_detector(each))).words
        assert (words.count(twice), words.count(once)) == (1, 1)


def test_every_mistake_is_shown_with_its_picture_and_its_cause(
    make_detector: Make, measured: dict[str, Any], read_page: Read
):
    report = read_page(write(make_detector(measured)))
    assert len(measured["mistakes"]) == 24
    assert sum(address.startswith("data:") for address in report.addresses) == 24
    for each in measured["mistakes"]:
        answer = "–" if each["predicted"] is None else each["predicted"]
        assert f"truth {each['truth'] or '–'} answer {answer}" in report.words
        assert each["name"] in report.words


def test_the_best_by_validation_stands_beside_the_last(make_detector: Make, measured: dict[str, Any], read_page: Read):
    run = make_detector(measured)
    best = measured | {"map50": 12.34, "weights": "best", "voc07": None}
    (run / "evaluation-best.json").write_text(json.dumps(best))
    words = read_page(write(run)).words
    assert f"Best by validation VOC 2010 area, overlap .5 {measured['map50']:.1f} % 12.3 %" in words
    assert f"VOC 2007 11 points, overlap .5 {measured['voc07']:.1f} % –" in words


def test_coco_is_told_for_boxes_and_masks_and_its_absence_is_explained(
    make_detector: Make, measured: dict[str, Any], read_page: Read
):
    boxes = {"AP": 41.26, "AP50": 62.0, "AP75": 44.0, "AP small": None}
    words = read_page(write(make_detector(measured | {"coco": boxes, "coco_masks": {"AP": 37.14}}))).words
    assert "Number Boxes Masks AP average precision, mean over overlaps of .5 to .95 41.3 37.1" in words
    assert "AP small objects below 32 × 32 pixels – –" in words
    assert "COCO, masks overlaps .5 to .95 37.1 %" in words
    assert "boxes of a class an image 41.3 %" not in words
    assert "where COCO counts" not in words
    words = read_page(write(make_detector(many_classes(3)))).words
    assert "COCO's numbers are not there: the extra `detect` is not installed" in words


def test_coco_numbers_of_more_boxes_than_cocos_are_named_so(
    make_detector: Make, measured: dict[str, Any], read_page: Read
):
    numbers = {"coco": {"AP": 41.26, "AR 100": 52.5}, "coco_masks": {"AP": 37.14, "AR 100": 48.0}}
    words = read_page(write(make_detector(measured | numbers | {"coco_most": 100}))).words
    assert "AR 100 recall, 100 boxes of a class an image 52.5 48.0" in words
    words = read_page(write(make_detector(measured | numbers | {"coco_most": 400}))).words
    assert "AR 400 recall, 400 boxes of a class an image 52.5 48.0" in words
    assert "AR 100" not in words
    assert "COCO, boxes overlaps .5 to .95, 400 boxes of a class an image 41.3 %" in words
    assert "COCO, masks overlaps .5 to .95, 400 boxes of a class an image 37.1 %" in words
    assert "of the 400 surest boxes of a class on an image, where COCO counts 100" in words


def test_the_parts_of_the_loss_are_drawn(make_detector: Make, trained: Make, measured: dict[str, Any]):
    text = write(trained(make_detector(measured), PARTS)).read_text()
    for label in ("all", "proposal", "its place", "class", "box", "mask", "validation"):
        assert len(re.findall(rf">{label}\u2002[\d.]+</text>", text)) == 2, "once wide, once narrow"


@pytest.mark.parametrize("classes", [1, 2, 20, 22, 30, 31, 200])
def test_every_number_of_classes_can_be_read(make_detector: Make, classes: int, read_page: Read):
    report = read_page(write(make_detector(many_classes(classes))))
    words = report.words
    assert ("Confusion matrix" in words) == (classes <= 30)
    assert ("Hardest classes" in words) == (classes > 30)
    assert ("hardest classes" in words) == (classes > 20)
    assert ("Most often seen where nothing is" in words) == (classes > 30)
    assert ("mean of the classes" in words) == (classes > 1)
    assert f"kind {classes - 1} of a thing" in words
    assert "1,000,000,000,000,000" in words
    assert ("without objects in this set" in words) == (classes > 7)


# --- what is not there -----------------------------------------------------------------------------------------


def test_a_detector_that_finds_nothing_has_a_page(make_detector: Make, read_page: Read):
    images = draw_scenes(5, size=64)
    nothing = Detections(boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64), scores=np.zeros(0))
    found = evaluation([nothing] * 5, images, split="test", procedure=IMPROVED, seconds_per_image=1.0)
    words = read_page(write(make_detector(found))).words
    assert "0.0 % Mean average precision" in words
    assert f"Not found an object that no box of its class found {found['objects']}" in words
    assert "No object was taken for one of another class" in words


def test_a_run_that_has_not_ended_says_what_is_missing(make_detector: Make, read_page: Read, trained: Make):
    words = read_page(write(trained(make_detector(None), PARTS))).words
    assert "Newest mean average precision on the validation set" in words
    assert "This is not a final number" in words
    assert "evaluation.json is not there" in words
    assert "No mistakes were recorded" in words
    assert "an image is brought to a shorter side of 128 pixels" in words, "run.json tells it"


def test_a_run_with_nothing_but_its_task_still_has_a_report(tmp_path: Path, read_page: Read, measured: dict[str, Any]):
    (tmp_path / "run.json").write_text('{"name": "bare", "task": "detection"}')
    words = read_page(write(tmp_path)).words
    assert "Nothing has been measured yet" in words
    assert "metrics.jsonl has no measurement yet" in words
    assert "run.json does not tell the description of the network, the recipe" in words
    assert "The procedure was not recorded" in words


def test_an_evaluation_of_the_headline_alone_says_what_it_lacks(make_detector: Make, read_page: Read):
    found = {"task": "detection", "split": "test", "images": 3, "objects": 0, "map50": 1e3}
    words = read_page(write(make_detector(found))).words
    for lack in ("no interval", "no numbers per class", "no confusion matrix", "no causes", "numbers are not there."):
        assert lack in words


def test_a_matrix_that_does_not_fit_the_classes_is_left_out_in_words(
    make_detector: Make, measured: dict[str, Any], read_page: Read
):
    for counts in ([], [[1]], [[0] * 11] * 10, [[0] * 11] * 10 + [[0]]):
        words = read_page(write(make_detector(measured | {"confusion": {"score": 0.5, "counts": counts}}))).words
        assert "The confusion matrix has not 11 rows and columns" in words
        assert "Rows are the truth" not in words


def test_damage_is_told_with_its_file_and_field(make_detector: Make, measured: dict[str, Any]):
    with pytest.raises(ValueError, match=r"evaluation\.json.*map50"):
        write(make_detector(measured | {"map50": "high"}))
    with pytest.raises(ValueError, match=r"evaluation\.json.*counts"):
        write(make_detector(measured | {"causes": {"score": 0.5, "counts": {"both": -1}}}))
    with pytest.raises(ValueError, match=r"run\.json.*'guessing'.*classification, detection, localization"):
        write(make_detector(measured, task="guessing"))


def test_names_with_markup_are_shown_as_what_they_are(make_detector: Make, measured: dict[str, Any], read_page: Read):
    classes = [row | {"class": f"{EVIL}{number}"} for number, row in enumerate(measured["per_class"])]
    mistake = {"name": EVIL, "cause": EVIL, "truth": EVIL, "predicted": '"><img src=x onerror=alert(1)>', "png": "%%%"}
    found = measured | {
        "split": EVIL, "per_class": classes, "mistakes": [mistake], "coco_missing": EVIL, "coco": {EVIL: 1.0},
        "causes": {"score": 0.5, "counts": {EVIL: 1}}, "procedure": {EVIL: EVIL}, "weights": EVIL,
    }  # fmt: skip
    described = {"name": EVIL, "recipe": {EVIL: EVIL}, "data": {"origin": EVIL, "problems": [EVIL]}, "command": EVIL}
    file = write(make_detector(found, **described))
    report = read_page(file)
    assert "script" not in report.tags
    assert EVIL in report.words
    assert "no picture" in report.words
    assert all(address.startswith("#") for address in report.addresses)


def test_numbers_that_cannot_be_drawn_are_left_out(make_detector: Make, measured: dict[str, Any]):
    rows = [row | {"recall": [1e300, -3.0, 0.5], "precision": [7.0, -1e9]} for row in measured["per_class"]]
    run = make_detector(measured | {"per_class": rows})
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": 8000, "loss": NaN, "rate": Infinity, "boxed": 1{"0" * 400}, "time": 1{"0" * 400}}}\n')
    text = write(run).read_text()
    assert not re.search(r"\b(nan|inf)\b", text)


def test_writing_again_gives_the_same_file(make_detector: Make, measured: dict[str, Any]):
    run = make_detector(measured)
    assert write(run).read_bytes() == write(run).read_bytes()


# --- the curves ----------------------------------------------------------------------------------------------


def test_the_area_under_a_drawn_curve_is_the_average_precision(measured: dict[str, Any]):
    rng = np.random.default_rng(3)
    images = draw_scenes(SCENES, size=SIDE, seed=1)
    answers = [imagined(truth, rng) for truth in images.objects]
    for label, row in enumerate(measured["per_class"]):
        curve = falling(msgspec.convert(row, ClassPrecision))
        assert [precision for _, precision in curve] == sorted((p for _, p in curve), reverse=True)
        area = sum(p * (r - before) for (r, p), (before, _) in zip(curve, [(0.0, 0.0), *curve], strict=False))
        exact = match(answers, images.objects, label).average_precision("area")
        assert 100 * area == pytest.approx(exact, abs=1e-9), "below 101 answers the record holds them all"


def test_the_mean_curve_counts_a_class_as_nothing_where_it_does_not_reach():
    far = ClassPrecision(name="far", objects=2, ap50=100.0, recall=[0.5, 1.0], precision=[1.0, 1.0])
    near = ClassPrecision(name="near", objects=2, ap50=30.0, recall=[0.0, 0.5], precision=[0.0, 0.6])
    curve = dict(mean_curve([far, near]))
    assert curve[0.0] == curve[0.5] == pytest.approx(0.8)
    assert curve[0.51] == curve[1.0] == pytest.approx(0.5)
    assert mean_curve([]) == []


def test_a_curve_is_drawn_in_steps():
    assert path([(0.25, 1.0), (0.5, 0.5)]) == "M0.0,0.0L25.0,0.0L25.0,50.0L50.0,50.0"
    assert path([]) == ""


def test_the_procedure_is_told_in_words():
    plain, improved = (" ".join(procedure_in_words(asdict(each))) for each in (Procedure(), IMPROVED))
    assert "shorter side of 600 pixels, unless its longer side would exceed 1,000" in plain
    assert "judged at that one size" in plain
    assert "none votes" in plain
    assert "shorter sides of 200, 400, 600, 800, 1,000 pixels, its longer side at most 2,000" in improved
    assert "judged once more" in improved
    assert "overlap it by 0.5 or more vote" in improved
    assert procedure_in_words({"side": "wide"}) == []


def test_what_is_not_shrunk_is_not_said_to_be():
    kept = Procedure(side=512, longest=4000, shrink=False)
    words = " ".join(procedure_in_words(asdict(kept)))
    assert "enlarged to a shorter side of 512 pixels if it is smaller; a larger one stays as it is, unless its" in words
    assert "brought to" not in words
    words = " ".join(procedure_in_words(asdict(kept) | {"sides": [341, 512]}))
    assert "shorter sides of 341, 512 pixels, in proportion more where the image is larger, its longer side at" in words
