import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from residual.cli import check
from residual.data.check_objects import check_objects
from residual.data.open_objects import open_objects

QUIET = ("--workers", "0")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is suggested depends on the machine."""
    accelerated(monkeypatch, False)


def accelerated(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.fixture
def untidy(cats_and_dogs: Path) -> Path:
    """A damaged file and one that is there twice."""
    (cats_and_dogs / "cat" / "\x1b[31mbad.png").write_bytes(b"no picture")
    shutil.copy(cats_and_dogs / "cat" / "1.png", cats_and_dogs / "cat" / "again.png")
    return cats_and_dogs


def test_what_is_wrong_with_the_data_is_listed(say: Callable[..., Any], untidy: Path):
    said = say("data", "check", untidy, *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "1 problem(s):" in said.out
    assert "cat/\\x1b[31mbad.png: " in said.out
    assert "again.png" in said.out
    assert said.out.splitlines()[-2:] == [
        "Suggested: resnet20 (small images)", f"Next: residual train --model resnet20 --data {untidy}",
    ]  # fmt: skip


def test_names_of_classes_and_of_the_folder_cannot_steer_the_terminal(
    say: Callable[..., Any], cats_and_dogs: Path, quiet_place: Path
):
    evil = quiet_place / "\x1b[2Jpets"
    cats_and_dogs.rename(evil)
    (evil / "cat").rename(evil / "\x1b]0;cat\x07")
    for words in (("check", evil), ("pack", evil, quiet_place / "packed")):
        said = say("data", *words, *QUIET)
        assert (said.code, said.err) == (0, "")
        assert "\x1b" not in said.out
        assert "\x07" not in said.out


def test_json_of_a_check_parses(say: Callable[..., Any], untidy: Path):
    found = json.loads(say("data", "check", untidy, "--json", *QUIET).out)
    assert len(found["problems"]) == 1
    assert sum(found["counts"]["train"].values()) + sum(found["counts"]["validation"].values()) == 13


def test_equal_images_with_two_labels_are_told(say: Callable[..., Any], cats_and_dogs: Path):
    shutil.copy(cats_and_dogs / "cat" / "1.png", cats_and_dogs / "dog" / "again.png")
    said = say("data", "check", cats_and_dogs, *QUIET)
    assert "cat/1.png (cat) = " in said.out
    assert "dog/again.png (dog)" in said.out
    assert "of these stand in two classes: their labels contradict each other." in said.out


def test_equal_images_with_one_label_contradict_nothing(say: Callable[..., Any], untidy: Path):
    (untidy / "dog" / "0.png").unlink()  # as black as cat/0.png
    assert "two classes" not in say("data", "check", untidy, *QUIET).out


def test_a_class_without_images_does_not_hide_the_rest(say: Callable[..., Any], untidy: Path):
    (untidy / "eel").mkdir()
    (untidy / "newt").mkdir()
    (untidy / "newt" / "1.png").write_bytes(b"no picture")
    said = say("data", "check", untidy, *QUIET)
    assert (said.code, said.err) == (2, "")
    for told in ("class 'eel' has no image", "class 'newt' has no image", "bad.png: ", "again.png", "from 0 (eel)"):
        assert told in said.out
    assert said.out.splitlines()[-2:] == [
        "Training refuses this data; mend the 2 fault(s) above.", f"Next: residual data check {untidy}",
    ]  # fmt: skip
    found = say("data", "check", untidy, "--json", *QUIET)
    assert (found.code, len(json.loads(found.out)["faults"])) == (2, 2)


def test_splits_that_are_empty_or_know_other_classes_do_not_hide_the_rest(say: Callable[..., Any], tmp_path: Path):
    for place in ("train/cat", "train/dog", "test/cat", "test/newt"):
        for number in range(3):
            picture(tmp_path / "data" / place / f"{number}.png", 9 * number + len(place))
    (tmp_path / "data" / "val").mkdir()
    (tmp_path / "data" / "train" / "dog" / "bad.png").write_bytes(b"no picture")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert (said.code, said.err) == (2, "")
    for told in (
        "2 fault(s)",
        "val: it holds no folders",
        "test/newt: test has the class 'newt'",
        "dog/bad.png: not",
    ):
        assert told in said.out


@pytest.mark.parametrize(
    ("images", "side", "gpu", "model"),
    [
        (50_000, 32, True, "resnet20 (small images)"),
        (9_000, 146, True, "resnet18 (9,000 training images)"),
        (90_000, 146, True, "resnet50 (90,000 training images, and a GPU)"),
        (90_000, 146, False, "resnet18 (90,000 training images, but no GPU here)"),
    ],
)
def test_a_network_is_suggested_that_suits_the_images_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, images: int, side: int, gpu: bool, model: str
):
    accelerated(monkeypatch, gpu)
    (name,), why = check.suggested_network(images, side)
    assert f"{name} ({why})" == model


def test_a_folder_is_packed_and_the_pack_is_data(say: Callable[..., Any], untidy: Path, tmp_path: Path):
    target = tmp_path / "packed"
    said = say("data", "pack", untidy, target, "--shorter", "16", *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "shrunk     to a shorter side of 16 pixels at most, as JPEG of quality 90" in said.out
    assert "bad.png: " in said.out
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet20 --data {target}"
    found = json.loads(say("data", "check", target, "--json", *QUIET).out)
    assert sum(sum(classes.values()) for classes in found["counts"].values()) == 13
    again = say("data", "pack", untidy, target, *QUIET)
    assert again.code == 2
    assert "holds a pack already" in again.err


def test_a_pack_inside_its_own_source_is_refused(say: Callable[..., Any], untidy: Path):
    said = say("data", "pack", untidy, untidy / "pack", *QUIET)
    assert said.code == 2
    assert "which is never written to" in said.err
    assert not (untidy / "pack").exists()


# --- objects ---------------------------------------------------------------------------------------------------------


def picture(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), (colour, 10, 10)).save(path)
    return path


def coco(root: Path, **changes: Any) -> None:
    """Five images with a cat on each, whose name would move the cursor; the last one's id is another's too."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 50, "height": 40} for n in range(5)]
    for n, image in enumerate(images):
        picture(root / "images" / image["file_name"], n)
    objects = [{"id": min(n, 3), "image_id": n, "category_id": 7, "bbox": [1, 2, 30, 30]} for n in range(5)]
    told = {"images": images, "categories": [{"id": 7, "name": "\x1b[2Jcat"}], "annotations": objects} | changes
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(json.dumps(told))


