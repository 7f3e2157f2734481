"""D10: eighty COCO files that lie, and five thousand drawn ones: refused by name, or without what is wrong."""

import copy
import gc
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.coco import read_coco
from residual.data.objects import ObjectImages, with_masks

SECONDS, MEGABYTES = 0.5, 64
HEIGHT, WIDTH = 40, 50
RUNS = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
TOLD: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 2, 9, 9], "segmentation": RUNS},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1, 2, 9, 9], "segmentation": [[1, 2, 9, 2, 9, 9]]},
    ],
}


def changed(part: str, **changes: Any) -> bytes:
    told = copy.deepcopy(TOLD)
    told[part][0] |= changes
    return json.dumps(told).encode()


def outlined(**changes: Any) -> bytes:
    return changed("annotations", segmentation=RUNS | changes)


def spelled(part: str, name: str, text: str) -> bytes:
    """A value that Python does not write, as it stands in a file."""
    return changed(part, **{name: "@"}).replace(b'"@"', text.encode())


def hostile(canary: str, file: str) -> dict[str, bytes]:
    """Eighty files."""
    text = json.dumps(TOLD)
    made: dict[str, bytes] = {
        "empty": b"",
        "cut short": text[:-5].encode(),
        "no UTF-8": text.replace("cat", "c\udcfft").encode("utf-8", "surrogateescape"),
        "half of UTF-16": text.encode("utf-16")[:-1],
        "two values": (text + text).encode(),
        "a list": b"[]",
        "a number": b"1e400",
        "nested 100,000 deep": b"[" * 100_000,
        "nested 100,000 deep and closed": b"[" * 100_000 + b"]" * 100_000,
        "nested objects": b'{"a":' * 100_000,
        "nested in an annotation": spelled("annotations", "bbox", "[" * 100_000 + "]" * 100_000),
        "5,000 digits": spelled("annotations", "id", "9" * 5_000),
        "a million digits": spelled("annotations", "id", "9" * 1_000_000),
        "no images": changed("images").replace(b'"images"', b'"pictures"'),
        "no categories": json.dumps(TOLD | {"categories": []}).encode(),
        "annotations that are no list": json.dumps(TOLD | {"annotations": {"1": 2}}).encode(),
        "images that are null": json.dumps(TOLD | {"images": None}).encode(),
        "an image twice": json.dumps(TOLD | {"images": TOLD["images"] * 2}).encode(),
        "a category twice": json.dumps(TOLD | {"categories": TOLD["categories"] * 2}).encode(),
        "a name twice": json.dumps(TOLD | {"categories": [*TOLD["categories"], {"id": 2, "name": "cat"}]}).encode(),
        "a file twice": json.dumps(TOLD | {"images": [*TOLD["images"], TOLD["images"][0] | {"id": 8}]}).encode(),
        "an image that is a list": json.dumps(TOLD | {"images": [[]]}).encode(),
        "60,000 annotations of nothing": json.dumps(TOLD | {"annotations": [0] * 60_000}).encode(),
        "a file elsewhere": changed("images", file_name=file),
        "a file above": changed("images", file_name="../../" + file.lstrip("/")),
        "an address": changed("images", file_name=canary),
        "an address of the image": changed("images", coco_url=canary, file_name="absent.jpg"),
        "a name with a zero byte": changed("images", file_name="a\0.jpg"),
        "a name of half a character": changed("images", file_name="\ud800.jpg"),
        "a name of 100,000 letters": changed("images", file_name="a" * 100_000),
        "a name that is a list": changed("images", file_name=["a.jpg"]),
        "no name": changed("images", file_name=""),
    }
    for name, value in {"a string": "7", "true": True, "null": None, "a half": 7.5}.items():
        made[f"an image's id is {name}"] = changed("images", id=value)
        made[f"the annotation's image is {name}"] = changed("annotations", image_id=value)
    for name, value in {"0": 0, "below 0": -40, "a float": 40.0, "true": True, "vast": 10**9}.items():
        made[f"a height that is {name}"] = changed("images", height=value)
    made |= {
        "an id twice": changed("annotations", id=2),
        "an image that is none": changed("annotations", image_id=8),
        "a category that is none": changed("annotations", category_id=0),
        "a category that is true": changed("annotations", category_id=True),
        "a box with NaN": spelled("annotations", "bbox", "[1, NaN, 3, 4]"),
        "an infinite box": spelled("annotations", "bbox", "[1, 2, Infinity, 4]"),
        "a box of 1e400": spelled("annotations", "bbox", "[1, 2, 1e400, 4]"),
        "a box of 400 digits": spelled("annotations", "bbox", f"[1, 2, {'9' * 400}, 4]"),
        "a box of three": changed("annotations", bbox=[1, 2, 3]),
        "a box of true": changed("annotations", bbox=[1, 2, True, 4]),
        "a box of strings": changed("annotations", bbox=["1", "2", "3", "4"]),
        "a box inside out": changed("annotations", bbox=[9, 9, -3, 4]),
        "a box without area": changed("annotations", bbox=[1, 2, 0, 4]),
        "a box outside": changed("annotations", bbox=[500, 2, 9, 4]),
        "an area that is NaN": spelled("annotations", "area", "NaN"),
        "an area below 0": changed("annotations", area=-1),
        "two crowds": changed("annotations", iscrowd=2),
        "runs too long": outlined(counts=[HEIGHT * WIDTH + 1]),
        "runs too short": outlined(counts=[HEIGHT * WIDTH - 1]),
        "runs below 0": outlined(counts=[2 * HEIGHT * WIDTH, -HEIGHT * WIDTH]),
        "runs that overflow": outlined(counts=[2**64 - 1, HEIGHT * WIDTH + 1]),
        "runs of true": outlined(counts=[True, HEIGHT * WIDTH - 1]),
        "200,000 runs": outlined(counts=[0] * 200_001 + [HEIGHT * WIDTH]),
        "runs of another image": outlined(size=[WIDTH, HEIGHT]),
        "runs of a vast image": outlined(size=[10**6, 10**6], counts=[10**12]),
        "letters that are none": outlined(counts="\x01\x02"),
        "letters without an end": outlined(counts="oooo"),
        "letters of a vast number": outlined(counts="o" * 300_000 + "0"),
        "letters below 0": outlined(counts="O" * 300_000),
        "a million letters": outlined(counts="1" * 1_000_000),
        "a polygon of two corners": changed("annotations", segmentation=[[1, 2, 3, 4]]),
        "a polygon with NaN": spelled("annotations", "segmentation", "[[1, 2, 3, 4, 5, NaN]]"),
        "a polygon far away": changed("annotations", segmentation=[[1, 2, 3, 4, 5, 1e9]]),
        "a polygon around for ever": changed("annotations", segmentation=[[0, 0, 50, 40] * 10_000]),
        "100,000 empty polygons": changed("annotations", segmentation=[[]] * 100_000),
    }
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "a.jpg").touch()
    return tmp_path / "instances.json"


