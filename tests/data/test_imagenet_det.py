"""ImageNet's detection set in the layout that it is handed out in, in small."""

from collections.abc import Callable
from pathlib import Path

import pytest

from residual.data.imagenet_det import GIVEN, OURS, is_det, read_det
from residual.data.open_objects import has_objects, open_objects, to_evaluate

Draw = Callable[..., Path]
DOG, CAT, CAR = "n02084071", "n02121808", "n02958343"
VALIDATION = [f"ILSVRC2012_val_{number:08}" for number in (3, 1, 2, 4, 5)]


def thing(synset: str, *corners: int) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    return f"<object><name>{synset}</name><bndbox>{''.join(f'<{t}>{v}</{t}>' for t, v in tags)}</bndbox></object>"


@pytest.fixture
def det(tmp_path: Path, draw: Draw) -> Path:
    """Three training images with boxes and one without; five to validate on, one of them with no object."""
    inner = tmp_path / "ILSVRC"

    def image(name: str, *things: str, annotated: bool = True) -> None:
        draw(inner / "Data" / "DET" / f"{name}.JPEG", seed=len(name) + sum(map(ord, name)), size=(50, 40))
        if annotated:
            path = inner / "Annotations" / "DET" / f"{name}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = "<size><width>50</width><height>40</height><depth>3</depth></size>"
            path.write_text(f"<annotation><folder>x</folder>{size}{''.join(things)}</annotation>")

    image(f"train/ILSVRC2013_train/{DOG}/{DOG}_7", thing(DOG, 0, 4, 50, 30))
    image("train/ILSVRC2014_train_0003/ILSVRC2014_train_00030001", thing(DOG, 1, 1, 9, 9), thing(CAR, 5, 5, 40, 39))
    image("train/ILSVRC2014_train_0003/ILSVRC2014_train_00030002", thing(CAR, 5, 5, 40, 39))
    image("train/ILSVRC2013_train_extra0/ILSVRC2013_train_00000001", annotated=False)
    for number, name in enumerate(VALIDATION):
        image(f"val/{name}", *[thing(CAT, 2, 2, 20, 20 + number)] * (number > 0))
    lists = inner / "ImageSets" / "DET"
    lists.mkdir(parents=True)
    (lists / "train_58.txt").write_text(
        f"ILSVRC2013_train/{DOG}/{DOG}_7 1\nILSVRC2014_train_0003/ILSVRC2014_train_00030001 1\n"
        "ILSVRC2014_train_0003/ILSVRC2014_train_00030002 -1\nILSVRC2013_train_extra0/ILSVRC2013_train_00000001 -1\n"
    )
    (lists / "train_37.txt").write_text(
        f"ILSVRC2013_train/{DOG}/{DOG}_7 -1\nILSVRC2014_train_0003/ILSVRC2014_train_00030001 1\n"
        "ILSVRC2014_train_0003/ILSVRC2014_train_00030002 0\n"
    )
    (lists / "val.txt").write_text("".join(f"{name} {place}\n" for place, name in enumerate(VALIDATION, start=1)))
    return tmp_path


def validated(det: Path) -> list[str]:
    return [Path(name).stem for name in read_det(det)["validation"].names]


