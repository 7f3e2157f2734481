"""What the tests of the commands share: the program, in this process or as one of its own, and a small run."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from residual.cli.main import main
from residual.pipeline import Plan, train
from residual.recipes.modern import modern_small

HOUSE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Said:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def quiet_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in, without a cache of CIFAR; the user's own settings are out of sight."""
    for name in ("RESIDUAL_TRACEBACK", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def say(
    quiet_place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Said]]:
    """say("train", "--epochs", 3): the command line in this process; an exception that gets out fails the test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    threads = torch.get_num_threads()

    def command(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["residual", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        written = capsys.readouterr()
        return Said(int(end.value.code or 0), written.out, written.err)

    yield command
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(quiet_place: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start("train", ...): the program in a process of its own, as `python -m residual`."""
    started = []

    def program(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "residual", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HOUSE)},
        )
        started.append(process)
        return process

    yield program
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


@pytest.fixture
def end(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Said]:
    """end("models"): the program in a process of its own, to its end."""

    def program(*words: object) -> Said:
        process = start(*words)
        out, err = process.communicate(timeout=60)
        return Said(process.returncode, out, err)

    return program


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: an iteration of resnet8 on digits.  Not to be written to."""
    run = tmp_path_factory.mktemp("trained") / "run"
    recipe = replace(modern_small(), epochs=None, iterations=1)
    plan = Plan(model="resnet8", data="digits", recipe=recipe, device="cpu", workers=0)
    for _ in train(plan, run):
        pass
    return run


@pytest.fixture
def cats_and_dogs(quiet_place: Path) -> Path:
    """A folder of two classes with six pictures each."""
    for name, channel in (("cat", 0), ("dog", 1)):
        (quiet_place / "pets" / name).mkdir(parents=True)
        for number in range(6):
            colour = [0, 0, 90]
            colour[channel] = 40 * number
            Image.new("RGB", (24, 24), tuple(colour)).save(quiet_place / "pets" / name / f"{number}.png")
    return quiet_place / "pets"
