import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from residual import events
from residual.cli import watch as watching
from residual.cli.watch import LiveLine, watch
from residual.pipeline import Stop

FOUND = {"split": "test", "top1_error": 8.75, "interval": [8.2, 9.31], "images": 10_000}


def progress(step: int) -> events.Progress:
    return events.Progress(
        step=step,
        iterations=64_000,
        epoch=step / 390,
        loss=0.4123,
        rate=0.1,
        train_error=13.21,
        images_per_second=6_800.0,
        seconds_left=723.0,
    )


def training(run: Path, *, finished: bool = True) -> Iterator[object]:
    problems = tuple((f"cat/\x1b[31m{number}.jpg", "cut short") for number in range(7))
    yield events.Started(
        run=run,
        network="resnet20",
        parameters=269_722,
        images={"train": 50_000, "test": 10_000},
        size=32,
        problems=problems,
        device="cpu in float32",
        step=390,
    )
    yield progress(780)
    yield events.Note("a checkpoint [was] damaged; going on")
    yield events.Measured(step=780, split="validation", value=12.5, best=True)
    if not finished:
        yield events.Stopped(step=781, signal=2)
        return
    yield progress(64_000)
    yield events.Finished(run=run, evaluations={"last": FOUND}, seconds=8047.0)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "write", lambda run: run / "report.html")


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]):
    assert watch(training(Path("my run")), Path("my run"), stop=Stop(), as_json=False)
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out.splitlines() == [
        "resnet20: 269,722 parameters; 50,000 train, 10,000 test images of 32x32 pixels; cpu in float32",
        *(f"left out: cat/\\x1b[31m{number}.jpg: cut short" for number in range(5)),
        "left out: 2 more, all named in my run/run.json",
        "going on from step 390",
        "step 780 of 64,000  epoch 2.0  loss 0.412  training error 13.2 %  rate 0.1  6,800 images/s  12 min 03 s left",
        "note: a checkpoint [was] damaged; going on",
        "step 780: validation error 12.50 %  (best so far)",
        "step 64,000 of 64,000  epoch 164.1  loss 0.412  training error 13.2 %  rate 0.1  6,800 images/s",
        "last iteration: test error 8.75 % (95 % interval 8.20 to 9.31, 10,000 images)",
        "my run is complete after 2 h 14 min.  Report: my run/report.html",
        "Next: residual predict 'my run' IMAGE",
    ]


@pytest.mark.parametrize(
    "split, words",
    [
        ("validation", "validation error 8.75 % (chosen by it, 10,000 images)"),
        ("test", "test error 8.75 % (95 % interval 8.20 to 9.31, 10,000 images)"),
    ],
)
def test_an_error_that_chose_its_weights_has_no_interval(capsys: pytest.CaptureFixture[str], split: str, words: str):
    found = FOUND | {"split": split}
    ended = events.Finished(run=Path("run"), evaluations={"last": found, "best": found}, seconds=1.0)
    watch(iter([ended]), Path("run"), stop=Stop(), as_json=False)
    last, best = capsys.readouterr().out.splitlines()[:2]
    assert last == f"last iteration: {split} error 8.75 % (95 % interval 8.20 to 9.31, 10,000 images)"
    assert best == f"best by validation: {words}"


def test_a_stopped_training_says_how_to_go_on(capsys: pytest.CaptureFixture[str]):
    assert not watch(training(Path("my run"), finished=False), Path("my run"), stop=Stop(), as_json=False)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "Stopped at step 781; its checkpoint is safe.",
        "Next: residual train --resume --out 'my run'",
    ]


def test_each_line_of_json_is_an_event(capsys: pytest.CaptureFixture[str]):
    assert watch(training(Path("run")), Path("run"), stop=Stop(), as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "note", "measured", "progress", "finished"]
    assert lines[1]["step"] == 780


def drawn(line: LiveLine, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(line)
    file: Any = console.file
    return [row.rstrip() for row in re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()]


def test_the_live_line_tells_what_is_going_on_in_every_state():
    stop = Stop()
    line = LiveLine(stop)
    assert "reading the images" in drawn(line)[0]
    line.saw(next(training(Path("run"))))
    assert "training" in drawn(line)[0]
    line.saw(progress(16_000))
    bar, news = drawn(line)
    assert bar.endswith("25 %  12 min 03 s left")
    assert news == "epoch 41.0  loss 0.412  training error 13.2 %  rate 0.1  6,800 images/s"
    line.saw(events.Measured(step=16_000, split="test", value=9.0, best=False))
    assert drawn(line)[0].endswith("25 %  12 min 03 s left")
    stop.signal = 2
    assert "stopping after this iteration" in drawn(line)[0]
    stop.signal = 0
    line.saw(progress(64_000))
    assert "measuring the trained network" in drawn(line)[0]
    line.saw(events.Finished(run=Path("run"), evaluations={}, seconds=1.0))
    assert drawn(line) == [""]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_live_line_fits_the_terminal(width: int):
    line = LiveLine(Stop())
    line.saw(progress(780))
    rows = drawn(line, width)
    assert len(rows) == 2
    assert max(map(len, rows)) <= width


def test_the_time_left_runs_down_between_two_events(monkeypatch: pytest.MonkeyPatch):
    line = LiveLine(Stop())
    line.saw(progress(780))
    line.since -= 60
    assert drawn(line)[0].endswith("11 min 03 s left")
    line.since -= 6000
    assert drawn(line)[0].endswith(" 0 s left")
