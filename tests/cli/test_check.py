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
    assert "1 problem(s):" in said.out
    assert "cat/\\x1b[31mbad.png: " in said.out
    assert "again.png" in said.out
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet18 --data {untidy}"


def test_names_of_classes_and_of_the_folder_cannot_steer_the_terminal(
    say: Callable[..., Any], cats_and_dogs: Path, quiet_place: Path
):
    evil = quiet_place / "\x1b[2Jpets"
    cats_and_dogs.rename(evil)
    (evil / "cat").rename(evil / "\x1b]0;cat\x07")
    for words in (("check", evil), ("pack", evil, quiet_place / "packed")):
        said = say("data", *words, *QUIET)
        assert (said.code, said.err) == (0, "")
        assert "\x1b" not in said.out
        assert "\x07" not in said.out


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


def test_a_class_without_images_does_not_hide_the_rest(say: Callable[..., Any], untidy: Path):
    (untidy / "eel").mkdir()
    (untidy / "newt").mkdir()
    (untidy / "newt" / "1.png").write_bytes(b"no picture")
    said = say("data", "check", untidy, *QUIET)
    assert (said.code, said.err) == (0, "")
    for told in ("class 'eel' has no image", "class 'newt' has no image", "bad.png: ", "again.png", "from 0 (eel)"):
        assert told in said.out


def test_a_folder_is_packed_and_the_pack_is_data(say: Callable[..., Any], untidy: Path, tmp_path: Path):
    target = tmp_path / "packed"
    said = say("data", "pack", untidy, target, "--shorter", "16", *QUIET)
    assert (said.code, said.err) == (0, "")
    assert "shrunk     to a shorter side of 16 pixels at most, as JPEG of quality 90" in said.out
    assert "bad.png: " in said.out
    assert said.out.splitlines()[-1] == f"Next: residual train --model resnet50 --data {target}"
    found = json.loads(say("data", "check", target, "--json", *QUIET).out)
    assert sum(sum(classes.values()) for classes in found["counts"].values()) == 13
    again = say("data", "pack", untidy, target, *QUIET)
    assert again.code == 2
    assert "holds a pack already" in again.err


def test_a_pack_inside_its_own_source_is_refused(say: Callable[..., Any], untidy: Path):
    said = say("data", "pack", untidy, untidy / "pack", *QUIET)
    assert said.code == 2
    assert "which is never written to" in said.err
    assert not (untidy / "pack").exists()