def sound(found: ObjectImages) -> bool:
    """Every box finite, on its image, a square pixel at least, and its mask can be drawn."""
    for (height, width), here in zip(found.sizes, found.objects, strict=True):
        sides = here.boxes[:, 2:] - here.boxes[:, :2]
        inside = (here.boxes >= 0).all() and (here.boxes <= [width, height, width, height]).all()
        if not (np.isfinite(here.boxes).all() and np.isfinite(here.areas).all() and inside):
            return False
        if not (sides.prod(1) >= 1).all():
            return False
        if here.outlines and all(outline is not None for outline in here.outlines):
            with_masks(here, height, width)
    return True


def told(path: Path) -> bool:
    """Whether the file is refused by its name, or read without what is wrong with it, which is said."""
    try:
        found = read_coco(path)
    except ValueError as error:
        return str(path) in str(error) and len(str(error)) < 1_000
    named = [one.path.startswith("instances.json: annotation ") and len(one.reason) < 500 for one in found.problems]
    return bool(named) and all(named) and len(found.objects[0]) == 1 and sound(found)


def attack(path: Path, canaries: Any, bounded: Any, step: int) -> tuple[str, bool]:
    path.write_text(json.dumps(TOLD))
    assert sound(read_coco(path))  # and what draws polygons is imported
    made = hostile(canaries.address, str(canaries.file))
    assert len(made) == 80
    figures, good = bounded(dict(list(made.items())[::step]), path, lambda: told(path))
    touched = canaries.touched()
    return f"{figures}; canaries touched {touched} times", good and not touched


