"""A detector's training from plan to files: whatever it is, it can be cut off and go on as if it had not been."""

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from residual import pipeline
from residual.data import open_objects
from residual.data.objects import objects
from residual.data.scenes import draw_scenes
from residual.detect import weights
from residual.detect.detector import Detector
from residual.detect.evaluation import evaluate_detector
from residual.events import Finished, Measured, Note, Progress, Started
from residual.models.resnet import ResNet
from residual.pipeline import DetectionPlan, Diverged, Stop, classification, detection
from residual.recipes.detection import DetectionRecipe, at_side, detection_recipe, modern
from residual.train.schedule import Schedule
from residual.weights.card import Card
from residual.weights.safetensors import save

KINDS = ("faster_rcnn_small_c4", "mask_rcnn_small_c4", "mnc_small", "localizer_small")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(open_objects, "SCENES", {"train": 12, "validation": 4, "test": 5})


def recipe(**changes) -> DetectionRecipe:
    short = replace(modern(), epochs=None, iterations=6, batch=2, augmentation=at_side(modern().augmentation, 48))
    return replace(short, **changes)


def plan(model: str = KINDS[0], **changes) -> DetectionPlan:
    data = "shapes" if model.startswith("localizer") else "scenes"
    named = {"data": data, "recipe": recipe(), "device": "cpu", "workers": 0, "looks": 2}
    return DetectionPlan(model=model, **named | changes)


def cut_off(events, stop: Stop, step: int) -> None:
    for event in events:
        if isinstance(event, Progress) and event.step >= step:
            stop.signal = 15


