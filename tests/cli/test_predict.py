import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

HOUSE = Path(__file__).parents[2]
HERE = ("--device", "cpu", "--workers", "0")


def test_the_most_probable_classes_are_named(say: Callable[..., Any], trained: Path, cats_and_dogs: Path):
    said = say("predict", trained, cats_and_dogs, "--top", 2, *HERE)
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert len(lines) == 12
    path, answer = lines[0].split(": ")
    assert path == str(cats_and_dogs / "cat" / "0.png")
    assert answer.count(" %") == 2


def test_json_of_predictions_parses(say: Callable[..., Any], trained: Path, cats_and_dogs: Path):
    said = say("predict", trained / "model.safetensors", cats_and_dogs / "cat" / "0.png", "--top", 10, "--json", *HERE)
    answer = json.loads(said.out)
    assert sorted(answer["classes"]) == list("0123456789")
    assert sum(answer["probabilities"]) == pytest.approx(1)


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_answered(
    say: Callable[..., Any], trained: Path, cats_and_dogs: Path
):
    bad = cats_and_dogs / "cat" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    said = say("predict", trained, cats_and_dogs / "cat", *HERE)
    assert (said.code, said.err) == (1, "")
    assert len(said.out.splitlines()) == 6
    assert said.out.startswith(f"{bad}: not used: ")


def test_names_of_files_cannot_steer_the_terminal(say: Callable[..., Any], trained: Path, quiet_place: Path):
    Image.new("RGB", (8, 8)).save(quiet_place / "\x1b[2J.png")
    said = say("predict", trained, ".", *HERE)
    assert said.code == 0
    assert said.out.startswith("\\x1b[2J.png: ")


def test_an_image_comes_through_standard_input(say: Callable[..., Any], trained: Path, cats_and_dogs: Path):
    image = cats_and_dogs / "dog" / "3.png"
    command = [sys.executable, "-m", "residual", "predict", str(trained), "-", *HERE]
    with image.open("rb") as file:
        ended = subprocess.run(
            command,
            stdin=file,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(HOUSE)},
        )
    assert ended.stderr == ""
    whole = say("predict", trained, image, *HERE).out
    assert ended.stdout.removeprefix("-: ") == whole.removeprefix(f"{image}: ")
