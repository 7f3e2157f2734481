"""D9: sixty annotations that would do harm, and five thousand drawn ones: nothing is fetched, opened or believed."""

import gc
import resource
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.objects import ObjectImages
from residual.data.voc import read_voc

SECONDS, MEGABYTES = 0.5, 64
SIZE = "<size><width>50</width><height>40</height></size>"
BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
THING = f"<object><name>cat</name>{BOX}</object>"
GOOD = f"<annotation>{SIZE}{THING}</annotation>"


def boxed(*corners: object) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    inside = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<annotation>{SIZE}{THING}<object><name>cat</name><bndbox>{inside}</bndbox></object></annotation>"


def laughs(depth: int) -> str:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, depth + 1))
    return f'<!DOCTYPE a [<!ENTITY l0 "ha">{entities}]><annotation>{SIZE}<a>&l{depth};</a></annotation>'


def hostile(canary: str, file: str) -> dict[str, bytes]:
    """Sixty annotations."""
    within = GOOD.replace("cat", "&l;")
    made: dict[str, str | bytes] = {f"laughs {depth} deep": laughs(depth) for depth in range(5, 11)}
    made |= {
        "quadratic": f'<!DOCTYPE a [<!ENTITY l "{"x" * 50_000}">]><annotation>{SIZE}{"&l;" * 5000}</annotation>',
        "an entity": f'<!DOCTYPE a [<!ENTITY l "cat">]>{within}',
        "a file": f'<!DOCTYPE a [<!ENTITY l SYSTEM "file://{file}">]>{within}',
        "a file by its path": f'<!DOCTYPE a [<!ENTITY l SYSTEM "{file}">]>{within}',
        "an address": f'<!DOCTYPE a [<!ENTITY l SYSTEM "{canary}">]>{within}',
        "a public address": f'<!DOCTYPE a [<!ENTITY l PUBLIC "l" "{canary}">]>{within}',
        "a parameter entity": f'<!DOCTYPE a [<!ENTITY % l SYSTEM "{canary}">%l;]>{GOOD}',
        "a parameter file": f'<!DOCTYPE a [<!ENTITY % l SYSTEM "file://{file}">%l;]>{GOOD}',
        "an outer type": f'<!DOCTYPE annotation SYSTEM "{canary}">{GOOD}',
        "an outer file": f'<!DOCTYPE annotation SYSTEM "file://{file}">{GOOD}',
        "a public type": f'<!DOCTYPE annotation PUBLIC "-//x" "{canary}">{GOOD}',
        "an attribute's default": f'<!DOCTYPE a [<!ATTLIST a b CDATA "{"x" * 9999}">]>{GOOD}',
        "a notation": f'<!DOCTYPE a [<!NOTATION n SYSTEM "{canary}"><!ENTITY l SYSTEM "x" NDATA n>]>{GOOD}',
        "itself": '<!DOCTYPE a [<!ENTITY l "&m;"><!ENTITY m "&l;">]>' + within,
        "an unknown entity": within,
        "an empty type": f"<!DOCTYPE annotation>{GOOD}",
        "nested 200,000 deep": "<annotation>" + "<a>" * 200_000,
        "nested 40,000 deep and closed": "<annotation>" + "<a>" * 40_000 + "</a>" * 40_000 + "</annotation>",
        "300,000 wide": f"<annotation>{SIZE}" + "<a/>" * 250_000 + "</annotation>",
        "a million lines": f"<annotation>{SIZE}" + "\n" * 1_000_000 + "</notation>",
        "a million references": f"<annotation>{SIZE}" + "&amp;" * 200_000 + "</notation>",
        "one long tag": f"<annotation>{SIZE}<{'a' * 900_000}>",
        "one long attribute": f"<annotation b='{'x' * 900_000}'>{SIZE}</annotation>" + "<",
        "100,000 attributes": "<annotation " + " ".join(f"a{n}='1'" for n in range(60_000)) + f">{SIZE}</annotation>>",
        "100,000 objects": f"<annotation>{SIZE}" + "<object/>" * 100_000 + "</annotation>",
        "a long comment": f"<annotation><!--{'x' * 900_000}--></annotation>",
        "many instructions": "<annotation>" + "<?a b?>" * 100_000 + "</annotation>",
        "3 MB": GOOD + " " * 3_000_000,
        "an inclusion": f'<a xmlns:x="http://www.w3.org/2001/XInclude"><x:include href="{file}"/></a>',
        "a stylesheet": f'<?xml-stylesheet href="{canary}"?><annotation/>',
        "UTF-16 with a type": f'<!DOCTYPE a [<!ENTITY l SYSTEM "{canary}">]>{within}'.encode("utf-16"),
        "UTF-7": b"<?xml version='1.0' encoding='utf-7'?>" + GOOD.encode("utf-7"),
        "an unknown encoding": f"<?xml version='1.0' encoding='klingon'?>{GOOD}",
        "an encoding that is none": f"<?xml version='1.0' encoding='rot13'?>{GOOD}",
        "half of UTF-16": GOOD.encode("utf-16")[:-1],
        "no UTF-8": GOOD.encode().replace(b"cat", b"\xff\xfe"),
        "a zero byte": GOOD.encode().replace(b"cat", b"c\0t"),
        "empty": "",
        "cut short": GOOD[:-9],
        "another page": "<html><body/></html>",
        "no size": GOOD.replace(SIZE, ""),
        "two sizes": GOOD.replace(SIZE, SIZE * 2),
        "no width": GOOD.replace("<width>50</width>", ""),
        "a vast image": GOOD.replace("50", "1e9"),
        "half a pixel": GOOD.replace("50", "49.5"),
        "no box": GOOD.replace(BOX, ""),
        "no name": GOOD.replace("<name>cat</name>", ""),
        "an unknown class": GOOD.replace("cat", "unicorn"),
        "infinite": boxed("inf", 1, "inf", 9),
        "no number": boxed("nan", 1, 5, 9),
        "beyond numbers": boxed(1, 1, "1e400", "9" * 10_000),
        "swapped corners": boxed(9, 9, 1, 1),
        "a corner twice": boxed(1, 1, 9, 9).replace("<xmin>1</xmin><ymin>1", "<xmin>1</xmin><xmin>2</xmin><ymin>1", 2),
        "outside": boxed(500, 500, 600, 600),
    }
    return {name: text if isinstance(text, bytes) else text.encode() for name, text in made.items()}


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """VOC2007 with a good image and one whose annotation is yet to be written: bad.xml."""
    for place in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (tmp_path / "VOC2007" / place).mkdir(parents=True)
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "all.txt").write_text("good\nbad\n")
    for name in ("good", "bad"):
        (tmp_path / "VOC2007" / "JPEGImages" / f"{name}.jpg").touch()
    (tmp_path / "VOC2007" / "Annotations" / "good.xml").write_text(GOOD)
    return tmp_path


