"""README.md and CONTRIBUTING.md are true: their Python runs, their commands exist, their links lead somewhere."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from PIL import Image

from residual.cli.main import app, main

HOUSE = Path(__file__).parents[1]
PAGES = [path for name in ("README.md", "CONTRIBUTING.md") if (path := HOUSE / name).exists()]
OTHER = {"source", "python", "python3", "cd", "pip", "git"}  # programs that are not ours to check


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(text: str) -> list[list[str]]:
    """The command lines of a block, in words, without comments and prompts."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


LINES = [
    (page.name, words) for page in PAGES for text in blocks(page, "sh", "bash", "shell") for words in commands(text)
]
CODE = [(page.name, text) for page in PAGES for text in blocks(page, "python")]
TARGETS = set(re.findall(r"^([\w-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))


def parses(words: list[str]) -> None:
    """Go through the groups to the command and let it read its words, without running it."""
    command, path = typer.main.get_command(app), ["residual"]
    words = list(words)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{' '.join(path)} has no command {words[0]!r}"
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    if "--help" not in words:
        command.make_context(" ".join(path), words)


def test_there_is_something_to_check():
    assert any(words[0] == "residual" for _, words in LINES)
    assert CODE


@pytest.mark.parametrize("page, words", LINES, ids=[" ".join(words) for _, words in LINES])
def test_every_command_is_one(page: str, words: list[str]):
    program, *rest = words
    match program:
        case "residual":
            parses(rest)
        case "make":
            assert set(rest) <= TARGETS, f"{page} names a target that the Makefile does not have"
        case _:
            assert Path(program).name in OTHER, f"{page}: nobody checks {program!r}"


@pytest.mark.parametrize("page, text", CODE, ids=[page for page, _ in CODE])
def test_the_python_runs(page: str, text: str, capsys: pytest.CaptureFixture[str]):
    exec(compile(text, page, "exec"), {})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_named_file_is_there(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    named = re.findall(r"`((?:residual|docs|tests|benchmarks|results)/[\w/.-]+)`", text)
    assert not [each for each in links + named if not (page.parent / each).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_a_sentence_is_one(page: Path):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`(residual [^`]+)`", text):
        parses(shlex.split(line)[1:])
    for line in re.findall(r"`(make [^`]+)`", text):
        assert set(shlex.split(line)[1:]) <= TARGETS


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], None]]:
    """say(words): run a command line here; it must succeed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def command(words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code in (None, 0), words

    yield command
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_story_of_the_readme_is_true_in_small(say: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]):
    """Its lines about my_photos one after the other, with small pictures, a small network and a short training."""
    for name, channel in (("cat", 0), ("dog", 1)):
        Path("my_photos", name).mkdir(parents=True)
        for number in range(20):
            colour = [10 * number] * 3
            colour[channel] = 255
            Image.new("RGB", (48, 40), tuple(colour)).save(f"my_photos/{name}/{number}.jpg")
    Image.new("RGB", (60, 60), (255, 0, 0)).save("photo.jpg")
    story = [
        words for _, words in LINES if words[0] == "residual" and ("my_photos" in words or "runs/resnet18" in words)
    ]
    assert {words[1] for words in story} >= {"data", "train", "evaluate", "predict"}
    for words in story:
        if words[1] == "train" and "--resume" not in words:
            assert words[3] == "resnet18"
            if "--time" in words:
                del words[words.index("--time") : words.index("--time") + 2]
            words += ["--model", "resnet8", "--epochs", "2", "--size", "32", "--device", "cpu", "--workers", "0"]
            words += ["--out", "runs/resnet18"]
        say(words)
    assert "photo.jpg: " in capsys.readouterr().out
    assert Path("runs/resnet18/report.html").is_file()


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_knows_how_to_make_its_targets(target: str):
    ended = subprocess.run(["make", "-n", target], cwd=HOUSE, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
