"""Boxes of Tiny ImageNet and of ImageNet, in the layouts that they are handed out in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from residual.data.localization import is_imagenet, is_tiny_imagenet, read_imagenet, read_tiny_imagenet
from residual.data.sources import open_dataset

Draw = Callable[..., Path]


@pytest.fixture
def tiny(tmp_path: Path, draw: Draw) -> Path:
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    for name in ("n01", "n02"):
        for number in range(2):
            draw(tmp_path / "train" / name / "images" / f"{name}_{number}.JPEG", size=(64, 64))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text(
            f"{name}_0.JPEG\t0\t10\t63\t58\n{name}_1.JPEG\t5\t5\t5\t9\n"
        )
    draw(tmp_path / "val" / "images" / "val_0.JPEG", size=(64, 64))
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\t1\t2\t3\t4\n")
    return tmp_path


def test_corners_of_tiny_imagenet_are_pixels_that_belong_to_the_box(tiny: Path):
    assert is_tiny_imagenet(tiny)
    found = read_tiny_imagenet(tiny)
    train, validation = found["train"], found["validation"]
    assert train.classes == ("n01", "n02")
    assert train.names[0] == "train/n01/images/n01_0.JPEG"
    assert [here.labels.tolist() for here in train.objects] == [[0], [0], [1], [1]]
    assert train.objects[0].boxes.tolist() == [[0, 10, 64, 59]]
    assert train.objects[1].boxes.tolist() == [[5, 5, 6, 10]]
    assert validation.objects[0].boxes.tolist() == [[1, 2, 4, 5]]
    assert validation.objects[0].labels.tolist() == [1]


def test_what_is_wrong_with_a_line_is_told(tiny: Path):
    (tiny / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t1\t2\t3\t4\nval_9.JPEG\tn02\t1\t2\t3\t4\nval_0.JPEG\tn03\t1\t2\t3\t4\nval_0.JPEG\tn01\t9\t2\t3\t4\n"
    )
    problems = read_tiny_imagenet(tiny)["validation"].problems
    assert [one.path for one in problems] == [f"val/val_annotations.txt: line {number}" for number in (2, 3, 4)]
    for word, one in zip(("not there", "none of", "ends before"), problems, strict=True):
        assert word in one.reason
    (tiny / "val" / "val_annotations.txt").write_text("val_0.JPEG n02 1 2 3\n")
    with pytest.raises(ValueError, match="line 1, is 'val_0"):
        read_tiny_imagenet(tiny)


def test_tiny_imagenet_is_read_as_it_comes_for_classification_too(tiny: Path):
    """The same images in the same classes, whether their boxes are wanted or not."""
    boxes = read_tiny_imagenet(tiny)
    found = open_dataset(str(tiny), size=64)
    for split, images in found.splits().items():
        assert images.names == boxes[split].names
        assert images.labels.tolist() == [int(here.labels[0]) for here in boxes[split].objects]
    assert found.classes == boxes["train"].classes


@pytest.fixture
def imagenet(tmp_path: Path, draw: Draw) -> Path:
    (tmp_path / "LOC_synset_mapping.txt").write_text("n02 a thing\nn01 another\n")
    inner = tmp_path / "ILSVRC"
    (inner / "ImageSets" / "CLS-LOC").mkdir(parents=True)
    (inner / "ImageSets" / "CLS-LOC" / "train_cls.txt").write_text("n01/n01_1 1\nn02/n02_2 2\n")
    (inner / "ImageSets" / "CLS-LOC" / "val.txt").write_text("v_1 1\n")
    told = (
        "<annotation><size><width>50</width><height>40</height></size><object><name>n02</name><bndbox>"
        "<xmin>0</xmin><ymin>4</ymin><xmax>50</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    for name in ("train/n01/n01_1", "train/n02/n02_2", "val/v_1"):
        draw(inner / "Data" / "CLS-LOC" / f"{name}.JPEG", size=(50, 40))
        if "n01" not in name:
            path = inner / "Annotations" / "CLS-LOC" / f"{name}.xml"
            path.parent.mkdir(parents=True)
            path.write_text(told)
    return tmp_path


def test_imagenet_is_read_where_there_are_boxes(imagenet: Path):
    assert is_imagenet(imagenet)
    assert is_imagenet(imagenet / "ILSVRC")
    found = read_imagenet(imagenet)
    assert found["train"].names == ("ILSVRC/Data/CLS-LOC/train/n02/n02_2.JPEG",)
    assert found["validation"].classes == ("n01", "n02")
    assert found["validation"].objects[0].labels.tolist() == [1]
    assert found["validation"].objects[0].boxes.tolist() == [[0, 4, 50, 9]]


def test_a_train_image_whose_annotation_tells_of_another_class_is_left_out(imagenet: Path):
    inner = imagenet / "ILSVRC"
    told = inner / "Annotations" / "CLS-LOC" / "train"
    (told / "n01").mkdir()
    (told / "n01" / "n01_1.xml").write_text((told / "n02" / "n02_2.xml").read_text())
    train = read_imagenet(imagenet)["train"]
    assert train.names == ("ILSVRC/Data/CLS-LOC/train/n02/n02_2.JPEG",)
    assert [(one.path, one.reason) for one in train.problems] == [
        ("ILSVRC/Annotations/CLS-LOC/train/n01/n01_1.xml", "it tells of n02, another class than its folder")
    ]


def test_images_without_boxes_are_passed_over_while_it_is_told_how_far(imagenet: Path):
    told: list[tuple[int, int]] = []
    assert len(read_imagenet(imagenet, progress=lambda done, total: told.append((done, total)))["train"]) == 1
    assert told == [(1, 2), (2, 2), (1, 1)]


def test_a_list_that_names_an_absent_image_is_refused(imagenet: Path):
    (imagenet / "ILSVRC" / "ImageSets" / "CLS-LOC" / "val.txt").write_text("v_1 1\nv_2 2\n")
    with pytest.raises(ValueError, match=r"v_2: it is listed, but there is no ILSVRC/Data/CLS-LOC/val/v_2\.JPEG"):
        read_imagenet(imagenet)