def sound(found: ObjectImages) -> bool:
    """Every box finite, on its image, and a square pixel at least."""
    for (height, width), here in zip(found.sizes, found.objects, strict=True):
        sides = here.boxes[:, 2:] - here.boxes[:, :2]
        inside = (here.boxes >= 0).all() and (here.boxes <= [width, height, width, height]).all()
        if not (np.isfinite(here.boxes).all() and inside and (sides.prod(1) >= 1).all()):
            return False
    return True


def told(devkit: Path) -> bool:
    """Whether the rest is sound, and the bad file alone is named."""
    found = read_voc(devkit, [("2007", "all")])
    named = {one.path for one in found.problems} == {"VOC2007/Annotations/bad.xml"}
    return named and "VOC2007/good" in found.names and sound(found)


def attack(devkit: Path, canaries: Any, bounded: Any, step: int) -> tuple[str, bool]:
    made = hostile(canaries.address, str(canaries.file))
    assert len(made) == 60
    chosen = dict(list(made.items())[::step])
    figures, good = bounded(chosen, devkit / "VOC2007" / "Annotations" / "bad.xml", lambda: told(devkit))
    touched = canaries.touched()
    return f"{figures}; canaries touched {touched} times", good and not touched


def test_the_canaries_sing(canaries: Any):
    canaries.file.read_text()
    socket.create_connection(canaries.socket.getsockname()).close()
    assert canaries.touched() == 2


def test_a_sample_of_hostile_annotations(devkit: Path, canaries: Any, bounded, row):
    row("D9", "hostile VOC annotations", *attack(devkit, canaries, bounded, 4))


@pytest.mark.reliability
def test_sixty_hostile_annotations(devkit: Path, canaries: Any, bounded, row):
    row("D9", "hostile VOC annotations", *attack(devkit, canaries, bounded, 1))


words = st.sampled_from(
    ["annotation", "size", "width", "height", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "difficult"]
)
values = (
    st.sampled_from(["cat", "dog", "1", "nan", "-inf", "1e400", "0x10", "", " 7 ", "1_0"])
    | st.integers(-100, 100).map(str)
    | st.floats().map(str)
)
tags = st.recursive(
    values,
    lambda inner: st.tuples(words, st.lists(inner, max_size=5)).map(lambda t: f"<{t[0]}>{''.join(t[1])}</{t[0]}>"),
    max_leaves=12,
)
boxes = st.tuples(*[values] * 4).map(lambda four: boxed(*four))
texts = tags.map(lambda inside: f"<annotation>{SIZE}{inside}</annotation>") | boxes | st.text(max_size=50)


def drawn(devkit: Path, canaries: Any, count: int) -> tuple[str, bool]:
    slowest, largest = [0.0], [0.0]

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    @settings(max_examples=count, deadline=None, database=None)
    @given(text=texts)
    def holds(text: str) -> None:
        (devkit / "VOC2007" / "Annotations" / "bad.xml").write_text(text, encoding="utf-8", errors="surrogatepass")
        before, began = peak(), time.process_time()
        found = read_voc(devkit, [("2007", "all")])
        slowest[0] = max(slowest[0], time.process_time() - began)
        largest[0] = max(largest[0], peak() - before)
        assert "VOC2007/good" in found.names
        assert sound(found)

    gc.freeze()
    holds()
    gc.unfreeze()
    touched = canaries.touched()
    figures = f"{count:,} examples, <= {slowest[0]:.2f} s, <= {largest[0]:.0f} MB; canaries touched {touched} times"
    return figures, slowest[0] <= SECONDS and largest[0] <= MEGABYTES and not touched


def test_a_sample_of_drawn_annotations(devkit: Path, canaries: Any, row):
    row("D9 b", "drawn VOC annotations", *drawn(devkit, canaries, 100))


@pytest.mark.reliability
def test_five_thousand_drawn_annotations(devkit: Path, canaries: Any, row):
    row("D9 b", "drawn VOC annotations", *drawn(devkit, canaries, 5_000))
