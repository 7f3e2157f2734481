import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from residual.cli.main import app, told
from residual.records import CannotWrite

HOUSE = Path(__file__).parents[2]
COMMANDS = {
    "demo", "models", "train", "evaluate", "predict", "detect", "reproduce", "report",
    "data", "data check", "data pack",
    "weights", "weights inspect", "weights convert", "weights export", "weights download", "weights list",
    "weights doctor",
}  # fmt: skip


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group of commands by the words that call it."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name), command
        yield from commands(command, (*path, name))


ALL = dict(commands(typer.main.get_command(app)))


def test_the_commands_are_those_of_the_design():
    assert {" ".join(path) for path in ALL} == COMMANDS


@pytest.mark.parametrize("path", [(), *ALL], ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], say: Callable[..., Any]):
    said = say(*path, "--help")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith(" ".join(["Usage: residual", *path]))
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_option_says_what_it_is_for_and_no_summary_is_cut_short(path: tuple[str, ...]):
    command = ALL[path]
    assert [each.name for each in command.params if not each.help] == []
    assert not command.get_short_help_str(limit=70).endswith("...")


def test_the_program_alone_shows_its_help(say: Callable[..., Any]):
    assert say() == say("--help")


def test_python_m_residual_is_the_same_program(say: Callable[..., Any], end: Callable[..., Any]):
    assert end("--help") == say("--help")
    scripts = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"residual": "residual.cli.main:main"}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["models"], ["models", "resnet50"]], ids=" ".join)
def test_help_and_models_come_without_torch(words: list[str]):
    code = (
        "import sys, atexit; from residual.cli.main import main; "
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); main()"
    )
    command = [sys.executable, "-c", code, *words]
    ended = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=True)
    assert ended.stdout
    assert ended.stderr == "False\n"


@pytest.mark.parametrize("word", ["--help", "models"])
def test_help_and_models_come_in_a_blink(word: str, end: Callable[..., Any]):
    """The bar is 150 ms on a quiet machine; a busy one may take longer, so the time is only shown (pytest -s)."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert end(word).code == 0
        seconds.append(time.perf_counter() - began)
    print(f"residual {word}: {1000 * statistics.median(seconds):.0f} ms, median of 5")


def test_json_of_the_models_parses(say: Callable[..., Any]):
    rows = json.loads(say("models", "--json").out)
    assert [row["parameters"] for row in rows if row["name"] == "resnet20"] == [269_722]
    one = json.loads(say("models", "resnet50", "--json").out)
    assert sum(stage["parameters"] for stage in one["stages"]) == 25_557_032


def test_a_network_is_shown_stage_by_stage_with_what_to_do_next(say: Callable[..., Any]):
    lines = say("models", "resnet50").out.splitlines()
    assert lines[0].startswith("resnet50: bottleneck blocks, shortcut B")
    assert "25,557,032" in lines[-3]
    assert lines[-1] == "Next: residual train --model resnet50 --data DIR"


def test_whoever_closes_the_pipe_sees_no_traceback(start: Callable[..., Any]):
    for words in (["models"], ["models", "--json"], ["--help"]):
        process = start(*words)
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_said():
    command = [sys.executable, "-m", "residual", "models"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, cwd=HOUSE, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0].startswith("error: ")
    assert "No space left" in ended.stderr
    assert "Traceback" not in ended.stderr


class Diverged(ArithmeticError):
    """As pipeline.Diverged, which is known by its name."""


@pytest.mark.parametrize(
    "error, code, words",
    [
        (ValueError("no such thing"), 2, "no such thing"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 2, "cannot use x.json: No such file"),
        (PermissionError(13, "Permission denied", "x"), 2, "cannot use x: Permission denied"),
        (OSError(5, "Input/output error", "x"), 1, "cannot use x: Input/output error"),
        (OSError("odd"), 1, "odd"),
        (CannotWrite(Path("run"), OSError(28, "No space left on device")), 1, "free some space"),
        (CannotWrite(Path("run"), OSError(30, "Read-only file system")), 2, "name another with --out"),
        (CannotWrite(Path("run"), OSError(20, "Not a directory")), 2, "name another place with --out"),
        (ModuleNotFoundError("pip install 'residual[data]'"), 1, "residual[data]"),
        (Diverged("not finite"), 4, "not finite"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "Take a smaller batch"),
        (MemoryError(), 1, "out of memory"),
        (KeyError("oops"), 1, "fault of ours"),
    ],
)
def test_errors_end_with_a_paragraph_and_a_code(error: Exception, code: int, words: str):
    text, found = told(error)
    assert found == code
    assert words in text


def test_a_traceback_is_shown_to_who_asks(quiet_place: Path):
    environment = {**os.environ, "RESIDUAL_TRACEBACK": "1", "PYTHONPATH": str(HOUSE)}
    command = [sys.executable, "-m", "residual", "models", "resnet21"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_message_cannot_steer_the_terminal(say: Callable[..., Any]):
    said = say("models", "\x1b[2Jresnet20")
    assert said.code == 2
    assert "\x1b" not in said.err
    said = say("predict", "\x1b[31mred", "x")
    assert "\x1b" not in said.err