def test_a_sample_of_hostile_files(place: Path, canaries: Any, bounded, row):
    row("D10", "hostile COCO files", *attack(place, canaries, bounded, 5))


@pytest.mark.reliability
def test_eighty_hostile_files(place: Path, canaries: Any, bounded, row):
    row("D10", "hostile COCO files", *attack(place, canaries, bounded, 1))


plain = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4))
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=4), max_leaves=6)
near = st.integers(-5, 60) | st.floats(-5, 60)
inside = st.tuples(st.integers(0, 40), st.integers(0, 30), st.floats(1, 20), st.floats(1, 20))
boxes = inside | st.lists(near | st.floats(), min_size=4, max_size=4)
polygons = st.lists(st.lists(near | st.floats(), min_size=6, max_size=10), min_size=1, max_size=3)
letters = st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12)
lengths = st.lists(st.integers(-3, HEIGHT * WIDTH), max_size=5)
summed = st.lists(st.integers(0, 400), max_size=4).map(lambda own: [*own, HEIGHT * WIDTH - sum(own)])
runs = st.fixed_dictionaries({"size": st.just([HEIGHT, WIDTH]) | values, "counts": summed | lengths | letters | values})
sensible = st.fixed_dictionaries(
    {"id": st.integers(0, 50), "image_id": st.just(7), "category_id": st.just(1), "bbox": boxes},
    optional={"segmentation": polygons | runs | values, "iscrowd": st.integers(0, 2), "area": near | values},
)
anything = st.fixed_dictionaries(
    {},
    optional={name: values | st.integers(0, 8) for name in ("id", "image_id", "category_id", "iscrowd", "bbox")},
)
files = st.lists(sensible | anything | values, max_size=5).map(lambda told: TOLD | {"annotations": told}) | st.builds(
    lambda part, told: TOLD | {part: told}, st.sampled_from(list(TOLD)), values
)


def drawn(path: Path, canaries: Any, count: int) -> tuple[str, bool]:
    slowest, largest, seen = [0.0], [0.0], [0, 0]

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    @settings(max_examples=count, deadline=None, database=None)
    @given(content=files)
    def holds(content: Any) -> None:
        path.write_text(json.dumps(content))
        before, began, refused = peak(), time.process_time(), ""
        try:
            found = read_coco(path)
        except ValueError as error:
            refused = str(error)
        slowest[0] = max(slowest[0], time.process_time() - began)
        largest[0] = max(largest[0], peak() - before)
        if refused:
            assert str(path) in refused
            return
        assert sound(found)
        assert sum(map(len, found.objects)) + len(found.problems) == len(content["annotations"])
        seen[0] += sum(map(len, found.objects))
        seen[1] += len(found.problems)

    gc.freeze()
    holds()
    gc.unfreeze()
    touched = canaries.touched()
    return (
        f"{count:,} examples ({seen[0]:,} objects taken, {seen[1]:,} left out), <= {slowest[0]:.2f} s, "
        f"<= {largest[0]:.0f} MB; canaries touched {touched} times",
        slowest[0] <= SECONDS and largest[0] <= MEGABYTES and not touched and sum(seen) > 0,
    )


def test_a_sample_of_drawn_files(place: Path, canaries: Any, row):
    row("D10 b", "drawn COCO files", *drawn(place, canaries, 100))


@pytest.mark.reliability
def test_five_thousand_drawn_files(place: Path, canaries: Any, row):
    row("D10 b", "drawn COCO files", *drawn(place, canaries, 5_000))
