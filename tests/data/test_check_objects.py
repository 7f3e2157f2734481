"""What is told of images with objects before training, on data whose faults are known."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from residual.data.check_objects import FEW, ObjectCheck, best_overlaps, check_objects
from residual.data.open_objects import open_objects
from residual.detect.anchors import anchors

Draw = Callable[..., Path]
OUTLINE = [[0, 0, 9, 0, 9, 9]]


def coco(root: Path, draw: Draw, split: str, objects: list[list[dict[str, Any]]], seed: int = 0) -> None:
    """An image of 100 x 80 pixels for each list of objects."""
    images = [{"id": n, "file_name": f"{split}{n}.png", "width": 100, "height": 80} for n in range(len(objects))]
    for n, image in enumerate(images):
        draw(root / "images" / image["file_name"], seed=seed + n, size=(100, 80))
    told = [{"image_id": n, "category_id": 1} | one for n, here in enumerate(objects) for one in here]
    file = root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        json.dumps(
            {
                "images": images,
                "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
                "annotations": [one | {"id": n} for n, one in enumerate(told)],
            }
        )
    )


def box(*corner_and_size: float, **more: Any) -> dict[str, Any]:
    return {"bbox": list(corner_and_size), "segmentation": OUTLINE} | more


@pytest.fixture
def untidy(tmp_path: Path, draw: Draw) -> ObjectCheck:
    """Four training images and two for validation, one of which is also trained on."""
    twice = box(10, 10, 40, 30)
    crowd = box(0, 0, 30, 30, iscrowd=1)
    train = [[twice, twice, crowd], [box(0, 0, 99, 80, category_id=2)], [], [box(1, 1, 10, 10), box(90, 0, -3, 5)]]
    coco(tmp_path, draw, "train", train)
    validation = [[crowd], [box(0, 0, 2, 3, segmentation=[], category_id=9), box(5, 5, 50, 50)]]
    coco(tmp_path, draw, "val", validation, seed=9)
    shutil.copy(tmp_path / "images" / "train0.png", tmp_path / "images" / "val1.png")
    return check_objects(open_objects(str(tmp_path)))


def test_images_and_objects_are_counted_by_split_and_class(untidy: ObjectCheck):
    train, validation = untidy.parts["train"], untidy.parts["validation"]
    assert (train.images, train.objects, train.aside, train.most, train.fullest) == (4, 4, 1, 3, "train0.png")
    assert asdict(train)["classes"] == {
        "cat": {"images": 2, "objects": 3, "aside": 1}, "dog": {"images": 1, "objects": 1, "aside": 0},
    }  # fmt: skip
    assert asdict(validation)["classes"]["cat"] == {"images": 1, "objects": 1, "aside": 1}
    assert train.areas == {"small": 1, "medium": 3, "large": 0}
    assert untidy.sizes == {"100x80": 6}
    assert untidy.few == {"cat": 3, "dog": 1}
    assert not untidy.one_class  # one image has no object, which no localizer can learn from


def test_what_is_odd_is_named(untidy: ObjectCheck):
    assert untidy.parts["train"].empty == ("train2.png",)
    assert [(one.name, one.label, one.size) for one in untidy.whole] == [("train1.png", "dog", "99x80")]
    assert [(one.name, one.box) for one in untidy.repeated] == [("train0.png", (10, 10, 50, 40))]
    assert [(one.splits, one.names) for one in untidy.equal] == [(("train", "validation"), ("train0.png", "val1.png"))]
    assert untidy.equal[0].across_splits
    assert (untidy.smallest.size, untidy.largest.size) == ("10x10", "99x80")
    assert {problem.path: problem.reason for problem in untidy.problems} == {
        "instances_train.json: annotation 5": "box (90.0, 0.0, 87.0, 5.0) ends before it begins; it must be left, top, "
        "right, bottom",
        "instances_val.json: annotation 1": "category_id 9 is none of the file's categories",
    }
    assert untidy.kinds["category_id ... is none of the file's categories"] == 1


def test_boxes_that_reach_over_their_image_are_named_and_cut(tmp_path: Path, draw: Draw):
    here = [[box(90, 70, 400, 5), box(-20, -7, 30, 30)], [box(-1, 0, 102, 81), box(1, 1, 9, 9)]]
    coco(tmp_path, draw, "train", here)
    coco(tmp_path, draw, "val", [[box(1, 1, 9, 9)]])
    found = check_objects(open_objects(str(tmp_path)))
    assert [(one.name, one.box, one.over) for one in found.cut] == [
        ("train0.png", (90, 70, 100, 75), 390),
        ("train0.png", (0, 0, 10, 23), 20),
    ]  # a pixel more or less is a matter of counting
    assert not found.problems


def test_images_whose_objects_were_all_left_out_are_counted_by_the_reader_and_named(tmp_path: Path, draw: Draw):
    here = [[box(1, 1, 9, 9)], [box(1, 1, 9, 9, category_id=7)] * 2, [], [box(200, 1, 9, 9)]]
    coco(tmp_path, draw, "train", here)
    coco(tmp_path, draw, "val", [[box(1, 1, 9, 9)]])
    data = open_objects(str(tmp_path))
    assert [problem.path.split(":")[0] for problem in data.problems] == ["instances_train.json"] * 3
    found = check_objects(data)
    (note,) = found.notes
    assert note.startswith("train: 2 image(s), such as train1.png, stay without any object, as background: every")
    part = found.parts["train"]
    assert part.empty == ("train1.png", "train2.png", "train3.png")
    assert part.emptied == ("train1.png", "train3.png")


def test_data_that_training_refuses_is_looked_at_all_the_same(tmp_path: Path, draw: Draw):
    coco(tmp_path, draw, "train", [[box(1, 1, 9, 9, category_id=7)], []])
    coco(tmp_path, draw, "val", [[box(1, 1, 9, 9)]])
    with pytest.raises(ValueError, match=r"no object to be found on the training images; .* category_id 7 is none"):
        open_objects(str(tmp_path))
    found = check_objects(open_objects(str(tmp_path), lenient=True))
    assert [fault.path for fault in found.faults] == ["train"]
    assert found.parts["train"].objects == 0
    coco(tmp_path, draw, "val", [[box(1, 1, 9, 9, category_id=7)]])
    nothing = check_objects(open_objects(str(tmp_path), lenient=True))
    assert (nothing.smallest, nothing.largest) == (None, None)


def test_masks_can_be_learned_where_every_object_has_an_outline(tmp_path: Path, draw: Draw, untidy: ObjectCheck):
    assert (untidy.masks, untidy.without_outline) == (True, 0)
    for name, second, expected in (("some", [], (False, 4)), ("none", None, (False, 0))):
        first = OUTLINE if name == "some" else []
        here = [[box(0, 0, 9, 9, segmentation=first), box(0, 0, 8, 8, segmentation=second)]] * 4
        coco(tmp_path / name, draw, "train", here)
        coco(tmp_path / name, draw, "val", [[box(0, 0, 9, 9, segmentation=first)]])
        found = check_objects(open_objects(str(tmp_path / name)))
        assert (found.masks, found.without_outline) == expected


def test_a_class_with_enough_objects_is_not_called_small(tmp_path: Path, draw: Draw):
    many = [[box(n, n, 5, 5) for n in range(FEW // 2)]] * 2
    coco(tmp_path, draw, "train", many)
    coco(tmp_path, draw, "val", many, seed=5)
    assert check_objects(open_objects(str(tmp_path))).few == {"dog": 0}


def test_the_best_overlap_is_the_one_measured_with_anchors_laid_on_the_middle_of_the_box():
    rng = np.random.default_rng(0)
    sides = rng.uniform(20, 800, (50, 2))
    laid = anchors(1, 1, stride=16, sizes=(128.0, 512.0), shapes=(0.5, 1.0, 2.0), device=torch.device("cpu"))
    middle = torch.from_numpy(np.concatenate([8 - sides / 2, 8 + sides / 2], 1))
    expected = box_iou(middle, laid.double()).max(1).values.numpy()
    widths = (laid[:, 2:] - laid[:, :2]).double().numpy()
    np.testing.assert_allclose(best_overlaps(sides, widths), expected, rtol=1e-6)


def test_more_sizes_of_anchors_reach_more_objects(shared_data: Path):
    found = check_objects(open_objects(str(shared_data / "coco_small")))
    few, more, most = found.reached.values()
    assert 0.1 < few < more < most < 1
    assert found.masks
    voc = check_objects(open_objects(str(shared_data / "voc_small")))
    assert not voc.masks
    assert (voc.problems, voc.faults, voc.cut, found.cut) == ((),) * 4
    assert sum(part.images for part in voc.parts.values()) == 60


def test_drawn_scenes_have_nothing_wrong(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("residual.data.open_objects.SCENES", {"train": 30, "validation": 3, "test": 3})
    found = check_objects(open_objects("scenes", size=64))
    assert (found.problems, found.equal, found.repeated, found.whole) == ((),) * 4
    assert (found.masks, found.one_class) == (True, False)
