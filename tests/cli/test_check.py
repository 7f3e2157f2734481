import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

QUIET = ("--workers", "0")


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
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet18 --data {untidy}"


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
    assert (said.code, said.err) == (0, "")
    for told in ("class 'eel' has no image", "class 'newt' has no image", "bad.png: ", "again.png", "from 0 (eel)"):
        assert told in said.out


def test_a_folder_is_packed_and_the_pack_is_data(say: Callable[..., Any], untidy: Path, tmp_path: Path):
    target = tmp_path / "packed"
    said = say("data", "pack", untidy, target, "--shorter", "16", *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "shrunk     to a shorter side of 16 pixels at most, as JPEG of quality 90" in said.out
    assert "bad.png: " in said.out
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet50 --data {target}"
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
    """Five images with a cat on each, whose name would move the cursor."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 50, "height": 40} for n in range(5)]
    for n, image in enumerate(images):
        picture(root / "images" / image["file_name"], n)
    objects = [{"id": n, "image_id": n, "category_id": 7, "bbox": [1, 2, 30, 30]} for n in range(5)]
    told = {"images": images, "categories": [{"id": 7, "name": "\x1b[2Jcat"}], "annotations": objects} | changes
    (root / "annotations").mkdir()
    (root / "annotations" / "instances.json").write_text(json.dumps(told))


def voc(root: Path, *, listed: str = "a\nb\nc", name: str = "cat") -> None:
    """Three images in train and val, the first in both folders with an object called `name`."""
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
            f"<annotation>{size}{thing}<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
        )


def yolo(root: Path) -> None:
    """Five images; a line of a class that there is not, and a text for an image that there is not."""
    for n in range(5):
        picture(root / "images" / f"{n}.png", n)
    (root / "labels").mkdir()
    (root / "classes.txt").write_text("cat\ndog")
    for n, line in enumerate(["0 .5 .5 .2 .2", "1 .5 .5 .2 .2", "0 .5 .5 .2 .2\n2 .5 .5 .1 .1"] + ["0 .5 .5 1 1"] * 3):
        (root / "labels" / f"{n}.txt").write_text(line)


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


REFUSED: dict[str, tuple[Callable[[Path], None], list[str]]] = {  # what is wrong, and what the answer must say
    "an image that COCO's file names is not there": (
        lambda root: coco(root, images=[image(0, "0.png"), image(1, "gone.png")], annotations=[cat(0)]),
        ["instances.json names the image 'gone.png'", "add them or remove their entries"],
    ),
    "two images of COCO's with one id": (
        lambda root: coco(root, images=[image(3, "0.png"), image(3, "1.png")]),
        ["instances.json: images[1] has the id 3, which another one has too"],
    ),
    "two categories of COCO's with one id": (
        lambda root: coco(root, categories=[{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]),
        ["instances.json: categories[1] has the id 7"],
    ),
    "a list of VOC's names an image that is not there": (
        lambda root: voc(root, listed="a\nx\ny"),
        ["train.txt lists x", "x.jpg, nor images for 1 more of its 3 names", "shorten the list"],
    ),
    "no usable box": (
        lambda root: coco(root, annotations=[cat(0, category_id=8)]),
        ["no object to be found", "instances.json: annotation 0: category_id 8 is none of the file's categories"],
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
        ["VOC2007/Annotations/a.xml: object 1: <name> is 'unicorn', none of the 20 classes", "train: VOC2007/a"],
    ),
    "a line of YOLO's of an unknown class, and for an image that there is not": (
        yolo,
        [
            "labels/2.txt: line 2: class '2' is none of the 2 classes, which count from 0",
            "labels/5.txt: it describes an image that is not there",
            "whole      2 box(es) cover nearly all of their image",
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
def test_data_with_objects_whose_frame_is_wrong_is_refused(say: Callable[..., Any], tmp_path: Path, what: str):
    make, told = REFUSED[what]
    make(tmp_path / "data")
    said = say("data", "check", tmp_path / "data", *QUIET)
    assert (said.code, said.out) == (2, "")
    for words in told:
        assert words in said.err


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
    assert said.out.splitlines()[-1].startswith("Next: residual train --model localizer_resnet101 ")
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
