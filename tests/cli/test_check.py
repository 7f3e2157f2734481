import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUIET = ("--workers", "0")


@pytest.fixture
def untidy(cats_and_dogs: Path) -> Path:
    """A damaged file and one that is there twice."""
    (cats_and_dogs / "cat" / "\x1b[31mbad.png").write_bytes(b"no picture")
    shutil.copy(cats_and_dogs / "cat" / "1.png", cats_and_dogs / "cat" / "again.png")
    return cats_and_dogs


def test_what_is_wrong_with_the_data_is_listed(say: Callable[..., Any], untidy: Path):
    said = say("data", "check", untidy, *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "1 files left out:" in said.out
    assert "cat/\\x1b[31mbad.png: " in said.out
    assert "again.png" in said.out
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet18 --data {untidy}"


def test_json_of_a_check_parses(say: Callable[..., Any], untidy: Path):
    found = json.loads(say("data", "check", untidy, "--json", *QUIET).out)
    assert len(found["problems"]) == 1
    assert sum(found["counts"]["train"].values()) + sum(found["counts"]["validation"].values()) == 13


def test_equal_images_with_two_labels_are_told(say: Callable[..., Any], cats_and_dogs: Path):
    shutil.copy(cats_and_dogs / "cat" / "1.png", cats_and_dogs / "dog" / "again.png")
    said = say("data", "check", cats_and_dogs, *QUIET)
    assert "cat/1.png (cat) = " in said.out
    assert "dog/again.png (dog)" in said.out
    assert "of these stand in two classes: their labels contradict each other." in said.out


def test_equal_images_with_one_label_contradict_nothing(say: Callable[..., Any], untidy: Path):
    (untidy / "dog" / "0.png").unlink()  # as black as cat/0.png
    assert "two classes" not in say("data", "check", untidy, *QUIET).out