def voc(root: Path, *, listed: str = "a\nb\nc", name: str = "cat", corner: int = 9) -> None:
    """Three images in train and one in val, each with a box that ends at `corner`, the first one's called `name`."""
    folder = root / "VOC2007"
    for place in ("ImageSets/Main", "Annotations"):
        (folder / place).mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(listed)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("d")
    for number, image in enumerate("abcd"):
        picture(folder / "JPEGImages" / f"{image}.jpg", 60 * number)
        thing = f"<object><name>{name if image == 'a' else 'cat'}</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        size = "<size><width>50</width><height>40</height></size>"
        (folder / "Annotations" / f"{image}.xml").write_text(
            f"<annotation>{size}{thing}<xmax>{corner}</xmax><ymax>{corner}</ymax></bndbox></object></annotation>"
        )


def yolo(root: Path, scale: tuple[int, int] = (1, 1)) -> None:
    """Five images; a line of a class that there is not, and a text for an image that there is not."""

    def scaled(line: str) -> str:
        label, *values = line.split()
        return " ".join([label, *(str(float(value) * by) for value, by in zip(values, scale * 2, strict=True))])

    for n in range(5):
        picture(root / "images" / f"{n}.png", n)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("cat\ndog")
    for n, line in enumerate(["0 .5 .5 .2 .2", "1 .5 .5 .2 .2", "0 .5 .5 .2 .2\n2 .5 .5 .1 .1"] + ["0 .5 .5 1 1"] * 3):
        (root / "labels" / f"{n}.txt").write_text("\n".join(map(scaled, line.splitlines())))


def masks(root: Path) -> None:
    for n in range(5):
        picture(root / "images" / f"{n}.png", n)
        (root / "masks").mkdir(exist_ok=True)
        mask = Image.new("L", (50, 40))
        mask.paste(1, (0, 0, 9, 9))
        mask.save(root / "masks" / f"{n}.png")
    (root / "masks" / "4.png").rename(root / "masks" / "5.png")


def tiny(root: Path) -> None:
    """Tiny ImageNet of two classes; one box for a file that there is not, and one of a class that there is not."""
    (root / "wnids.txt").parent.mkdir()
    (root / "wnids.txt").write_text("n1\nn2")
    for name in ("n1", "n2"):
        for n in range(3):
            Image.new("RGB", (64, 64), (n, 0, int(name[1]))).save(
                picture(root / "train" / name / "images" / f"{name}_{n}.JPEG")
            )
        lines = [f"{name}_{n}.JPEG\t0\t0\t62\t62" for n in range(4 if name == "n1" else 3)]
        (root / "train" / name / f"{name}_boxes.txt").write_text("\n".join(lines))
    for n in range(2):
        Image.new("RGB", (64, 64), (n, 9, 9)).save(picture(root / "val" / "images" / f"val_{n}.JPEG"))
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn1\t0\t0\t9\t9\nval_1.JPEG\tn3\t0\t0\t9\t9")


def image(number: int, name: str) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 50, "height": 40}


def cat(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 0, "category_id": 7, "bbox": [1, 2, 3, 4]} | more


