import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from residual.cli import demo as command
from residual.cli.demo import Work, _bars, _folder, _view
from residual.experiments.demo import Curve

PAIRS = [("plain8", 8, 0), ("resnet8", 8, 0), ("plain44", 44, 0), ("resnet44", 44, 0)]


def curve(network: str, depth: int, passes: int, *, finished: bool = False) -> Curve:
    family = "plain" if network.startswith("plain") else "residual"
    errors = tuple(90.0 / (n + 1) for n in range(passes))
    return Curve(
        network=network, family=family, depth=depth, seed=0, errors=errors, test_error=9.0 if finished else None
    )


def test_a_finished_demo_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert _folder() == Path("runs/demo")
    Path("runs/demo").mkdir(parents=True)
    assert _folder() == Path("runs/demo"), "one that was stopped goes on"
    Path("runs/demo/demo.json").touch()
    assert _folder() == Path("runs/demo-2")


def test_the_time_left_counts_layers_and_only_what_this_command_did():
    work = Work(PAIRS)
    work.began -= 10  # seconds
    work.saw(curve("plain8", 8, 15, finished=True))  # found finished
    for passes in range(1, 16):
        work.saw(curve("resnet8", 8, passes))
    work.saw(curve("resnet8", 8, 15, finished=True))
    assert work.finished == 2
    assert work.seconds_left() == pytest.approx(10 * 88 / 8, rel=0.15)
    for name in ("plain44", "resnet44"):
        work.saw(curve(name, 44, 15, finished=True))
    assert work.seconds_left() == 0


def test_bars_are_low_for_low_errors():
    assert _bars(curve("plain8", 8, 3)) == "█▄▃"


def test_the_table_fits_a_narrow_terminal_and_says_how_much_is_left():
    work = Work(PAIRS)
    curves = {("plain44", 0): curve("plain44", 44, 15), ("resnet8", 0): curve("resnet8", 8, 4)}
    for each in curves.values():
        work.saw(each)
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    console.print(_view(curves, work, stopping=False))
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 78, "leaves room for the ^C that a terminal writes"
    assert text.index("plain44") < text.index("resnet8")
    assert "0 of 4 networks trained, about " in text
    console.print(_view(curves, work, stopping=True))
    assert "stopping" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_summary_of_the_command_is_the_paper_s_claim():
    assert (command.demo.__doc__ or "").startswith("See the paper's claim")
