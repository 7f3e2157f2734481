"""D6: twenty layouts that leave open what is meant, or seem to: each has a rule or a clear error."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from residual.data.images import Dataset
from residual.data.sources import open_dataset

Tree = dict[str, int]  # folder -> images in it


def png(seed: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def grow(root: Path, tree: Tree) -> Path:
    seed = 0
    for folder, count in tree.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            (root / folder / f"{number}.png").write_bytes(png(seed))
    return root


def zero_bytes(root: Path) -> None:
    for number in range(3):
        (root / "dog" / f"{number}.png").write_bytes(b"")


def one_empty_file(root: Path) -> None:
    (root / "dog" / "1.png").write_bytes(b"")


def texts(root: Path) -> None:
    (root / "README.md").write_text("pets")
    (root / "labels.csv").write_text("a,b")
    (root / "cat" / "notes.txt").write_text("a cat")
    (root / "cat" / "Thumbs.db").write_bytes(b"thumbs")


def photographs(root: Path) -> None:
    (root / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "cat" / "b.tiff").write_bytes(b"II*\0")
    (root / "cat" / "no suffix").write_bytes(png(99))


def sizes(data: Dataset) -> tuple[int, int, int]:
    return tuple(len(part) if part is not None else 0 for part in (data.train, data.validation, data.test))  # type: ignore[return-value]


# name, folders, what else, then either words of the error or what must hold of the data
ERRORS: tuple[tuple[str, Tree, Callable[[Path], None] | None, tuple[str, ...]], ...] = (
    ("nothing at all", {".": 0}, None, ("no folders and no images", "one folder per class")),
    ("images without classes", {".": 4}, None, ("4 images but no folders", "one folder per class")),
    ("one class", {"cat": 4}, None, ("one class only", "'cat'")),
    ("one class in train", {"train/cat": 4, "val/cat": 2}, None, ("one class only", "'cat'")),
    ("an empty class", {"cat": 4, "dog": 4, "eel": 0}, None, ("class 'eel' has no images",)),
    ("an empty class in train", {"train/cat": 4, "train/dog": 0, "val/dog": 2}, None, ("class 'dog'", "no images")),
    ("a class of empty files", {"cat": 4, "dog": 3}, zero_bytes, ("class 'dog'", "the file is empty")),
    ("classes that differ in case", {"cat": 4, "Cat": 4}, None, ("'Cat'", "'cat'", "differ only in case")),
    ("a class that training lacks", {"train/cat": 2, "train/dog": 2, "val/eel": 2}, None, ("'eel'", "train does not")),
    (
        "a class spelt otherwise in validation",
        {"train/cat": 2, "train/dog": 2, "val/Cat": 2},
        None,
        ("'Cat'", "it has 'cat'"),
    ),
    ("validation and test alone", {"val/cat": 2, "test/cat": 2}, None, ("no train folder",)),
    ("two validation folders", {"train/cat": 2, "train/dog": 2, "val/cat": 1, "valid/cat": 1}, None, ("keep one",)),
    ("validation without classes", {"train/cat": 2, "train/dog": 2, "val": 3}, None, ("3 images but no folders",)),
)  # fmt: skip
RULES: tuple[tuple[str, Tree, Callable[[Path], None] | None, Callable[[Dataset], bool]], ...] = (
    ("one image in a class", {"cat": 5, "dog": 1}, None, lambda d: sizes(d) == (5, 1, 0)),
    ("one empty file", {"cat": 5, "dog": 5}, one_empty_file, lambda d: d.problems[0].path == "dog/1.png"),
    (
        "a class missing in validation",
        {"train/ant": 2, "train/bee": 2, "train/cat": 2, "val/cat": 1, "val/ant": 0},
        None,
        lambda d: d.validation is not None and d.validation.labels.tolist() == [2] and len(d.problems) == 2,
    ),
    (
        "test without classes",
        {"train/cat": 2, "train/dog": 2, "test": 3},
        None,
        lambda d: d.test is None and "no labels" in d.problems[0].reason,
    ),
    ("text beside images", {"cat": 5, "dog": 5}, texts, lambda d: sizes(d) == (8, 2, 0) and not d.problems),
    (
        "formats that are not read",
        {"cat": 5, "dog": 5},
        photographs,
        lambda d: len(d.problems) == 2 and "cat/no suffix" in d.train.names + (d.validation or d.train).names,
    ),
    (
        "folders inside classes",
        {"cat/white": 3, "cat/black/old": 3, "dog": 4},
        None,
        lambda d: d.classes == ("cat", "dog") and sum(sizes(d)) == 10,
    ),
)


def test_twenty_layouts_have_a_rule_or_a_clear_error(tmp_path, row):
    assert len(ERRORS) + len(RULES) == 20
    wrong = []
    for name, tree, also, words in ERRORS:
        root = grow(tmp_path / name, tree)
        if also:
            also(root)
        try:
            open_dataset(str(root))
            wrong.append(f"{name}: no error")
        except ValueError as error:
            if not all(word in str(error) for word in words):
                wrong.append(f"{name}: {error}")
    for name, tree, also, holds in RULES:
        root = grow(tmp_path / name, tree)
        if also:
            also(root)
        data = open_dataset(str(root))
        if not holds(data):
            wrong.append(f"{name}: {data.split} {data.problems}")
    row("D6", "layouts", f"{20 - len(wrong)}/20" + (f"; {wrong}" if wrong else ""), not wrong)