@pytest.mark.parametrize("model", KINDS)
def test_a_run_that_was_cut_off_ends_bit_for_bit_as_one_that_was_not(tmp_path, model):
    whole, run, stop = tmp_path / "whole", tmp_path / "run", Stop()
    *_, finished = pipeline.train(plan(model), whole)
    assert isinstance(finished, Finished)
    cut_off(pipeline.train(plan(model), run, stop=stop), stop, 3)
    assert not (run / "model.safetensors").exists()
    *_, also = pipeline.resume(run)
    assert isinstance(also, Finished)
    one, other = (weights.load(folder).state_dict() for folder in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert told(finished) == told(also)


def told(finished: Finished) -> dict:
    return {
        which: {name: value for name, value in found.items() if name != "seconds_per_image"}
        for which, found in finished.evaluations.items()
    }


def test_the_four_steps_train_what_they_say_and_go_on_in_their_middle(tmp_path):
    asked = plan(recipe=recipe(iterations=8, in_turn=True, average=None))
    whole, run, stop = tmp_path / "whole", tmp_path / "run", Stop()
    list(pipeline.train(asked, whole))
    cut_off(pipeline.train(asked, run, stop=stop), stop, 5)  # in the third step, after the shared stages began anew
    list(pipeline.resume(run))
    one, other = (weights.load(folder).state_dict() for folder in (whole, run))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_written_is_what_was_measured(tmp_path):
    run = tmp_path / "run"
    *_, finished = pipeline.train(plan("mask_rcnn_small_c4"), run)
    found = json.loads((run / "evaluation.json").read_text())
    assert found == finished.evaluations["last"]
    assert found["images"] == 5
    described = json.loads((run / "run.json").read_text())
    assert described["task"] == "detection"
    assert described["data"]["counts"] == {"train": 12, "validation": 4, "test": 5}
    assert pipeline.planned(run) == plan("mask_rcnn_small_c4")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    parts = ("proposed", "placed", "classed", "boxed", "masked")
    assert training[-1]["step"] == 6
    for line in training:
        assert line["loss"] == pytest.approx(sum(line[part] for part in parts), rel=1e-5)
    assert [line["step"] for line in lines if "validation_map50" in line] == [3, 6]
    detector = weights.load(run)
    answer = detector.find(np.zeros((40, 70, 3), np.uint8))
    assert answer.masks is not None
    assert answer.masks.shape[1:] == (40, 70)
    assert detector.card.history["map50"] == found["map50"]


def test_a_validation_look_chooses_the_best_and_says_what_it_measured(tmp_path):
    events = list(pipeline.train(plan("localizer_small"), tmp_path / "run"))
    looks = [event for event in events if isinstance(event, Measured)]
    assert [(event.step, event.split, event.measure) for event in looks] == [
        (3, "validation", "error"),
        (6, "validation", "error"),
    ]
    assert set(events[-1].evaluations) == {"last", "best"}


def trunk_file(path, *, channels: str = "RGB", **changes):
    """A classifier of the small trunk's shape, with a card."""
    from residual.data.transforms import Preprocessing
    from residual.detect.catalog import SMALL

    torch.manual_seed(3)
    described = replace(SMALL, classes=2, **changes)
    net = ResNet(described)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    mean, std = (10.0, 20.0, 30.0), (51.0, 102.0, 153.0)
    seen = Preprocessing(size=96, channels=channels, mean=mean, std=std)
    save(path, net.state_dict(), Card(name="small", model=described, classes=("a", "b"), preprocessing=seen))
    return net.eval()


def test_a_trained_trunk_is_taken_over_frozen_with_what_it_expects_of_an_image(tmp_path, monkeypatch):
    net = trunk_file(tmp_path / "trunk.safetensors")
    asked = plan(trunk=str(tmp_path / "trunk.safetensors"), recipe=recipe(iterations=1))
    events = list(pipeline.train(asked, tmp_path / "run"))
    detector = weights.load(tmp_path / "run")
    assert detector.card.mean == pytest.approx((10 / 255, 20 / 255, 30 / 255))
    assert detector.card.std == pytest.approx((0.2, 0.4, 0.6))
    assert detector.card.detector.frozen
    x = torch.rand(1, 3, 32, 32)
    stem = net.stem(x)
    assert torch.allclose(detector.net.shared.stem(x), stem, atol=1e-6)  # not trained, statistics as they were
    statistics = {name: value for name, value in net.state_dict().items() if "running" in name or ".norm" in name}
    kept = list(detector.net.state_dict().values())
    for name, value in statistics.items():  # of all stages, those that regions go through as well
        if value.is_floating_point():
            assert any(value.shape == other.shape and torch.equal(value, other) for other in kept), name
    assert isinstance(events[-1], Finished)


def test_a_trunk_that_expects_bgr_sees_the_same_colours(tmp_path):
    rgb = trunk_file(tmp_path / "trunk.safetensors", channels="BGR")
    start = detection.trained_trunk(str(tmp_path / "trunk.safetensors"), "faster_rcnn_small_c4")
    pixels = torch.rand(1, 3, 20, 20)
    mean, std = torch.tensor([10.0, 20.0, 30.0]) / 255, torch.tensor([0.2, 0.4, 0.6])
    as_before = rgb.stem((pixels.flip(1) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    ours = (pixels - torch.tensor(start.mean).view(1, 3, 1, 1)) / torch.tensor(start.std).view(1, 3, 1, 1)
    assert torch.allclose(start.net.stem(ours), as_before, atol=1e-5)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "faster_rcnn_resnet50"}, "faster_rcnn_resnet50_c4 or faster_rcnn_resnet50_fpn"),
        ({"model": "faster_rcnn_resnet51_c4"}, "depth 51 does not exist"),
        ({"model": "localizer_vgg16"}, "take a ResNet here"),
        ({"model": "mnc_resnet50_c4"}, "its name ends with the trunk"),
        ({"trunk": "nowhere.safetensors"}, "no such file"),
        ({"data": "nowhere"}, "there is no 'nowhere'"),
    ],
)
def test_a_plan_that_cannot_be_followed_leaves_no_trace(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        list(pipeline.train(plan(**changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_trunk_of_another_shape_is_refused_with_both_shapes(tmp_path):
    trunk_file(tmp_path / "trunk.safetensors", widths=(8, 16), stem_width=8)
    with pytest.raises(ValueError, match=r"widths \(8, 16\).*widths \(64, 128\)"):
        list(pipeline.train(plan(trunk=str(tmp_path / "trunk.safetensors")), tmp_path / "run"))


def test_a_file_that_is_no_resnet_is_no_trunk(tmp_path):
    (tmp_path / "notes.txt").write_text("not a network")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        list(pipeline.train(plan(trunk=str(tmp_path / "notes.txt")), tmp_path / "run"))


def test_boxes_alone_teach_no_masks(tmp_path, monkeypatch):
    honest = open_objects.draw_scenes

    def boxes_alone(*arguments, **named):
        images = honest(*arguments, **named)
        return replace(images, objects=tuple(replace(here, outlines=None) for here in images.objects))

    monkeypatch.setattr(open_objects, "draw_scenes", boxes_alone)
    with pytest.raises(ValueError, match="not every object of scenes has an outline"):
        list(pipeline.train(plan("mask_rcnn_small_c4"), tmp_path / "run"))
    assert isinstance(list(pipeline.train(plan(), tmp_path / "boxes"))[-1], Finished)


def test_another_run_of_the_folder_goes_on_neither_with_other_data_nor_other_settings(tmp_path, monkeypatch):
    run, stop = tmp_path / "run", Stop()
    cut_off(pipeline.train(plan(), run, stop=stop), stop, 3)
    monkeypatch.setattr(open_objects, "SCENES", {"train": 13, "validation": 4, "test": 5})
    with pytest.raises(ValueError, match="train images in scenes are not those"):
        list(pipeline.resume(run))
    monkeypatch.undo()
    monkeypatch.setattr(open_objects, "SCENES", {"train": 12, "validation": 4, "test": 5})
    begun = (run / "run.json").read_bytes()
    for name, value in {"batch": 3, "clip": 0.5, "flip": False}.items():
        told = json.loads(begun)
        part = told["plan"]["recipe"]["augmentation"] if name == "flip" else told["plan"]["recipe"]
        assert part[name] != value
        part[name] = value
        (run / "run.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match="belongs to another run: model, recipe, seed or data differ"):
            list(pipeline.resume(run))
    (run / "run.json").write_bytes(begun)
    assert isinstance(list(pipeline.resume(run))[-1], Finished)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_run_does_not_go_on_with_other_pixels_under_the_same_names(tmp_path, split):
    drawn = {"train": draw_scenes(8, size=48, most=1), "val": draw_scenes(4, size=48, start=8, most=1)}
    for part, images in drawn.items():
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / part).mkdir(parents=True)
        for number, pixels in enumerate(images.pixels):
            Image.fromarray(pixels).save(tmp_path / "data" / "images" / part / f"{number}.png")
            (tmp_path / "data" / "labels" / part / f"{number}.txt").write_text("0 .5 .5 .4 .4")
    (tmp_path / "data" / "data.yaml").write_text("names: [thing]\ntrain: images/train\nval: images/val\n")
    run, stop, asked = tmp_path / "run", Stop(), plan(data=str(tmp_path / "data"))
    cut_off(pipeline.train(asked, run, stop=stop), stop, 3)
    before = {path: path.read_bytes() for path in (tmp_path / "data" / "images" / split).iterdir()}
    rng = np.random.default_rng(0)
    for path in before:
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(path)
    named = {"train": "train", "val": "validation"}[split]
    with pytest.raises(ValueError, match=f"the {named} images in .* are not those that .* began with"):
        list(pipeline.resume(run))
    for path, content in before.items():
        path.write_bytes(content)
    assert isinstance(list(pipeline.resume(run))[-1], Finished)


def test_bad_numbers_end_the_run_with_the_names_of_its_images(tmp_path):
    wild = recipe(schedule=Schedule(shape="linear", rate=1e30), clip=None, average=None)
    with pytest.raises(Diverged, match="scenes:"):
        list(pipeline.train(plan(recipe=wild), tmp_path / "run"))


def test_a_budget_ends_it_annealed(tmp_path):
    *_, finished = pipeline.train(plan(recipe=recipe(iterations=5), budget=4.0), tmp_path / "run")
    assert isinstance(finished, Finished)
    rates = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["rate"] for line in rates if "rate" in line][-1] < 0.01


def test_the_run_of_a_detector_is_told_from_a_classifiers(tmp_path):
    list(pipeline.train(plan(recipe=recipe(iterations=1)), tmp_path / "run"))
    assert weights.holds_detector(tmp_path / "run")
    with pytest.raises(ValueError, match="trained a detector"):
        pipeline.planned_classification(tmp_path / "run")
    with pytest.raises(ValueError, match=r"residual\.load_detector"):
        classification.load(tmp_path / "run")


@pytest.mark.parametrize("name", ["paper", "wide", ""])
def test_a_recipe_of_classifiers_is_none_of_detectors(name):
    with pytest.raises(ValueError, match="voc-alternating"):
        detection_recipe(name, KINDS[0])


def test_four_steps_are_for_a_faster_rcnn():
    with pytest.raises(ValueError, match="mnc_small is none"):
        detection_recipe("voc-alternating", "mnc_small")
    with pytest.raises(ValueError, match="fixed length"):
        plan(recipe=detection_recipe("voc-alternating", KINDS[0]), budget=60.0)


def test_a_localizer_is_not_trained_at_another_size_than_it_is_tested_at(tmp_path):
    windows = detection_recipe("windows", "localizer_small")
    with pytest.raises(ValueError, match="'windows' leaves large images as they are, and localizer_small is tested on"):
        list(pipeline.train(plan("localizer_small", recipe=windows), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    brought = replace(windows, augmentation=replace(windows.augmentation, shrink=True))
    plan("localizer_small", recipe=brought).refuse_new()
    plan("mask_rcnn_small_fpn", recipe=windows).refuse_new()


def test_a_localizers_run_of_a_recipe_that_is_refused_now_is_still_followed(tmp_path, monkeypatch):
    asked = plan("localizer_small", recipe=recipe(augmentation=replace(recipe().augmentation, shrink=False)))
    stop, refuse = Stop(), DetectionPlan.refuse_new
    monkeypatch.setattr(DetectionPlan, "refuse_new", lambda plan: None)
    cut_off(pipeline.train(asked, tmp_path / "run", stop=stop), stop, 1)
    monkeypatch.setattr(DetectionPlan, "refuse_new", refuse)
    assert pipeline.planned(tmp_path / "run") == asked
    assert any(isinstance(event, Started) for event in pipeline.resume(tmp_path / "run"))


def test_a_detector_sees_an_image_at_the_side_it_was_trained_for(tmp_path):
    list(pipeline.train(plan(recipe=recipe(iterations=1)), tmp_path / "run"))
    detector = weights.load(tmp_path / "run")
    assert isinstance(detector, Detector)
    assert detector.card.procedure.side == 48
    sizes = detector.card.detector.proposals.sizes
    assert sizes == pytest.approx([anchor * 48 / 600 for anchor in recipe().anchors])


TRAINING = """
import sys
from pathlib import Path
import msgspec
from residual import pipeline
from residual.data import open_objects
open_objects.SCENES = {"train": 12, "validation": 4, "test": 5}
run, asked = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2].encode(), type=pipeline.DetectionPlan)
for event in pipeline.resume(run) if (run / "run.json").is_file() else pipeline.train(asked, run):
    print(type(event).__name__, getattr(event, "step", ""), flush=True)
"""


@pytest.mark.parametrize("model", ["mask_rcnn_small_c4"])
def test_killed_at_any_moment_it_goes_on_to_the_same_weights(tmp_path, model):
    """T1 of the reliability plan, a sample: kill -9, several times, and the same command again."""
    asked = plan(model, recipe=recipe(iterations=12), save_steps=2)
    list(pipeline.train(asked, tmp_path / "whole"))
    run, words = tmp_path / "run", [sys.executable, "-c", TRAINING, str(tmp_path / "run")]
    words.append(msgspec.json.encode(asked).decode())
    rng = random.Random(5)
    for kills in (True, True, False):
        lines = 0
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            until = rng.randrange(2, 5) if kills else 99
            for line in process.stdout:
                lines += line.startswith("Progress")
                if lines >= until:
                    process.send_signal(signal.SIGKILL)
                    break
    one, other = (weights.load(folder).state_dict() for folder in (tmp_path / "whole", run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 12


@pytest.mark.parametrize("model", ["mask_rcnn_small_c4"])
def test_it_learns_what_it_is_shown(tmp_path, monkeypatch, model):
    """Eight scenes by heart; how well unseen ones are found is in results/detection."""
    monkeypatch.setattr(open_objects, "SCENES", {"train": 8, "validation": 1, "test": 1})
    learned = detection_recipe("modern", model)
    seen = replace(at_side(learned.augmentation, 48), flip=False)
    asked = plan(model, recipe=replace(learned, iterations=150, batch=8, augmentation=seen), looks=1)
    list(pipeline.train(asked, tmp_path / "run"))
    found = evaluate_detector(weights.load(tmp_path / "run"), draw_scenes(8, size=48), split="train")
    assert found["map50"] > 80
    assert found["coco_masks"]["AP50"] > 70


@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_images_without_objects_are_refused_before_anything_is_trained(tmp_path, monkeypatch, split):
    honest = open_objects.draw_scenes
    counts = {"validation": 4, "test": 5}

    def emptied(count, **named):
        images = honest(count, **named)
        if count != counts[split]:
            return images
        return replace(images, objects=tuple(objects([], []) for _ in images.objects))

    monkeypatch.setattr(open_objects, "draw_scenes", emptied)
    with pytest.raises(ValueError, match=f"the {split} images have no object"):
        list(pipeline.train(plan("faster_rcnn_small_c4"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_images_that_became_background_are_noted_and_no_file_is_said_to_be_left_out(tmp_path, monkeypatch):
    honest = open_objects.draw_scenes

    def emptied(count, **named):
        images = honest(count, **named)
        return replace(images, objects=(objects([], [], left_out=2), *images.objects[1:]))

    monkeypatch.setattr(open_objects, "draw_scenes", emptied)
    happened = list(pipeline.train(plan(recipe=recipe(iterations=1)), tmp_path / "run"))
    (started,) = (event for event in happened if isinstance(event, Started))
    assert started.problems == ()
    notes = [event.text for event in happened if isinstance(event, Note) and "as background" in event.text]
    assert [note.split(" ", 3)[:2] for note in notes] == [["train:", "1"], ["validation:", "1"], ["test:", "1"]]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["notes"] == notes


def test_a_localizer_refuses_images_of_several_classes_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="images of one class each"):
        list(pipeline.train(plan("localizer_small", data="scenes"), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("share, held", [(0.0, None), (0.25, 3)])
def test_the_recipe_says_how_many_images_are_held_out_of_data_without_a_split(monkeypatch, share, held):
    whole = draw_scenes(12, size=48)
    monkeypatch.setattr(open_objects, "_read", lambda *arguments, **named: {"train": whole})
    data = detection.read_objects(plan(recipe=recipe(validation=share)))
    assert (len(data.train), data.validation and len(data.validation)) == (12 - (held or 0), held)


def test_weights_are_kept_even_where_the_evaluation_fails(tmp_path, monkeypatch):
    def broken(*arguments, **named):
        raise RuntimeError("the disk of the images is gone")

    monkeypatch.setattr(detection, "evaluate_detector", broken)
    with pytest.raises(RuntimeError, match="is gone"):
        list(pipeline.train(plan(recipe=recipe(iterations=1)), tmp_path / "run"))
    assert weights.holds_detector(tmp_path / "run")