def halves(folder: Path, first: str, second: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, inside in (("val1", first), ("val2", second)):
        (folder / f"{name}.txt").write_text("".join(f"{VALIDATION[int(place)]} {place}\n" for place in inside))


def test_training_images_are_those_with_objects_and_half_of_the_validation_images(det: Path):
    train = read_det(det)["train"]
    assert [name.removeprefix("ILSVRC/Data/DET/") for name in train.names] == [
        f"train/ILSVRC2013_train/{DOG}/{DOG}_7.JPEG",
        "train/ILSVRC2014_train_0003/ILSVRC2014_train_00030001.JPEG",
        "train/ILSVRC2014_train_0003/ILSVRC2014_train_00030002.JPEG",
        *(f"val/ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 3, 5)),
    ]
    assert len(train.classes) == 200
    assert [[train.classes[label] for label in here.labels] for here in train.objects[:3]] == [
        ["dog"], ["dog", "car"], ["car"],
    ]  # fmt: skip
    assert train.objects[0].boxes.tolist() == [[0, 4, 50, 30]]  # corners are continuous


def test_without_lists_the_halves_are_every_second_name_and_that_is_said(det: Path):
    assert validated(det) == ["ILSVRC2012_val_00000002", "ILSVRC2012_val_00000004"]
    data = open_objects(str(det))
    assert data.split == {"made": OURS, "train": 6, "validation": 2}
    assert not data.problems
    assert to_evaluate(data) == ("validation", data.validation)


@pytest.mark.parametrize("place", ["ILSVRC/ImageSets/DET", "ILSVRC/devkit/data/det_lists", "devkit/data/det_lists"])
def test_lists_of_the_halves_are_read_where_there_are_some(det: Path, place: str):
    halves(det / place, "13", "04")
    assert validated(det) == [VALIDATION[0], VALIDATION[4]]
    data = open_objects(str(det))
    assert data.split["made"] == GIVEN
    assert len(data.validation.objects[0]) == 0  # an image without objects is measured on too


def test_one_half_alone_and_halves_that_overlap_are_refused(det: Path):
    lists = det / "ILSVRC" / "ImageSets" / "DET"
    halves(lists, "12", "23")
    with pytest.raises(ValueError, match=r"ILSVRC2012_val_00000002 is in .*val1\.txt and in .*val2\.txt"):
        read_det(det)
    (lists / "val2.txt").unlink()
    with pytest.raises(ValueError, match=r"val1\.txt is there without the other"):
        read_det(det)


def test_the_layout_is_known_from_above_and_from_inside(det: Path):
    for place in (det, det / "ILSVRC"):
        assert is_det(place)
        assert has_objects(str(place))
        assert len(open_objects(str(place), lists="DET").train) == 6
    (det / "ILSVRC").rename(det / "ILSVRC2015")
    assert is_det(det)
    assert not is_det(det / "ILSVRC2015" / "Data")


def localized(inner: Path, draw: Draw) -> None:
    """CLS-LOC beside it, with two images of a dog to train on."""
    for folder in (f"Annotations/CLS-LOC/train/{DOG}", "ImageSets/CLS-LOC"):
        (inner / folder).mkdir(parents=True)
    for name in (f"{DOG}/{DOG}_1", f"{DOG}/{DOG}_2"):
        draw(inner / "Data" / "CLS-LOC" / "train" / f"{name}.JPEG", seed=int(name[-1]), size=(50, 40))
        size = "<size><width>50</width><height>40</height></size>"
        told = f"<annotation>{size}{thing(DOG, 0, 4, 50, 30)}</annotation>"
        (inner / "Annotations" / "CLS-LOC" / "train" / f"{name}.xml").write_text(told)
    (inner / "ImageSets" / "CLS-LOC" / "train_loc.txt").write_text(f"{DOG}/{DOG}_1 1\n{DOG}/{DOG}_2 2\n")


def test_of_tasks_in_two_folders_each_is_found_and_the_given_folder_comes_first(det: Path, draw: Draw):
    (det / "ILSVRC2017").mkdir()
    (det / "ILSVRC").rename(det / "ILSVRC2017_DET")
    localized(det / "ILSVRC2015", draw)
    assert len(open_objects(str(det), lists="DET").train) == 6
    assert len(open_objects(str(det), lists="CLS-LOC", validation=0.0).train) == 2
    localized(det / "ILSVRC2017_DET" / "ILSVRC_old", draw)
    assert open_objects(str(det / "ILSVRC2017_DET")).origin == "ImageNet DET, train + val1"


def test_of_a_folder_with_both_tasks_one_is_chosen(det: Path, draw: Draw):
    assert open_objects(str(det)).notes == ()
    localized(det / "ILSVRC", draw)
    data = open_objects(str(det))
    assert data.origin == "ImageNet CLS-LOC, train"
    assert data.notes == ("the folder has the boxes of DET too; --lists DET reads them instead",)
    named = open_objects(str(det), lists="DET")
    assert (len(named.train), named.notes) == (6, ())
    with pytest.raises(ValueError, match="has the boxes of CLS-LOC and DET, not of '07'"):
        open_objects(str(det), lists="07")


def test_what_is_missing_is_refused_by_name(det: Path):
    inner = det / "ILSVRC"
    for name in VALIDATION[:2]:
        (inner / "Data" / "DET" / "val" / f"{name}.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_00000001: it is listed, but there is no .*; .*val_00000003: it is lis"):
        open_objects(str(det))
    data = open_objects(str(det), lenient=True)
    assert [fault.path for fault in data.faults] == ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"]
    (inner / "ImageSets" / "DET" / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"no .*val\.txt, nor val1\.txt and val2\.txt"):
        read_det(det)
    for path in (inner / "ImageSets" / "DET").glob("train*"):
        path.write_text("elsewhere/1 1\n")
    (inner / "ImageSets" / "DET" / "val.txt").write_text(VALIDATION[3])
    with pytest.raises(ValueError, match="none has an annotation in"):
        read_det(det)
    (inner / "ImageSets" / "DET" / "train_37.txt").write_text("../../../secret 1\n")
    with pytest.raises(ValueError, match="no name of an image"):
        read_det(det)


def test_a_box_of_no_class_is_left_out_with_its_reason(det: Path):
    path = det / "ILSVRC" / "Annotations" / "DET" / "val" / f"{VALIDATION[2]}.xml"
    path.write_text(path.read_text().replace(CAT, "n00000001"))
    (problem,) = read_det(det)["validation"].problems
    assert problem.path == f"ILSVRC/Annotations/DET/val/{VALIDATION[2]}.xml"
    assert problem.reason == "object 1: <name> is 'n00000001', none of the 200 classes"
