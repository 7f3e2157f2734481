"""The test of a detector from the command line: on its own images or others, under every protocol."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from residual.cli import subject_objects
from residual.cli.evaluate_objects import procedures
from residual.cli.subject_objects import aligned
from residual.data import voc
from residual.data.objects import ObjectImages, from_masks
from residual.data.open_objects import ObjectDataset, open_objects
from residual.data.scenes import draw_scenes
from residual.detect.card import Described, card_of
from residual.detect.cascade import CascadeDescription
from residual.detect.detector import Detector
from residual.detect.evaluation import evaluate_detector
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.localize import LocalizerDescription
from residual.detect.procedure import IMPROVED, Procedure
from residual.detect.proposals import ProposalDescription
from residual.detect.regions import RegionDescription
from residual.detect.weights import load, save
from residual.models.description import Description
from residual.pipeline import DetectionPlan, read_objects
from residual.recipes.detection import at_side, modern

TRUNK = Description(block="basic", depths=(1, 1, 1, 1), widths=(4, 6, 8, 10), stem="imagenet", stem_width=4)
CLASSES = draw_scenes(1).classes
SIDE = 48
PLAIN = Procedure(side=SIDE, longest=80)
SMALL: dict[str, Any] = {
    "trunk": TRUNK,
    "classes": CLASSES,
    "proposals": ProposalDescription(sizes=(16.0, 32.0), width=12, after=(60, 20)),
    "regions": RegionDescription(pooled=6, cut="align", score=0.01),
}
QUICK = ("--device", "cpu", "--workers", "0")


def annotated(folder: Path, **splits: ObjectImages) -> Path:
    """Drawn images as PNG with COCO's annotations."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, images in splits.items():
        told: dict[str, list[Any]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in enumerate(images.classes)],
        }
        for number, (pixels, here) in enumerate(zip(images.pixels or (), images.objects, strict=True)):
            name = f"{split}{number}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            height, width = pixels.shape[:2]
            told["images"].append({"id": number, "file_name": name, "height": height, "width": width})
            for box, label, outline in zip(here.boxes.tolist(), here.labels.tolist(), here.outlines or (), strict=True):
                assert outline is not None
                told["annotations"].append({
                    "id": len(told["annotations"]), "image_id": number, "category_id": label, "iscrowd": 0,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "segmentation": {"size": [height, width], "counts": outline.parts[0].tolist()},
                })  # fmt: skip
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(told))
    return folder


