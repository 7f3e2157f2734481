"""VOC's annotations as the development kit means them; hostile ones are named, never obeyed."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.voc import BadAnnotation, read_annotation, read_voc

Write = Callable[[str], Path]
SIZE = "<size><width>50</width><height>40</height></size>"


def thing(name: str = "cat", box: tuple[object, ...] = (11, 6, 20, 30), more: str = "") -> str:
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(inside: str) -> Path:
        (tmp_path / "a.xml").write_text(f"<annotation>{SIZE}{inside}</annotation>")
        return tmp_path / "a.xml"

    return written


def test_inclusive_corners_counted_from_one_become_continuous(write: Write):
    size, found, left_out = read_annotation(write(thing() + thing("dog", more="<difficult>1</difficult>")))
    assert size == (40, 50)
    assert found.boxes.tolist() == [[10, 5, 20, 30]] * 2
    assert found.labels.tolist() == [7, 11]
    assert found.aside.tolist() == [False, True]
    assert not left_out


def test_one_rule_for_boxes_that_cannot_be(write: Write):
    given = {
        (41, 31, 99, 99): [40, 30, 50, 40],  # over the border: what is on the image
        (-9, -9, 3, 3): [0, 0, 3, 3],
        (20, 6, 11, 30): "ends before it begins",
        ("nan", 1, 5, 5): "not finite",
        ("1e400", 1, 5, 5): "not finite",
        (60, 60, 70, 70): "less than a square pixel",
        ("x", 1, 5, 5): "<xmin> is 'x', not a number",
    }
    for box, expected in given.items():
        _, found, left_out = read_annotation(write(thing(box=box)))
        if isinstance(expected, str):
            assert (len(found), found.left_out) == (0, 1)
            assert expected in left_out[0]
        else:
            assert found.boxes.tolist() == [expected]
            assert found.over.tolist() == [59 if box[0] > 0 else 10]  # from 0 on, inclusive corners


def test_what_is_left_out_does_not_take_the_others_with_it(write: Write):
    _, found, left_out = read_annotation(write(thing("unicorn") + thing() + "<object/>"))
    assert found.labels.tolist() == [7]
    assert left_out == [
        "object 1: <name> is 'unicorn', none of the 20 classes",
        "object 3: <object> has 0 <name>, it needs one",
    ]


def test_an_object_whose_last_word_is_wrong_leaves_nothing_of_itself(write: Write):
    twice = "<difficult>0</difficult><difficult>1</difficult>"
    _, found, left_out = read_annotation(write(thing(more=twice) + thing("dog", (1, 1, 9, 9))))
    assert left_out == ["object 1: <object> has 2 <difficult>, it needs one"]
    assert found.labels.tolist() == [11]
    assert found.boxes.tolist() == [[0, 0, 9, 9]]
    assert len(found.aside) == len(found.areas) == 1


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
    "quadratic": f'<!DOCTYPE a [<!ENTITY l "{"x" * 50_000}">]><annotation>{"&l;" * 5000}</annotation>',
    "external": '<!DOCTYPE a [<!ENTITY l SYSTEM "file:///etc/passwd">]><annotation>&l;</annotation>',
    "parameter": '<!DOCTYPE a [<!ENTITY % l SYSTEM "http://127.0.0.1:9/">%l;]><annotation/>',
    "nested": "<annotation>" + "<a>" * 200_000,
    "wide": "<annotation>" + "<a/>" * 300_000,
    "text": "<annotation>" + "\n" * 1_000_000,
    "huge": "<annotation>" + "x" * 3_000_000,
    "empty": "",
    "other": "<html><body/></html>",
    "two sizes": f"<annotation>{SIZE}{SIZE}</annotation>",
    "no size": "<annotation/>",
    "a vast image": "<annotation><size><width>1e9</width><height>4</height></size></annotation>",
    "half a pixel": "<annotation><size><width>4.5</width><height>4</height></size></annotation>",
    "unknown encoding": "<?xml version='1.0' encoding='klingon'?><annotation/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_annotations_are_refused_in_words_and_soon(tmp_path: Path, name: str):
    (tmp_path / "a.xml").write_text(HOSTILE[name])
    began = time.monotonic()
    with pytest.raises(BadAnnotation):
        read_annotation(tmp_path / "a.xml")
    assert time.monotonic() - began < 2


def test_a_byte_order_mark_and_sixteen_bits_are_read(tmp_path: Path):
    text = f"<?xml version='1.0' encoding='utf-16'?><annotation>{SIZE}{thing()}</annotation>"
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert len(read_annotation(tmp_path / "a.xml")[1]) == 1


numbers = st.one_of(
    st.floats(), st.integers(-(10**30), 10**30), st.text(max_size=5).filter(lambda t: "<" not in t and "&" not in t)
)


@settings(max_examples=200, deadline=None)
@given(boxes=st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=4))
def test_every_box_that_is_returned_is_finite_on_the_image_and_has_an_area(tmp_path_factory, boxes):
    path = tmp_path_factory.getbasetemp() / "h.xml"
    inside = "".join(thing(box=box) for box in boxes)
    path.write_text(f"<annotation>{SIZE}{inside}</annotation>", encoding="utf-8", errors="replace")
    try:
        (height, width), found, left_out = read_annotation(path)
    except BadAnnotation:
        return
    assert len(found) + len(left_out) == len(boxes)
    assert np.isfinite(found.boxes).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= width).all()
    assert (found.boxes[:, 3] <= height).all()
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert (sides.prod(axis=1) >= 1).all()


def test_real_annotations_are_read_whole(shared_data: Path):
    root = shared_data / "voc_small" / "VOC2007"
    splits = [path.stem for path in (root / "ImageSets" / "Main").glob("*.txt") if "_" not in path.stem]
    found = read_voc(shared_data / "voc_small", [("2007", split) for split in splits])
    assert len(found) >= 60
    assert not found.problems
    assert sum(map(len, found.objects)) > 100
    assert any(here.aside.any() for here in found.objects)


def copied(shared_data: Path, to: Path) -> Path:
    shutil.copytree(shared_data / "voc_small" / "VOC2007", to / "VOC2007", copy_function=shutil.copyfile)
    for folder in [to / "VOC2007", *(to / "VOC2007").rglob("*")]:
        folder.chmod(0o755)
    return to


def test_missing_lists_and_images_are_refused_by_name(shared_data: Path, tmp_path: Path):
    root = copied(shared_data, tmp_path)
    with pytest.raises(ValueError, match=r"no list 'tral' .*there are "):
        read_voc(root, [("2007", "tral")])
    main = root / "VOC2007" / "ImageSets" / "Main"
    (main / "mine.txt").write_text("999999\n")
    with pytest.raises(ValueError, match="lists 999999, but there is no"):
        read_voc(root, [("2007", "mine")])
    (main / "mine.txt").write_text("".join(f"{number}\n" for number in range(900_001, 900_011)))
    with pytest.raises(ValueError, match=r"lists 900001, but .* lists 900005, but .*; and 5 more; complete"):
        read_voc(root, [("2007", "mine")])
    real = (main / "train.txt").read_text().split()[0]
    with (main / "mine.txt").open("a") as listed:
        listed.write(f"{real}\n")
    with pytest.raises(ValueError, match=r"; and 5 more, which `residual data check --json` lists; complete"):
        read_voc(root, [("2007", "mine")])
    (main / "mine.txt").write_text(f"999999\n{real}\n../x\n")
    found = read_voc(root, [("2007", "mine")], lenient=True)
    assert found.names == (f"VOC2007/{real}",)
    assert [fault.path for fault in found.faults] == ["VOC2007/ImageSets/Main/mine.txt"] * 2
    (main / "evil.txt").write_text("../../x\n")
    with pytest.raises(ValueError, match="no name of an image"):
        read_voc(root, [("2007", "evil")])
