"""YOLO's folders: lines become boxes, whatever the layout; what a line has wrong is told."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.yolo import is_yolo, read_lines, read_yolo

Draw = Callable[..., Path]


def test_a_line_is_a_class_a_centre_and_sides_in_shares():
    found, left_out = read_lines("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.1 0.4 0.4\n", 2, height=40, width=50)
    assert found.boxes == pytest.approx(np.array([[20, 12, 30, 28], [0, 0, 15, 12]]))
    assert found.labels.tolist() == [1, 0]
    assert not left_out
    assert found.outlines is None


def test_a_longer_line_is_a_polygon():
    found, _ = read_lines("0 0.2 0.25 0.6 0.25 0.6 0.75", 1, height=40, width=50)
    assert found.boxes.tolist() == [[10, 10, 30, 30]]
    assert found.outlines is not None
    assert found.outlines[0] is not None
    assert found.outlines[0].parts[0].tolist() == [[10, 10], [30, 10], [30, 30]]


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.5 0.5 5 0.4", [0, 12, 50, 28]),
        ("0 0.5 0.5 0.2 5", [20, 0, 30, 40]),
        ("0 0.5 0.5 5 6", None),
        ("0 20 0.5 1 0.4", None),
    ],
)
def test_one_side_far_beyond_the_image_is_cut_to_it_and_more_are_pixels(line: str, box: list[float] | None):
    found, left_out = read_lines(line, 1, 40, 50)
    assert found.boxes.tolist() == ([] if box is None else [pytest.approx(box)])
    assert ["look like pixels" in reason for reason in left_out] == [True] * (box is None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2 0.5 0.5 0.2 0.4", "class '2' is none of the 2 classes"),
        ("-1 0.5 0.5 0.2 0.4", "class '-1' is none"),
        ("0000000009 0.5 0.5 0.2 0.4", "is none of the 2"),
        ("cat 0.5 0.5 0.2 0.4", "class 'cat' is none"),
        ("0 0.5 0.5 0.2", "3 numbers after the class"),
        ("0", "0 numbers after the class"),
        ("0 0.5 0.5 0.2 x", "no number"),
        ("0 0.5 0.5 -0.2 0.4", "ends before it begins"),
        ("0 nan 0.5 0.2 0.4", "not finite"),
        ("0 3.5 0.5 0.2 0.4", "less than a square pixel"),
        ("0 0.1 0.1 0.2 0.2 nan 0.4", "not finite"),
        ("0 0.1 0.1 0.2 0.2 inf 0.4", "not finite"),
        ("0 0.1 0.1 0.2 0.2 1e308 0.4", "look like pixels"),
        (
            "0 25 20 10 8",
            "these look like pixels; YOLO wants fractions of width and height, 0 to 1: divide by 50",
        ),
        ("0 5 4 30 4 30 20", "these look like pixels; YOLO wants fractions of width and height"),
    ],
)
def test_a_line_that_is_wrong_is_left_out_with_its_reason(line: str, reason: str):
    found, left_out = read_lines("1 0.5 0.5 0.2 0.4\n" + line, 2, 40, 50)
    assert len(found) == 1
    assert left_out[0].startswith("line 2: ")
    assert reason in left_out[0]


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=60) | st.lists(st.floats() | st.integers(), max_size=9).map(lambda v: " ".join(map(str, v)))
)
def test_whatever_a_file_says_boxes_are_finite_and_on_the_image(text: str):
    found, left_out = read_lines(text, 3, 40, 50)
    assert len(found) + len(left_out) == len([line for line in text.splitlines() if line.strip()])
    assert np.isfinite(found.boxes).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [50, 40, 50, 40]).all()


LAYOUTS = {
    "images above splits": ("images/train", "images/val", "labels/train", "labels/val"),
    "splits above images": ("train/images", "valid/images", "train/labels", "valid/labels"),
}


def made(root: Path, draw: Draw, layout: str) -> Path:
    first, second, told, told_too = LAYOUTS[layout]
    for number, (folder, lines) in enumerate(((first, told), (second, told_too))):
        draw(root / folder / "a.png", seed=number, size=(50, 40))
        draw(root / folder / "b.jpg", seed=number, size=(50, 40))
        (root / lines).mkdir(parents=True)
        (root / lines / "a.txt").write_text("1 0.5 0.5 0.2 0.4\n")
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "described", ["yaml list", "yaml numbers", "yaml with places", "yaml with parent places", "classes.txt"]
)
def test_every_layout_gives_the_same(tmp_path: Path, draw: Draw, layout: str, described: str):
    root = made(tmp_path, draw, layout)
    first, second = LAYOUTS[layout][:2]
    descriptions = {
        "yaml list": "names: [cat, dog]\nnc: 2\n",
        "yaml numbers": "names:\n  0: cat\n  1: dog\n",
        "yaml with places": f"path: .\ntrain: {first}\nval: [{second}]\ntest:\nnames: [cat, dog]\n",
        "yaml with parent places": f"train: ../{first}\nval: ../{second}\nnames: [cat, dog]\n",
    }
    if described == "classes.txt":
        (root / "classes.txt").write_text("cat\ndog\n")
    else:
        (root / "data.yaml").write_text(descriptions[described])
    assert is_yolo(root)
    found = read_yolo(root)
    assert list(found) == ["train", "validation"]
    for split, folder in (("train", first), ("validation", second)):
        images = found[split]
        assert images.names == (f"{folder}/a.png", f"{folder}/b.jpg")
        assert images.classes == ("cat", "dog")
        assert images.sizes == ((40, 50), (40, 50))
        assert [here.boxes.tolist() for here in images.objects] == [[[20, 12, 30, 28]], []]
        assert not images.problems


def test_a_list_of_images_is_a_split(tmp_path: Path, draw: Draw):
    root = made(tmp_path, draw, "images above splits")
    (root / "mine.txt").write_text("./images/train/a.png\nimages/val/b.jpg\n")
    (root / "data.yaml").write_text("train: mine.txt\nnames: [cat, dog]\n")
    assert read_yolo(root)["train"].names == ("images/train/a.png", "images/val/b.jpg")


def test_bad_images_and_lonely_labels_are_listed(tmp_path: Path, draw: Draw):
    root = made(tmp_path, draw, "images above splits")
    (root / "classes.txt").write_text("cat\ndog\n")
    (root / "images/train/c.png").write_bytes(b"no image")
    (root / "labels/train/gone.txt").write_text("0 0.5 0.5 0.2 0.4\n")
    (root / "labels/train/b.txt").write_text("7 0.5 0.5 0.2 0.4\n")
    problems = {one.path: one.reason for one in read_yolo(root)["train"].problems}
    assert problems.keys() == {"images/train/c.png", "labels/train/gone.txt", "labels/train/b.txt"}
    assert "not an image" in problems["images/train/c.png"]
    assert "image that is not there" in problems["labels/train/gone.txt"]
    assert "none of the 2 classes" in problems["labels/train/b.txt"]


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("names: [cat, cat]", "twice"),
        ("names: {0: cat, 2: dog}", "numbers from 0"),
        ("names: 3", "not a list"),
        ("- cat", "holds a list"),
        ("names: [cat\n", "not YAML"),
        ("names: !!python/object/apply:os.system ['true']", "not YAML"),
        ("train: images/nowhere\nnames: [cat]", "there is no"),
        ("train: /etc\nnames: [cat]", "leads out of"),
        ("train: ../../etc\nnames: [cat]", "leads out of"),
        ("train: 3\nnames: [cat]", "which is no path"),
        ("train: images/train", "does not name its classes"),
        ("a: &a cat\nnames: [*a, dog]", "aliases or merge keys"),
        ("a: {b: c}\n<<: {d: e}\nnames: [cat]", "aliases or merge keys"),
        ("names: !!int ''", "not YAML"),
        ("names: !!timestamp cat", "not YAML"),
        ("names: !!bool cat", "not YAML"),
        (f"names: [1{':1' * 200}.5]", "not YAML"),
    ],
)
def test_a_description_that_is_wrong_is_refused(tmp_path: Path, draw: Draw, told: str, reason: str):
    root = made(tmp_path, draw, "images above splits")
    (root / "data.yaml").write_text(told)
    with pytest.raises(ValueError, match=reason):
        read_yolo(root)


@pytest.mark.parametrize("number", ["1{}", "!!int '1{}'"])
@pytest.mark.parametrize(("count", "reason"), [(100_000, "of 200,001 letters"), (200_000, "larger than 262,144 bytes")])
def test_a_description_of_one_endless_number_is_refused_soon(
    tmp_path: Path, draw: Draw, number: str, count: int, reason: str
):
    root = made(tmp_path, draw, "images above splits")
    (root / "data.yaml").write_text(f"names: [cat, {number.format(':1' * count)}]")  # to base 60
    began = time.monotonic()
    with pytest.raises(ValueError, match=reason):
        read_yolo(root)
    assert time.monotonic() - began < 2


def test_a_long_script_in_a_description_is_passed_over(tmp_path: Path, draw: Draw):
    root = made(tmp_path, draw, "images above splits")
    (root / "data.yaml").write_text("names: [cat, dog]\ndownload: |\n" + "  print('fetched')\n" * 500)
    assert read_yolo(root)["train"].classes == ("cat", "dog")


@pytest.mark.parametrize("link", ["[{0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}]}}"])
def test_a_description_of_aliases_that_multiply_is_refused_at_once(tmp_path: Path, draw: Draw, link: str):
    root = made(tmp_path, draw, "images above splits")
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {link.format(f'*a{n - 1}')}" for n in range(1, 12)]
    (root / "data.yaml").write_text("\n".join(lines) + "\nnames: *a11\n")
    began = time.monotonic()
    with pytest.raises(ValueError, match="aliases or merge keys"):
        read_yolo(root)
    assert time.monotonic() - began < 1


def test_of_two_descriptions_one_is_chosen(tmp_path: Path, draw: Draw):
    root = made(tmp_path, draw, "images above splits")
    for name in ("pets", "others"):
        (root / f"{name}.yaml").write_text(f"names: [{name}, more]")
    assert read_yolo(root, root / "pets.yaml")["train"].classes == ("pets", "more")
    with pytest.raises(ValueError, match="2 YAML files and none is data"):
        read_yolo(root)