SEVERAL = [image(n, f"{n}.png") for n in range(5)]
REFUSED: dict[str, tuple[Callable[[Path], None], list[str]]] = {  # what training refuses, and what the answer must say
    "images that COCO's file names are not there, more than are shown": (
        lambda root: coco(root, images=SEVERAL + [image(n, f"gone{n}.png") for n in range(5, 30)]),
        [
            "25 fault(s), for which training refuses the data:",
            "instances.json: it names the image 'gone5.png', but ",
            "and 5 more (--json shows all)",
            "annotation 4: its id 3 stands twice",
        ],
    ),
    "images and categories of COCO's with one id": (
        lambda root: coco(
            root,
            images=[*SEVERAL, image(3, "9.png")],
            categories=[{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}],
        ),
        [
            "instances.json: images[5]: it has the id 3, which another one has too",
            "instances.json: categories[1]: it has the id 7",
            "annotation 4: its id 3 stands twice",
        ],
    ),
    "a list of VOC's names images that are not there": (
        lambda root: voc(root, listed="a\nb\nx\ny", name="unicorn"),
        [
            "VOC2007/ImageSets/Main/train.txt: it lists x, but there is no JPEGImages/x.jpg",
            "VOC2007/ImageSets/Main/train.txt: it lists y, but there is no JPEGImages/y.jpg",
            "a.xml: object 1: <name> is 'unicorn'",
        ],
    ),
    "no usable box": (
        lambda root: coco(root, annotations=[cat(0, category_id=8)]),
        ["no object to be found", "instances.json: annotation 0: category_id 8 is none of the file's categories"],
    ),
    "YOLO's labels in pixels": (
        lambda root: yolo(root, scale=(50, 40)),
        [
            "these look like pixels; YOLO wants fractions of width and height, 0 to 1: divide by 50 and 40",
            "2 note(s):",
            "image(s), such as images/0.png, stay without any object, as background: every object that",
            "images/1.png (all that were told of were left out)",
        ],
    ),
}
TOLD: dict[str, tuple[Callable[[Path], None], list[str]]] = {  # what is left out, and the problem that is listed
    "objects of COCO's for an image and a category that there are not, and with an id twice": (
        lambda root: coco(root, annotations=[cat(0), cat(1, image_id=99), cat(2, category_id=8), cat(0)]),
        [
            "3 problem(s):",
            "instances.json: annotation 1: image_id 99 is none of the file's images",
            "instances.json: annotation 2: category_id 8 is none of the file's categories",
            "instances.json: annotation 3: its id 0 stands twice",
        ],
    ),
    "an object of VOC's of an unknown class": (
        lambda root: voc(root, name="unicorn"),
        [
            "VOC2007/Annotations/a.xml: object 1: <name> is 'unicorn', none of the 20 classes",
            "without objects in train",
        ],
    ),
    "a line of YOLO's of an unknown class, and for an image that there is not": (
        yolo,
        [
            "labels/2.txt: line 2: class '2' is none of the 2 classes, which count from 0",
            "labels/5.txt: it describes an image that is not there",
            "whole      2 box(es) cover nearly all of their image",
        ],
    ),
    "boxes of VOC's that reach over their image": (
        lambda root: voc(root, corner=400),
        [
            "4 box(es) that reach over their image and were cut to it:",
            "train: VOC2007/a: cat, 50x40 at 0, 0, after 360 pixels beyond the border",
        ],
    ),
    "a box of COCO's that reaches over its image": (
        lambda root: coco(root, annotations=[cat(0, bbox=[20, 2, 3000, 4]), cat(1)]),
        ["1 box(es) that reach over", "0.png: \\x1b[2Jcat, 30x4 at 20, 2, after 2,970 pixels beyond the border"],
    ),
    "images that became background": (
        lambda root: coco(root, annotations=[cat(0), cat(1), cat(2, image_id=1, category_id=8)]),
        [
            "1 note(s):\n  train: 1 image(s), such as 1.png, stay without any object",
            "1.png (all that were told of were left out)",
        ],
    ),
    "a mask of an image that there is not": (
        masks,
        ["masks/5.png: it masks an image that is not there", "images/4.png: ", "masks      can be learned"],
    ),
    "boxes of Tiny ImageNet's for a file and of a class that there are not": (
        tiny,
        [
            "train/n1/n1_boxes.txt: line 4: it tells of n1_3.JPEG, which is not there",
            "val/val_annotations.txt: line 2: the class 'n3' is none of wnids.txt",
        ],
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_faults_for_which_training_refuses_objects_are_listed_with_the_rest(
    say: Callable[..., Any], tmp_path: Path, what: str
):
    make, told = REFUSED[what]
    make(tmp_path / "data")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert (said.code, said.err) == (2, "")
    for words in told:
        assert words in said.out
    assert said.out.splitlines()[-1] == f"Next: residual data check {tmp_path / 'data'}"


@pytest.mark.parametrize("what", TOLD)
def test_what_is_wrong_with_objects_is_listed(say: Callable[..., Any], tmp_path: Path, what: str):
    make, told = TOLD[what]
    make(tmp_path / "data")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "\x1b" not in said.out
    for words in told:
        assert words in said.out
    assert said.out.splitlines()[-1].startswith("Next: residual train --model ")


def test_json_of_a_check_of_objects_has_what_is_printed(say: Callable[..., Any], tmp_path: Path):
    voc(tmp_path / "data", name="unicorn")
    found = json.loads(say("data", "check", tmp_path / "data", "--json", *QUIET).out)
    assert {split: (part["images"], part["objects"]) for split, part in found["parts"].items()} == {
        "train": (3, 2), "validation": (1, 1),
    }  # fmt: skip
    assert [problem["path"] for problem in found["problems"]] == ["VOC2007/Annotations/a.xml"]
    assert [note[:18] for note in found["notes"]] == ["train: 1 image(s),"]


def test_lists_of_voc_are_chosen(say: Callable[..., Any], tmp_path: Path):
    voc(tmp_path / "data")
    said = say("data", "check", tmp_path / "data", "--lists", "2007:val/2007:train", *QUIET)
    assert "  train      1 images, 1 objects of 20 classes" in said.out
    assert said.out.splitlines()[-1].endswith(f"--data {tmp_path / 'data'} --lists 2007:val/2007:train")


def test_an_image_in_two_splits_is_told(say: Callable[..., Any], tmp_path: Path):
    voc(tmp_path / "data")
    images = tmp_path / "data" / "VOC2007" / "JPEGImages"
    shutil.copy(images / "b.jpg", images / "d.jpg")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert "train: VOC2007/b = validation: VOC2007/d" in said.out
    assert "1 of these stand in two splits: what is trained on would be tested on." in said.out


def test_tiny_imagenet_with_its_images_in_folders_by_class_is_checked_as_such(say: Callable[..., Any], tmp_path: Path):
    tiny(tmp_path / "data")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert "train      6 images, 6 objects of 2 classes" in said.out
    assert said.out.splitlines()[-1].startswith("Next: residual train --model localizer_small ")
    for name in ("n1", "n2"):
        place = tmp_path / "data" / "val" / name
        place.mkdir()
        shutil.move(tmp_path / "data" / "val" / "images" / f"val_{int(name[1]) - 1}.JPEG", place)
    (tmp_path / "data" / "val" / "images").rmdir()
    assert "train      6 images of 2 classes" in say("data", "check", tmp_path / "data", *QUIET).out


def test_folders_of_classes_have_no_objects_to_look_at(say: Callable[..., Any], cats_and_dogs: Path):
    (cats_and_dogs / "about.json").write_text('{"images": "of cats and dogs"}')
    assert "images of 2 classes" in say("data", "check", cats_and_dogs, *QUIET).out
    said = say("data", "check", cats_and_dogs, "--lists", "07", *QUIET)
    assert said.code == 2
    assert "about.json is not a COCO file" in said.err


@pytest.mark.parametrize(
    ("make", "size", "gpu", "model"),
    [
        (masks, (50, 40), False, "mask_rcnn_small_c4 (small images, few images, no GPU here)"),
        (voc, (300, 200), False, "faster_rcnn_small_c4 (few images, no GPU here)"),
        (voc, (300, 200), True, "faster_rcnn_resnet50_fpn (many large images, and a GPU)"),
        (masks, (300, 200), True, "mask_rcnn_resnet50_fpn (many large images, and a GPU)"),
        (tiny, (64, 64), False, "localizer_small (one class on an image; small images, few images, no GPU here)"),
    ],
)
def test_a_detector_is_suggested_that_suits_the_data_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], None], size: tuple[int, int], gpu: bool,
    model: str,
):  # fmt: skip
    make(tmp_path / "data")
    found = check_objects(open_objects(str(tmp_path / "data")))
    found = replace(found, one_class=make is tiny, sizes={f"{size[0]}x{size[1]}": sum(found.sizes.values())})
    accelerated(monkeypatch, gpu)
    monkeypatch.setattr(check, "FEW_TO_DETECT", 0 if gpu else 1_000)
    (name, *_), why = check.suggested_detector(found)
    assert f"{name} ({why})" == model


def test_many_small_objects_on_large_images_are_learned_from_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    masks(tmp_path / "data")
    found = check_objects(open_objects(str(tmp_path / "data")))
    monkeypatch.setattr(check, "CROWDED", 1)
    words, why = check.suggested_detector(replace(found, sizes={"1000x800": 4}))
    assert words == ("mask_rcnn_small_fpn", "--recipe", "windows")
    assert why.startswith("many small objects on large images; ")
