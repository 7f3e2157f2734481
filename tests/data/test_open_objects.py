"""One door for images with objects: what is there is recognised, and what is wrong with it is said."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from residual.data import kept, loader
from residual.data import open_objects as door
from residual.data.load_objects import decoded
from residual.data.objects import joined
from residual.data.open_objects import has_objects, hold_out, open_objects, to_evaluate

Draw = Callable[..., Path]
THING = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax>"
    "<ymax>9</ymax></bndbox></object>"
)


def devkit(root: Path, draw: Draw, lists: dict[str, dict[str, list[str]]]) -> Path:
    """A VOCdevkit with one cat on each image, difficult on those called d."""
    for year, named in lists.items():
        folder = root / f"VOC{year}"
        for place in ("ImageSets/Main", "JPEGImages", "Annotations"):
            (folder / place).mkdir(parents=True)
        for name, images in named.items():
            (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(images))
            for image in images:
                draw(folder / "JPEGImages" / f"{image}.jpg", size=(50, 40))
                told = "<size><width>50</width><height>40</height></size>" + THING.format(
                    name="cat", difficult=int(image.startswith("d"))
                )
                (folder / "Annotations" / f"{image}.xml").write_text(f"<annotation>{told}</annotation>")
    return root


BOTH = {
    "2007": {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["c", "d"]},
    "2012": {"train": ["e"], "val": ["f"], "trainval": ["e", "f"]},
}


def names(data: door.ObjectDataset) -> dict[str, list[str]]:
    return {split: sorted(name.split("/")[-1] for name in images.names) for split, images in data.splits().items()}


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (None, {"train": ["a", "b", "e", "f"], "test": ["c", "d"]}),
        ("07", {"train": ["a", "b"], "test": ["c", "d"]}),
        ("07+12", {"train": ["a", "b", "e", "f"], "test": ["c", "d"]}),
        ("2007:train+12:val", {"train": ["a", "f"], "test": ["c", "d"]}),
        ("2007:train/2007:val", {"train": ["a"], "validation": ["b"], "test": ["c", "d"]}),
        ("07+12/2007:test", {"train": ["a", "b", "e", "f"], "validation": ["c", "d"]}),
    ],
)
def test_the_lists_of_voc(tmp_path: Path, draw: Draw, lists: str | None, expected: dict[str, list[str]]):
    data = open_objects(str(devkit(tmp_path, draw, BOTH)), lists=lists)
    assert names(data) == expected
    assert not data.made_here
    measured = data.test or data.validation
    assert [here.aside.tolist() for here in measured.objects] == [[False], [True]]
    assert to_evaluate(data) == ("test" if data.test else "validation", measured)


def test_voc_with_its_test_images_trained_on_holds_some_out(tmp_path: Path, draw: Draw):
    data = open_objects(str(devkit(tmp_path, draw, BOTH)), lists="07++12")
    assert sorted(names(data)["train"] + names(data)["validation"]) == ["a", "b", "c", "d", "e", "f"]
    assert data.made_here
    assert to_evaluate(data)[0] == "all"
    assert len(to_evaluate(data)[1]) == 6


def test_voc_without_test_images_is_split_as_it_says(tmp_path: Path, draw: Draw):
    root = devkit(tmp_path / "VOCdevkit", draw, {"2012": BOTH["2012"]})
    for where in (tmp_path, root, root / "VOC2012"):
        assert names(open_objects(str(where))) == {"train": ["e"], "validation": ["f"]}
    assert to_evaluate(open_objects(str(root)))[0] == "validation"


@pytest.mark.parametrize(
    ("lists", "reason"),
    [
        ("7", "none of VOC's"),
        ("07+07", "twice"),
        ("", "no list"),
        ("12+++07", "none of VOC's"),
        ("08", "no list 'trainval'"),
        ("07/", "no list"),
        ("07/07:val/07:test", "none of VOC's"),
        ("07/07:val", "VOC2007/b is listed for train and for validation; an image belongs to one"),
    ],
)
def test_lists_that_voc_does_not_have_are_refused(tmp_path: Path, draw: Draw, lists: str, reason: str):
    with pytest.raises(ValueError, match=reason):
        open_objects(str(devkit(tmp_path, draw, BOTH)), lists=lists)


def coco(folder: Path, draw: Draw, name: str, count: int, **changes: Any) -> Path:
    stem = Path(name).stem
    for number in range(count):
        draw(folder / "images" / f"{stem}{number}.jpg", size=(50, 40))
    told = {
        "images": [{"id": n, "file_name": f"{stem}{n}.jpg", "height": 40, "width": 50} for n in range(count)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 4, 2, 4, 6]]}
            for n in range(count)
        ],
    } | changes
    path = folder / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told))
    return path


def test_coco_files_of_a_folder_are_its_splits(tmp_path: Path, draw: Draw):
    train = coco(tmp_path, draw, "instances_train2017.json", 3)
    validation = coco(tmp_path, draw, "instances_val2017.json", 2)
    coco(tmp_path, draw, "person_keypoints_train2017.json", 1)
    for where in (tmp_path, train):
        data = open_objects(str(where))
        assert {split: len(images) for split, images in data.splits().items()} == {"train": 3, "validation": 2}
        assert data.train.outlined
    alone = open_objects(str(validation), validation=0.5)
    assert alone.made_here
    assert len(to_evaluate(alone)[1]) == 2


def test_classes_of_splits_must_agree(tmp_path: Path, draw: Draw):
    coco(tmp_path, draw, "instances_train.json", 3)
    coco(tmp_path, draw, "instances_val.json", 2, categories=[{"id": 1, "name": "dog"}])
    with pytest.raises(ValueError, match="classes of validation differ from those of train: cat, dog"):
        open_objects(str(tmp_path))


def test_an_image_of_another_size_than_told_is_left_out_and_listed(tmp_path: Path, draw: Draw):
    coco(tmp_path, draw, "all.json", 6)
    draw(tmp_path / "images" / "all2.jpg", size=(40, 50))
    (tmp_path / "images" / "all3.jpg").write_bytes(b"no image")
    data = open_objects(str(tmp_path))
    assert sum(map(len, data.splits().values())) == 4
    assert {one.path: one.reason for one in data.problems} == {
        "all2.jpg": "it has 40x50 pixels, its annotation says 50x40",
        "all3.jpg": "not an image (JPEG, PNG, WebP, BMP and GIF are read)",
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_left_out_at_opening_and_listed(tmp_path: Path, draw: Draw, workers: int):
    coco(tmp_path, draw, "all.json", 6)
    half = tmp_path / "images" / "all2.jpg"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])  # its header is whole
    steps: list[tuple[int, int]] = []
    data = open_objects(str(tmp_path), workers=workers, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (6, 6)
    assert [one.path for one in data.problems] == ["all2.jpg"]
    assert "cut short" in data.problems[0].reason
    for images in data.splits().values():
        assert "all2.jpg" not in images.names
        with loader.Pool(workers=0) as pool:
            assert len(list(decoded(images, iter(range(len(images))), pool))) == len(images)


def test_of_many_images_it_is_kept_which_are_good(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "FEWEST", 5)
    coco(tmp_path, draw, "all.json", 6)
    bad = tmp_path / "images" / "all2.jpg"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    first = open_objects(str(tmp_path))
    assert [one.path for one in first.problems] == ["all2.jpg"]
    real = loader.Pool.decode
    monkeypatch.setattr(loader.Pool, "decode", lambda *_, **__: pytest.fail("decoded again"))
    again = open_objects(str(tmp_path))
    assert (again.problems, again.train.names) == (first.problems, first.train.names)
    assert (again.train.fingerprint, again.train.marks) == (first.train.fingerprint, first.train.marks)
    monkeypatch.setattr(loader.Pool, "decode", real)
    draw(bad, size=(50, 40))
    assert not open_objects(str(tmp_path)).problems


def test_other_pixels_under_the_same_names_are_another_set(tmp_path: Path, draw: Draw):
    coco(tmp_path, draw, "all.json", 6)
    before = open_objects(str(tmp_path))
    changed = tmp_path / "images" / before.train.names[2]
    with Image.open(changed) as image:
        ImageOps.invert(image).save(changed)
    after = open_objects(str(tmp_path))
    assert after.train.names == before.train.names
    assert after.train.fingerprint != before.train.fingerprint
    assert [one == other for one, other in zip(before.train.marks, after.train.marks, strict=True)].count(False) == 1
    assert after.validation.fingerprint == before.validation.fingerprint


def test_an_image_is_known_under_any_name_in_any_part(tmp_path: Path, draw: Draw):
    path = coco(tmp_path, draw, "all.json", 7)
    for number in range(7):
        draw(tmp_path / "images" / f"all{number}.jpg", seed=number, size=(50, 40))
    (tmp_path / "images" / "all2.jpg").write_bytes(b"no image")
    data = open_objects(str(tmp_path))
    whole = joined(data.train, data.validation)
    known = {name: sha256((tmp_path / "images" / name).read_bytes()).hexdigest()[:12] for name in whole.names}
    assert len(set(known.values())) == 6
    for images in (data.train, data.validation, whole, whole.select([4, 0])):
        assert images.marks == tuple(known[name] for name in images.names)
    for image in list((tmp_path / "images").iterdir()):
        image.rename(image.with_name(f"other-{image.name}"))
    path.write_text(path.read_text().replace("all", "other-all"))
    renamed = open_objects(str(tmp_path))
    assert {*renamed.train.marks, *renamed.validation.marks} == set(known.values())


@pytest.mark.parametrize("kind", ["scenes", "shapes"])
def test_no_scene_of_a_counted_set_is_drawn_for_a_seed(monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(door, "SCENES", {"train": 30, "validation": 3, "test": 3})
    counted = [open_objects(f"{kind}:12", size=32, seed=seed) for seed in (0, 7)]
    assert counted[0].train.marks == counted[1].train.marks
    assert counted[0].origin == "drawn scenes, the same for every seed"
    known = {mark for images in counted[0].splits().values() for mark in images.marks}
    assert len(known) == 12 + 4 + 4
    for seed in (0, 1):
        drawn = open_objects(kind, size=32, seed=seed)
        assert known.isdisjoint(mark for images in drawn.splits().values() for mark in images.marks)


def test_what_is_held_out_depends_on_names_and_seed_alone(tmp_path: Path, draw: Draw):
    path = coco(tmp_path, draw, "all.json", 20)
    data = open_objects(str(path), seed=1)
    assert len(data.validation) == 4
    assert data.split["seed"] == 1
    told = json.loads(path.read_text())
    told["images"].reverse()
    path.write_text(json.dumps(told))
    assert set(open_objects(str(path), seed=1).validation.names) == set(data.validation.names)
    assert set(open_objects(str(path), seed=2).validation.names) != set(data.validation.names)
    with pytest.raises(ValueError, match="validation images of its own"):
        hold_out(data, 0.5, seed=0)


def test_the_other_layouts_are_recognised(tmp_path: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch):
    for number in range(5):
        draw(tmp_path / "yolo" / "images" / f"{number}.png")
        for kind in ("images", "masks"):
            draw(tmp_path / "dsb" / f"{number}" / kind / "a.png")
    (tmp_path / "yolo" / "labels").mkdir()
    (tmp_path / "yolo" / "labels" / "1.txt").write_text("0 .5 .5 .2 .2")
    (tmp_path / "yolo" / "labels" / "2.txt").write_text("0 .5 .5 .2 .2")
    (tmp_path / "yolo" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    assert "YOLO" in open_objects(str(tmp_path / "yolo")).origin
    assert "YOLO" in open_objects(str(tmp_path / "yolo" / "data.yaml")).origin
    assert open_objects(str(tmp_path / "dsb")).classes == ("nucleus",)
    shutil.copytree(tmp_path / "dsb" / "1", tmp_path / "pairs")
    (tmp_path / "pairs" / "masks" / "a.png").write_bytes(draw(tmp_path / "grey.png").read_bytes())
    with pytest.raises(ValueError, match="has colours"):
        open_objects(str(tmp_path / "pairs"))
    monkeypatch.setattr(door, "SCENES", {"train": 3, "validation": 2, "test": 1})
    drawn = open_objects("scenes", size=48)
    assert {split: images.names for split, images in drawn.splits().items()} == {
        "train": ("scenes:0", "scenes:1", "scenes:2"), "validation": ("scenes:3", "scenes:4"), "test": ("scenes:5",),
    }  # fmt: skip


def test_what_has_objects_is_known_by_its_layout(tmp_path: Path, draw: Draw, shared_data: Path):
    coco(tmp_path / "flat", draw, "all.json", 2).rename(tmp_path / "flat" / "all.json")
    (tmp_path / "flat" / "annotations").rmdir()
    for place in (*"012", "roboflow/train"):
        draw(tmp_path / place / "images" / "a.png")
        (tmp_path / place / "classes.txt").write_text("cat")
    (tmp_path / "0" / "masks").mkdir()
    draw(tmp_path / "0" / "masks" / "a.png")
    (tmp_path / "1" / "labels").mkdir()
    (tmp_path / "roboflow" / "train" / "_annotations.coco.json").touch()
    (tmp_path / "2" / "data.json").write_text('{"images": 3}')
    made = [tmp_path / name for name in ("flat", "flat/all.json", "0", "1", "roboflow")]
    for where in ("scenes", *made, shared_data / "voc_small", shared_data / "coco_small"):
        assert has_objects(str(where)), where
    for where in ("shapes", tmp_path / "2", tmp_path / "nowhere", shared_data / "cifar10_small"):
        assert not has_objects(str(where)), where


def test_what_is_not_there_or_not_known_is_refused(tmp_path: Path, draw: Draw):
    draw(tmp_path / "pets" / "cat" / "1.png")
    (tmp_path / "a.txt").touch()
    for where, reason in (
        (tmp_path / "no", "there is no"),
        (tmp_path / "a.txt", "is a file"),
        (tmp_path / "pets", "known"),
    ):
        with pytest.raises(ValueError, match=reason):
            open_objects(str(where))
    with pytest.raises(ValueError, match="chooses images of a VOCdevkit"):
        open_objects(str(coco(tmp_path / "pets", draw, "all.json", 5)), lists="07")
    with pytest.raises(ValueError, match="no object to be found"):
        open_objects(str(coco(tmp_path / "pets", draw, "all.json", 5, annotations=[])))


def test_real_data_is_read_by_the_door(shared_data: Path):
    voc = open_objects(str(shared_data / "voc_small"))
    assert {split: len(images) for split, images in voc.splits().items()} == {"train": 40, "validation": 20}
    real = open_objects(str(shared_data / "coco_small"))
    assert sum(map(len, real.splits().values())) == 20
    assert not voc.problems
    assert not real.problems
