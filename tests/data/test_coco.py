"""COCO's JSON, believed only as far as it makes sense."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data import coco
from residual.data.coco import read_coco

TOLD = {
    "images": [{"id": 7, "file_name": "a.jpg", "height": 40, "width": 50}],
    "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 5, 10.5, 25], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 50, 40], "iscrowd": 1},
    ],
}


def written(folder: Path, told: Any) -> Path:
    (folder / "a.jpg").touch()
    path = folder / "instances.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


def changed(part: str, **changes: Any) -> dict[str, Any]:
    told = copy.deepcopy(TOLD)
    told[part][0] |= changes
    return told


def test_boxes_labels_and_crowds_are_read(tmp_path: Path):
    found = read_coco(written(tmp_path, TOLD))
    assert found.classes == ("cat", "dog")
    assert found.objects[0].boxes.tolist() == [[10, 5, 20.5, 30], [0, 0, 50, 40]]
    assert found.objects[0].labels.tolist() == [1, 0]
    assert found.objects[0].aside.tolist() == [False, True]
    assert found.sizes == ((40, 50),)


def test_outlines_are_kept_as_outlines_and_areas_as_told(tmp_path: Path):
    outline = {"segmentation": [[10, 5, 20, 5, 20, 30]], "area": 125.0}
    here = read_coco(written(tmp_path, changed("annotations", **outline))).objects[0]
    assert here.masks is None
    assert here.outlines is not None
    assert here.outlines[0] is not None
    assert here.outlines[1] is None
    assert here.areas.tolist() == [125, 2000]


def test_an_image_without_annotations_stays_and_has_no_objects(tmp_path: Path):
    found = read_coco(written(tmp_path, TOLD | {"annotations": []}))
    assert len(found) == 1
    assert len(found.objects[0]) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": 8}, "image_id 8 is none"),
        ({"category_id": 9}, "category_id 9 is none"),
        ({"image_id": True}, "image_id is True, not a whole number"),
        ({"id": 2}, "id 2 stands twice"),
        ({"bbox": [1, 2, 3]}, "not four numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "not four numbers"),
        ({"bbox": [1, 2, 3, True]}, "not four numbers"),
        ({"bbox": [1, 2, float("nan"), 4]}, "not finite"),
        ({"bbox": [1, 2, 10**400, 4]}, "beyond all numbers"),
        ({"bbox": [1, 2, -3, 4]}, "ends before it begins"),
        ({"bbox": [100, 2, 3, 4]}, "less than a square pixel"),
        ({"iscrowd": 2}, "iscrowd is 2"),
        ({"area": -1}, "area is -1"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three corners or more"),
        ({"segmentation": {"size": [40, 50], "counts": [1]}}, "do not add up"),
    ],
)
def test_a_wrong_annotation_is_left_out_with_its_reason(tmp_path: Path, changes: dict[str, Any], reason: str):
    found = read_coco(written(tmp_path, changed("annotations", **changes)))
    assert len(found.problems) == 1
    assert reason in found.problems[0].reason
    assert len(found.objects[0]) == 1


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a COCO file"),
        ('{"images": 3}', "no list 'images'"),
        (TOLD | {"images": []}, "has no images"),
        (TOLD | {"images": TOLD["images"] * 2}, "which another one has too"),
        (
            TOLD | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]},
            "called 'cat', as another one is",
        ),
        (
            TOLD | {"images": [*TOLD["images"], TOLD["images"][0] | {"id": 8}]},
            "called 'a.jpg', as another one is",
        ),
        (TOLD | {"annotations": [0] * 50_001}, "more than 50,000 annotations that are wrong"),
        (changed("images", height=0), "the height 0"),
        (changed("images", width=1e5), "the width 100000.0"),
        (changed("images", file_name="../../a.jpg"), "leads out of the folder"),
        (changed("images", file_name="b.jpg"), "names the image 'b.jpg'"),
        (changed("images", id="7"), "has no whole number as its id"),
    ],
)
def test_a_file_whose_frame_is_wrong_is_refused(tmp_path: Path, told: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        read_coco(written(tmp_path, told))


def test_all_that_is_wrong_with_a_frame_is_told_at_once_and_the_rest_is_counted(tmp_path: Path):
    told = copy.deepcopy(TOLD)
    told["categories"] += [{"id": 3, "name": "eel"}, {"id": 4}]
    told["images"] += [{"id": 8 + n, "file_name": f"{n}.jpg", "height": 40, "width": 50} for n in range(9)]
    path = written(tmp_path, told)
    with pytest.raises(ValueError) as refused:
        read_coco(path)
    more = "and 6 more, which `residual data check --json` lists; add the images, mend"
    for words in ("categories[2]: it has the id 3", "categories[3]: it has no name", "'0.jpg'", more):
        assert words in str(refused.value)
    found = read_coco(path, lenient=True)
    assert len(found.faults) == 11
    assert found.names == ("a.jpg",)
    assert found.objects[0].labels.tolist() == [1, 0]


def several(folder: Path, *places: tuple[str, str]) -> Path:
    """Four images told of by annotations/instances_train.json; places: folders and the names of those in them."""
    for place, names in places:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / place / f"{name}.jpg").touch()
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / "instances_train.json"
    told = [TOLD["images"][0] | {"id": 7 + n, "file_name": f"{name}.jpg"} for n, name in enumerate("abcd")]
    path.write_text(json.dumps(TOLD | {"images": told}))
    return path


@pytest.mark.parametrize(
    ("places", "taken"),
    [
        ([("annotations", "a"), ("images", "abcd")], "images"),
        ([("images", "abcd"), ("train", "abcd")], "images"),
        ([("images", "ab"), ("train", "abc")], "train"),
        ([("images", "ab"), ("train", "cd")], "images"),
    ],
)
def test_of_folders_that_hold_images_the_one_with_most_is_taken(tmp_path: Path, places: Any, taken: str):
    found = read_coco(several(tmp_path, *places), lenient=True)
    assert {path.parent for path in found.paths} == {tmp_path / taken}


def test_the_way_out_is_told_for_images_that_are_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match=r"images has none; add the images, mend these entries, or remove them$"):
        read_coco(several(tmp_path, ("images", "abc")))
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(ValueError, match=r"images/train; put the images into one of these folders$"):
        read_coco(several(tmp_path / "nowhere"))


def test_nobody_is_sent_to_look_at_data_that_cannot_be_looked_at(tmp_path: Path):
    categories = [{"id": number} for number in range(7)]
    path = written(tmp_path, TOLD | {"categories": categories})
    for lenient in (False, True):
        with pytest.raises(ValueError, match="and 2 more; mend these entries, or remove them"):
            read_coco(path, lenient=lenient)


def test_a_box_that_reaches_over_its_image_says_by_how_much(tmp_path: Path):
    here = read_coco(written(tmp_path, changed("annotations", bbox=[-8, 5, 30, 60]))).objects[0]
    assert here.boxes.tolist() == [[0, 5, 22, 40], [0, 0, 50, 40]]
    assert here.over.tolist() == [25, 0]
    assert here.select(np.array([1])).over.tolist() == [0]


@pytest.mark.parametrize(("bracket", "most", "what"), [(b"{", 4, "images and annotations"), (b"[", 4, "lists")])
def test_more_than_memory_may_hold_is_refused_before_it_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bracket: bytes, most: int, what: str
):
    path = written(tmp_path, TOLD)
    monkeypatch.setattr(coco.json, "loads", lambda data: pytest.fail("it was parsed"))
    monkeypatch.setitem(coco.MOST, bracket, most)
    with pytest.raises(ValueError, match=f"has . {what}.*, more than 4.*split it"):
        read_coco(path)


def test_a_file_of_half_a_gigabyte_is_not_opened(tmp_path: Path):
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate((1 << 29) + 1)
    with pytest.raises(ValueError, match="larger than 536,870,912 bytes"):
        read_coco(tmp_path / "a.json")


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4), max_leaves=6)
annotations = st.fixed_dictionaries(
    {},
    optional={name: values | st.integers(0, 8) for name in ("id", "image_id", "category_id", "iscrowd")}
    | {"bbox": values | st.lists(st.floats() | st.integers(), min_size=4, max_size=4)},
)


@settings(max_examples=200, deadline=None)
@given(told=st.lists(annotations | values, max_size=5))
def test_whatever_the_annotations_say_boxes_are_finite_and_on_the_image(tmp_path_factory, told):
    folder = tmp_path_factory.getbasetemp()
    found = read_coco(written(folder, TOLD | {"annotations": told}))
    boxes = found.objects[0].boxes
    assert len(boxes) + len(found.problems) == len(told)
    assert np.isfinite(boxes).all()
    assert (boxes >= 0).all()
    assert (boxes <= [50, 40, 50, 40]).all()
    assert ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) >= 1).all()


def test_the_real_thing_is_read_whole(shared_data: Path):
    found = read_coco(shared_data / "coco_small" / "annotations" / "instances_val.json")
    told = json.loads((shared_data / "coco_small" / "annotations" / "instances_val.json").read_text())
    assert len(found) == 20
    assert len(found.classes) == len(told["categories"])
    assert sum(map(len, found.objects)) + len(found.problems) == len(told["annotations"])
    assert not found.problems