def devkit(root: Path, **listed: ObjectImages) -> Path:
    """Drawn images as VOC 2007 with one object each, as PNG, which a name that ends in jpg does not hinder."""
    folder = root / "VOC2007"
    for place in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / place).mkdir(parents=True)
    thing = "<object><name>cat</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    for split, images in listed.items():
        for number, pixels in enumerate(images.pixels or ()):
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{split}{number}.jpg", format="png")
            size = f"<size><width>{pixels.shape[1]}</width><height>{pixels.shape[0]}</height></size>"
            (folder / "Annotations" / f"{split}{number}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
        names = "\n".join(f"{split}{number}" for number in range(len(images)))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return root


def random_run(folder: Path, data: Path, described: Described, *, seed: int = 0, lists: str | None = None) -> Path:
    """A run folder as training leaves it, with random weights."""
    torch.manual_seed(seed)
    classes = getattr(described, "classes", CLASSES)
    card = card_of(described, name="small", classes=classes, mean=(0.5,) * 3, std=(0.25,) * 3, procedure=PLAIN)
    recipe = replace(modern(), augmentation=at_side(modern().augmentation, SIDE))
    plan = DetectionPlan(model="faster_rcnn_small_c4", data=str(data), lists=lists, recipe=recipe, workers=0)
    splits = read_objects(plan).splits()
    fingerprints = {name: images.fingerprint for name, images in splits.items()}
    folder.mkdir()
    told = {"task": "detection", "plan": asdict(plan), "data": {"fingerprints": fingerprints}}
    (folder / "run.json").write_bytes(msgspec.json.encode(told))
    save(folder / "model.safetensors", Detector(card).net.state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images to train on and five held out."""
    place = tmp_path_factory.mktemp("data")
    return annotated(place / "toys", train=draw_scenes(6, size=64), val=draw_scenes(5, size=64, start=6))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small Faster R-CNN.  Not to be written to."""
    return random_run(tmp_path_factory.mktemp("runs") / "small", data, DetectorDescription(**SMALL))


def test_a_run_is_measured_on_the_images_it_held_out(say: Callable[..., Any], run: Path, data: Path, tmp_path: Path):
    out = tmp_path / "evaluation.json"
    said = say("evaluate", run, *QUICK, "--out", out)
    assert (said.code, said.err) == (0, "")
    found = json.loads(out.read_text())["last"]
    held = open_objects(str(data)).validation
    assert held is not None
    expected = evaluate_detector(load(run), held, split="validation")
    assert found | {"seconds_per_image": 0} == expected | {"seconds_per_image": 0}
    lines = said.out.splitlines()
    counted = sum(map(len, held.objects))
    assert lines[0] == f"last iteration: mAP@.5 {found['map50']:.2f} % on 5 validation images with {counted} objects"
    low, high = found["interval"]
    assert lines[1] == f"  VOC 2010    {found['map50']:.2f} %   (95 % interval {low:.2f} to {high:.2f})"
    assert lines[-1] == f"Next: residual detect {run} IMAGE"
    for row in found["per_class"]:
        assert any(line.startswith(row["class"]) for line in lines) == (row["objects"] > 0)


def test_json_has_everything_but_the_pictures(say: Callable[..., Any], run: Path):
    said = say("evaluate", run / "model.safetensors", "--data", run.parent / "nowhere", *QUICK)
    assert (said.code, "there is no" in said.err) == (2, True)
    found = json.loads(say("evaluate", run, *QUICK, "--json", "--protocol", "improved").out)["last"]
    assert "mistakes" not in found
    assert found["procedure"]["sides"] == [16, 32, 48, 64, 80]


def test_each_improvement_is_a_row_with_what_it_adds_to_the_one_before(
    say: Callable[..., Any], run: Path, data: Path, tmp_path: Path
):
    other = random_run(tmp_path / "other", data, DetectorDescription(**SMALL), seed=1)
    out = tmp_path / "rows.json"
    said = say("evaluate", run, "--protocol", "each", "--ensemble", other, "--out", out, *QUICK)
    assert (said.code, said.err) == (0, "")
    listed = json.loads(out.read_text())["rows"]
    rows = {row["what"]: row for row in listed}
    assert list(rows) == ["plain", "+ box refinement", "+ box voting", "+ multi-scale testing", "+ ensemble of 2"]
    told = [row["procedure"] for row in rows.values()]
    assert [one["refined"] for one in told] == [False, True, True, True, True]
    assert [one["voters"] for one in told] == [None, None, 0.5, 0.5, 0.5]
    assert [bool(one["sides"]) for one in told] == [False, False, False, True, True]
    assert rows["+ ensemble of 2"]["weights"] == "ensemble"
    (line,) = [line for line in said.out.splitlines() if line.startswith("+ box voting")]
    gained = rows["+ box voting"]["map50"] - rows["+ box refinement"]["map50"]
    assert f"{gained:+.1f}" in line.split()


def test_the_protocols_are_the_papers_in_proportion_to_the_detectors_side():
    own = Procedure(side=600, longest=1000)
    assert procedures(own, "improved") == {"improved": IMPROVED}
    assert procedures(replace(IMPROVED), "plain") == {"plain": own}
    (refined,) = procedures(own, "box-refinement").values()
    assert (refined.refined, refined.voters, refined.sides) == (True, 0.5, ())
    (scaled,) = procedures(replace(own, side=120), "multi-scale").values()
    assert (scaled.refined, scaled.voters, scaled.sides) == (False, None, (40, 80, 120, 160, 200))
    assert procedures(own, "multi-scale", (300, 500))["multi-scale"].sides == (300, 500)
    assert list(procedures(own, "each").values())[-1] == IMPROVED


def test_other_images_may_have_some_of_the_classes_in_another_order_but_no_new_ones():
    images = draw_scenes(4, size=48)
    backwards = aligned(images, CLASSES[::-1])
    for one, other in zip(images.objects, backwards.objects, strict=True):
        assert [CLASSES[label] for label in one.labels] == [CLASSES[::-1][label] for label in other.labels]
    assert aligned(images, (*CLASSES, "dragon")).classes == (*CLASSES, "dragon")
    with pytest.raises(ValueError, match="the data has circle, and the detector knows "):
        aligned(images, tuple(name for name in CLASSES if name != "circle"))


WRONG = {
    "of classifiers": (("--crop", "0.875"), "--crop is for networks that classify"),
    "a flag": (("--explain",), "--explain is for networks that classify"),
    "protocol": (("--protocol", "ten-crop"), "no protocol 'ten-crop' for a detector; choose one of: plain, "),
    "scales of plain": (("--scales", "32,64"), "--scales is not of protocol plain"),
    "scales that are none": (("--protocol", "multi-scale", "--scales", "a,b"), "--scales a,b is not a list"),
    "scales that shrink": (("--protocol", "multi-scale", "--scales", "64,32"), "they must grow"),
    "of localizers": (("--one-step",), "--one-step is of a localizer's test"),
    "classes": (("--classes", "x"), "--classes is of a localizer's test"),
    "other data": (("--data", "nowhere"), "there is no 'nowhere'"),
    "an old file": (("--out", "."), ". exists and is not overwritten"),
}


@pytest.mark.parametrize("words, reason", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_by_name(say: Callable[..., Any], run: Path, words: Any, reason: str):
    said = say("evaluate", run, *words, *QUICK)
    assert said.code == 2
    assert reason in said.err
    assert len(said.err.splitlines()) == 1


def test_images_of_training_are_refused_and_changed_ones_too(
    say: Callable[..., Any], run: Path, data: Path, tmp_path: Path
):
    said = say("evaluate", run, "--data", data / "annotations" / "instances_train.json", *QUICK)
    assert said.code == 0, "its sister file holds the validation images, which are taken"
    alone = annotated(tmp_path / "alone", train=draw_scenes(10, size=64))
    own = random_run(tmp_path / "own", alone, DetectorDescription(**SMALL))
    held = say("evaluate", own, "--data", alone, *QUICK)
    assert "2 validation images" in held.out
    (alone / "images" / "train0.png").rename(alone / "images" / "other.png")
    text = (alone / "annotations" / "instances_train.json").read_text().replace("train0.png", "other.png")
    (alone / "annotations" / "instances_train.json").write_text(text)
    changed = say("evaluate", own, *QUICK)
    assert (changed.code, "are not those of" in changed.err) == (2, True)
    flattering = say("evaluate", own, "--data", alone, *QUICK)
    assert (flattering.code, "cannot be told, because those in" in flattering.err) == (2, True)


def test_images_of_training_are_known_under_other_names(say: Callable[..., Any], run: Path, data: Path, tmp_path: Path):
    renamed = annotated(tmp_path / "renamed", train=draw_scenes(2, size=64, start=20), val=draw_scenes(6, size=64))
    said = say("evaluate", run, "--data", renamed, *QUICK)
    reason = f"6 of the 6 images to measure on in {renamed} are images that {run} was trained on"
    assert (said.code, reason in said.err) == (2, True)
    one = annotated(tmp_path / "one", train=draw_scenes(2, size=64, start=20), val=draw_scenes(4, size=64, start=5))
    said = say("evaluate", run, "--data", one, *QUICK)
    assert (said.code, "1 of the 4 images" in said.err, "such as val0.png" in said.err) == (2, True, True)
    others = annotated(tmp_path / "new", train=draw_scenes(6, size=64), val=draw_scenes(4, size=64, start=11))
    assert say("evaluate", run, "--data", others, *QUICK).code == 0, "what is not measured on does not matter"


def test_images_of_training_are_known_where_its_data_is_gone(say: Callable[..., Any], tmp_path: Path):
    train = draw_scenes(6, size=64)
    toys = annotated(tmp_path / "toys", train=train, val=draw_scenes(5, size=64, start=6))
    run = random_run(tmp_path / "run", toys, DetectorDescription(**SMALL))
    marks = open_objects(str(toys)).train.marks
    old = annotated(tmp_path / "old", train=draw_scenes(2, size=64, start=20), val=train)
    new = annotated(tmp_path / "new", train=draw_scenes(2, size=64, start=20), val=draw_scenes(3, size=64, start=11))
    toys.rename(tmp_path / "elsewhere")
    for images in (old, new):
        unknown = say("evaluate", run, "--data", images, *QUICK)
        assert (unknown.code, "there is no" in unknown.err, "cannot be told" in unknown.err) == (2, True, True)
    told = json.loads((run / "run.json").read_text())
    told["data"]["train_images"] = "".join(sorted(marks))
    (run / "run.json").write_text(json.dumps(told))
    seen = say("evaluate", run, "--data", old, *QUICK)
    assert (seen.code, "6 of the 6 images" in seen.err) == (2, True)
    assert say("evaluate", run, "--data", new, *QUICK).code == 0


def test_test_images_of_voc_that_were_trained_on_are_refused(say: Callable[..., Any], tmp_path: Path):
    kit = devkit(tmp_path / "kit", trainval=draw_scenes(4, size=64), test=draw_scenes(3, size=64, start=4))
    described = DetectorDescription(**SMALL | {"classes": voc.CLASSES})
    both, honest = (random_run(tmp_path / lists, kit, described, lists=lists) for lists in ("07+07:test", "07"))
    refused = say("evaluate", both, "--data", kit / "VOC2007", *QUICK)
    assert (refused.code, "was trained on, which would flatter it" in refused.err) == (2, True)
    assert say("evaluate", honest, "--data", kit / "VOC2007", *QUICK).code == 0


def test_lists_choose_images_of_voc_as_in_training_and_what_they_hold_out_is_measured(
    say: Callable[..., Any], tmp_path: Path
):
    counts = {"train": 4, "val": 3, "test": 2}
    starts = {"train": 0, "val": 4, "test": 7}
    drawn = {name: draw_scenes(count, size=64, start=starts[name]) for name, count in counts.items()}
    kit = devkit(tmp_path / "kit", **drawn)
    run = random_run(tmp_path / "run", kit, DetectorDescription(**SMALL | {"classes": voc.CLASSES}), lists="07:train")
    for words, split, images in (
        (("--lists", "07:train"), "test", 2),
        (("--lists", "2007:train/2007:val"), "validation", 3),
        (("--data", kit, "--lists", "07:train/07:test"), "validation", 2),
    ):
        said = say("evaluate", run, *words, "--json", *QUICK)
        assert (said.code, said.err) == (0, "")
        found = json.loads(said.out)["last"]
        assert (found["split"], found["images"]) == (split, images), words
    seen = say("evaluate", run, "--lists", "07:val/07:train", *QUICK)
    assert (seen.code, "4 of the 4 images" in seen.err, "was trained on" in seen.err) == (2, True, True)
    absent = say("evaluate", run, "--lists", "2012:train/2012:val", *QUICK)
    assert (absent.code, "2012" in absent.err) == (2, True)


def test_lists_that_hold_nothing_out_or_choose_from_nothing_are_refused(
    say: Callable[..., Any], run: Path, data: Path, tmp_path: Path
):
    kit = devkit(tmp_path / "kit", train=draw_scenes(4, size=64), val=draw_scenes(3, size=64, start=4))
    of_voc = random_run(tmp_path / "run", kit, DetectorDescription(**SMALL | {"classes": voc.CLASSES}))
    for words, reason in (
        ((of_voc, "--lists", "07:val"), "--lists 07:val holds no images out; of a VOCdevkit name those to measure on"),
        ((of_voc, "--lists", "every"), "lists 'every' is none of VOC's"),
        ((run, "--lists", "07"), f"which {data} is not"),
        ((run, "--data", "scenes:9", "--lists", "07"), "which scenes:9 is not"),
    ):
        said = say("evaluate", *words, *QUICK)
        assert (said.code, said.out, reason in said.err) == (2, "", True), said.err
        assert len(said.err.splitlines()) == 1
    (tmp_path / "alone").mkdir()
    alone = Path(shutil.copy(run / "model.safetensors", tmp_path / "alone"))
    said = say("evaluate", alone, "--lists", "07", *QUICK)
    assert (said.code, "does not say which images to measure on; add --data DIR" in said.err) == (2, True)


@pytest.mark.parametrize(
    ("origin", "way_out"),
    [
        (
            "PASCAL VOC 2007 train",
            "of a VOCdevkit name those to measure on behind a slash, such as 2012:train/2012:val",
        ),
        ("ImageNet CLS-LOC, train", "of ImageNet they are those of ImageSets/CLS-LOC/val.txt, which is not there: add"),
    ],
)
def test_the_way_to_images_to_measure_on_is_that_of_the_data(origin: str, way_out: str):
    whole = ObjectDataset(train=replace(draw_scenes(2, size=64), origin=origin))
    with pytest.raises(ValueError, match=f"--lists CLS-LOC holds no images out; {way_out}"):
        subject_objects._listed(whole, "CLS-LOC")


def test_an_ensemble_is_of_detectors_that_know_the_same_and_saw_none_of_the_images(
    say: Callable[..., Any], run: Path, data: Path, tmp_path: Path
):
    elsewhere = annotated(tmp_path / "swapped", train=draw_scenes(5, size=64, start=6), val=draw_scenes(6, size=64))
    other = random_run(tmp_path / "other", elsewhere, DetectorDescription(**SMALL | {"classes": CLASSES[::-1]}))
    said = say("evaluate", run, "--ensemble", other, *QUICK)
    assert (said.code, "are not those of small: their order" in said.err) == (2, True)
    saw = random_run(tmp_path / "saw", elsewhere, DetectorDescription(**SMALL), seed=1)
    said = say("evaluate", run, "--ensemble", saw, *QUICK)
    assert (said.code, f"5 of the 5 images to measure on in {data} are images that {saw}" in said.err) == (2, True)
    apart = annotated(tmp_path / "apart", train=draw_scenes(5, size=64, start=30), val=draw_scenes(6, size=64))
    stranger = random_run(tmp_path / "stranger", apart, DetectorDescription(**SMALL), seed=1)
    said = say("evaluate", run, "--ensemble", stranger, *QUICK)
    assert (said.code, said.out.startswith("ensemble: mAP@.5")) == (0, True)


def test_the_same_weights_are_no_ensemble_wherever_they_lie(say: Callable[..., Any], run: Path, tmp_path: Path):
    shutil.copy(run / "model.safetensors", tmp_path / "copy.safetensors")
    for same in (run, tmp_path / "copy.safetensors"):
        said = say("evaluate", run, "--ensemble", same, *QUICK)
        reason = f"--ensemble {same} brings the weights of {run} a second time"
        assert (said.code, said.out, reason in said.err) == (2, "", True)


def test_data_without_objects_is_refused(say: Callable[..., Any], run: Path, tmp_path: Path):
    scenes = draw_scenes(3, size=64)
    bare = tuple(from_masks([]) for _ in scenes.objects)
    empty = annotated(tmp_path / "empty", train=scenes, val=replace(scenes, objects=bare))
    said = say("evaluate", run, "--data", empty, *QUICK)
    assert (said.code, "has an object that counts" in said.err) == (2, True)


def test_a_cascade_is_tested_plainly(say: Callable[..., Any], data: Path, tmp_path: Path):
    told = {name: SMALL[name] for name in ("trunk", "classes", "proposals", "regions")}
    cascade = random_run(tmp_path / "cascade", data, CascadeDescription(**told, hidden=8, warped=8, pooled=4, mask=6))
    said = say("evaluate", cascade, "--protocol", "improved", *QUICK)
    assert (said.code, "small is a cascade" in said.err) == (2, True)
    plain = say("evaluate", cascade, *QUICK)
    assert plain.code == 0
    assert any(line.startswith("  COCO masks") for line in plain.out.splitlines())


# --- localizers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a localizer and images of one object each."""
    place = tmp_path_factory.mktemp("localizer")

    def one_each(images: ObjectImages) -> ObjectImages:
        return replace(images, objects=tuple(here.select(np.arange(1)) for here in images.objects))

    train, held = (one_each(draw_scenes(4, size=64, start=start, most=1)) for start in (0, 4))
    data = annotated(place / "data", train=train, val=held)
    described = LocalizerDescription(
        trunk=replace(TRUNK, classes=len(CLASSES)), sizes=(16.0,), width=8, side=16, candidates=20
    )
    return random_run(place / "run", data, described)


def test_a_localizer_is_measured_with_and_without_its_second_step(say: Callable[..., Any], localizer: Path):
    said = say("evaluate", localizer, *QUICK)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("last iteration: localization error ")
    assert "(classes from itself)" in said.out
    found = json.loads(say("evaluate", localizer, "--one-step", "--sides", "32,64", "--json", *QUICK).out)["last"]
    assert (found["second"], found["sides"], found["images"]) == (False, [32, 64], 4)


def test_the_classes_may_come_from_a_classifier_of_the_same_classes(
    say: Callable[..., Any], localizer: Path, trained: Path, tmp_path: Path
):
    from residual.data.transforms import Preprocessing
    from residual.models.resnet import ResNet
    from residual.weights.card import Card
    from residual.weights.safetensors import save as save_classifier

    strange = say("evaluate", localizer, "--classes", trained, *QUICK)
    assert (strange.code, "tells other classes apart than the localizer places" in strange.err) == (2, True)
    model = replace(TRUNK, classes=len(CLASSES), image=32)
    shuffled = CLASSES[::-1]
    preprocessing = Preprocessing(size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    net = ResNet(model)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(torch.arange(len(CLASSES)).float())
    card = Card(name="told", model=model, classes=shuffled, preprocessing=preprocessing)
    save_classifier(tmp_path / "told.safetensors", net.state_dict(), card)
    said = say("evaluate", localizer, "--classes", tmp_path / "told.safetensors", "--json", *QUICK)
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)["last"]
    surest = shuffled[::-1][:5]
    held = [row for row in found["per_class"] if row["images"]]
    missed = sum(row["images"] for row in held if row["class"] not in surest)
    assert found["classification"]["top5_error"] == 100 * missed / 4
    assert found["classes_from"] == str(tmp_path / "told.safetensors")


def test_a_localizer_has_a_test_of_its_own(say: Callable[..., Any], localizer: Path, run: Path, trained: Path):
    for words in (("--protocol", "plain"), ("--ensemble", str(localizer))):
        said = say("evaluate", localizer, *words, *QUICK)
        assert (said.code, "is a localizer, so" in said.err) == (2, True)
    said = say("evaluate", trained, "--one-step", *QUICK)
    assert (said.code, "--one-step is of a localizer's test" in said.err) == (2, True)
    several = say("evaluate", localizer, "--data", run.parent, *QUICK)
    assert several.code == 2
