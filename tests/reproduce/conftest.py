"""What the tests of reproductions share: a small experiment on digits, and a program that reproduces it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from residual.recipes.demo import demo
from residual.reproduce.experiment import Claim, Experiment, Line, Printed, Row, Setting
from residual.reproduce.measures import curves, training_error

HOUSE = Path(__file__).parents[2]


def a_setting(model: str = "plain8", *, iterations: int = 30) -> Setting:
    """A training on digits, of about a second."""
    return Setting(model=model, recipe=replace(demo(), epochs=None, iterations=iterations), data="digits")


def an_experiment(*, iterations: int = 30, seeds: int = 2, name: str = "small") -> Experiment:
    """Two networks, a claim and a line."""
    shallow, deep = (a_setting(model, iterations=iterations) for model in ("plain8", "plain14"))
    return Experiment(
        name=name,
        title="Two plain networks",
        source="a test",
        claim="the deeper trains worse",
        rows=(
            Row(
                name="plain-8",
                unit="% training error",
                paper=Printed(value=50.0),
                settings=(shallow,),
                measure=training_error,
                seeds=seeds,
            ),
            Row(name="plain-14", unit="% training error", settings=(deep,), measure=training_error, seeds=seeds),
            Row(name="answer", unit="", paper=Printed(value=42, kind="exact"), measure=lambda runs: 42.0),
            Row(name="others", unit="% training error", paper=Printed(value=1.0)),
        ),
        claims=(Claim(text="deeper is worse", rising=("plain-8", "plain-14")),),
        lines=(Line(name="plain-8", panel="plain", setting=shallow, of=curves),),
        data=("digits",),
    )


@pytest.fixture
def setting() -> Callable[..., Setting]:
    """setting("plain8", iterations=30)"""
    return a_setting


@pytest.fixture
def experiment() -> Callable[..., Experiment]:
    """experiment(iterations=30, seeds=2, name="small")"""
    return an_experiment


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """script(out, iterations=300): a plain script, without a guard, that reproduces the small experiment."""
    yield from scripts(tmp_path)


def scripts(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts such scripts, and ends them at the end."""
    started = []

    def start(out: Path, **arguments: object) -> subprocess.Popen[str]:
        order = {name: arguments.pop(name) for name in ("budget", "seeds", "jobs", "on") if name in arguments}
        program = tmp_path / f"script{len(started)}.py"
        program.write_text(
            f"import signal, sys, time\n"
            f"began = time.monotonic()\n"
            f"sys.path[:0] = [{str(HOUSE)!r}, {str(Path(__file__).parent)!r}]\n"
            f"from conftest import an_experiment\n"
            f"from pathlib import Path\n"
            f"from residual.cli.terminal import listen\n"
            f"from residual.pipeline import Stop\n"
            f"from residual.reproduce import reproduction\n"
            f"from residual.reproduce.reproduction import Order, reproduce\n"
            f"reproduction.TIMED = 0.1\n"
            f"stop = Stop()\n"
            f"listen(stop)\n"
            f"order = Order(experiments=(an_experiment(**{arguments!r}),), out=Path({str(out)!r}), began=began, "
            f"device='cpu', **{order!r})\n"
            f"for event in reproduce(order, stop=stop):\n"
            f"    name = type(event).__name__\n"
            f"    if name != 'Beat':\n"
            f"        run = getattr(event, 'run', None)\n"
            f"        print(name, run.name if run else '-', getattr(event, 'step', '-'), flush=True)\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()
