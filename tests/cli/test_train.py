import json
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from residual.cli.train import seconds
from residual.pipeline import planned

QUICK = ("--data", "digits", "--epochs", "0.1", "--device", "cpu", "--workers", "0")


@pytest.mark.parametrize(
    "text, value", [("90s", 90), ("15m", 900), ("1h30m", 5400), ("1.5h", 5400), ("2h1m30s", 7290), (" 5m ", 300)]
)
def test_a_duration_is_read(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "0s", "15", "m", "-5m", "5m1h", "five", "1e3s", "nan", "1 h"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ValueError, match="1h30m, 15m, 90s"):
        seconds(text)


def test_the_settings_arrive_in_the_plan_and_the_folder_is_named_for_the_network(
    say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    for expected in ("runs/resnet8", "runs/resnet8-2"):
        said = say("train", "--model", "resnet8", *QUICK, "--seed", 3, "--recipe", "paper")
        assert said.code == 0, said.err
        assert said.out.splitlines()[-1] == f"Next: residual predict {expected} IMAGE"
    plan = planned(Path("runs/resnet8-2"))
    assert plan == replace(plan, model="resnet8", data="digits", seed=3, device="cpu", workers=0, budget=None)
    assert (plan.recipe.name, plan.recipe.epochs, plan.recipe.iterations) == ("paper", 0.1, None)
    assert (Path("runs/resnet8-2") / "report.html").is_file()
    said = say("train", "--resume", "--out", "runs/resnet8-2", "--accumulate", 2)
    assert (said.code, "accumulate 1" in said.err) == (2, True)


def test_a_batch_may_pass_in_parts(say: Callable[..., Any]):
    assert say("train", "--model", "resnet8", *QUICK, "--accumulate", 4, "--out", "run").code == 0
    assert planned(Path("run")).recipe.accumulate == 4
    odd = say("train", "--model", "resnet8", *QUICK, "--accumulate", 7, "--out", "odd")
    assert odd.code == 2
    assert "7 parts" in odd.err
    assert not Path("odd").exists()


def test_json_lines_parse_and_resuming_a_complete_run_says_the_same_again(say: Callable[..., Any]):
    said = say("train", "--model", "resnet8", *QUICK, "--out", "run", "--json")
    first = [json.loads(line) for line in said.out.splitlines()]
    assert [first[0]["event"], first[-1]["event"]] == ["started", "finished"]
    said = say("train", "--resume", "--out", "run", "--json", "--model", "resnet8", "--seed", 0)
    again = [json.loads(line) for line in said.out.splitlines()]
    assert again[-1]["evaluations"]["last"]["top1_error"] == first[-1]["evaluations"]["last"]["top1_error"]


def test_a_run_is_gone_on_from_on_other_data(say: Callable[..., Any], trained: Path, cats_and_dogs: Path):
    fine = ("--recipe", "finetune", "--data", cats_and_dogs, "--epochs", "1", "--size", "24", "--workers", "0")
    said = say("train", "--model", trained, *fine, "--device", "cpu", "--out", "fine")
    assert (said.code, said.err) == (0, "")
    described = json.loads(Path("fine/run.json").read_text())
    assert described["recipe"]["name"] == "finetune"
    assert described["data"]["classes"] == ["cat", "dog"]


def test_what_torchrun_starts_again_goes_on_with_its_run(say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    words = ("train", "--model", "resnet8", *QUICK, "--out", "run")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert say(*words).code == 0  # nothing had begun before the restart
    again = say(*words)
    assert (again.code, again.err) == (0, "")
    assert "going on from step" in again.out
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert "already holds a run" in say(*words).err


def test_a_restart_without_a_folder_does_not_begin_another_run(
    say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    said = say("train", "--model", "resnet8", *QUICK)
    assert said.code == 2
    assert "--out" in said.err
    assert not Path("runs").exists()


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_goes_on_by_the_command_it_printed(
    number: int, code: int, start: Callable[..., Any], say: Callable[..., Any]
):
    run = Path("my run")
    words = ("--data", "digits", "--epochs", "6", "--device", "cpu", "--workers", "0", "--out", run)
    process = start("train", "--model", "resnet8", *words)
    until = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, "")
    assert "\x1b" not in out, "no terminal, so no control characters"
    stopped, following = out.splitlines()[-2:]
    step = int(stopped.removeprefix("Stopped at step ").removesuffix("; its checkpoint is safe."))
    manifests = sorted((run / "checkpoints").glob("step-*.json"))
    assert int(manifests[-1].stem.removeprefix("step-")) == step
    program, *words = shlex.split(following.removeprefix("Next: "))
    assert program == "residual"
    finished = say(*words)
    assert (finished.code, finished.err) == (0, "")
    assert f"going on from step {step}" in finished.out
    assert "my run is complete" in finished.out
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_second_interruption_ends_at_once_and_loses_no_checkpoint(start: Callable[..., Any]):
    process = start("train", "--model", "resnet8", "--data", "digits", "--device", "cpu", "--out", "run")
    while not Path("run/metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    assert err == ""
    assert list(Path("run/checkpoints").glob("step-*.json"))


def test_a_detector_is_trained_by_the_same_command(say: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    from residual.data import open_objects

    monkeypatch.setattr(open_objects, "SCENES", {"train": 8, "validation": 2, "test": 3})
    options = ("--data", "scenes", "--epochs", "1", "--size", "48", "--device", "cpu", "--workers", "0")
    said = say("train", "--model", "faster_rcnn_small_c4", *options)
    assert said.code == 0, said.err
    assert "test mAP@.5" in said.out
    assert said.out.splitlines()[-1] == "Next: residual detect runs/faster_rcnn_small_c4 IMAGE"
    assert Path("runs/faster_rcnn_small_c4/report.html").is_file()
    said = say("train", "--resume", "--out", "runs/faster_rcnn_small_c4", "--size", 96)
    assert (said.code, "started with size 48" in said.err) == (2, True)


@pytest.mark.parametrize(
    "options, words",
    [
        (("--model", "faster_rcnn_resnet50", "--data", "scenes"), "faster_rcnn_resnet50_c4"),
        (("--model", "faster_rcnn_small_c4", "--data", "scenes", "--recipe", "wide"), "for detectors"),
        (("--model", "faster_rcnn_small_c4", "--data", "scenes", "--accumulate", "2"), "--accumulate is not for"),
        (("--model", "faster_rcnn_small_c4", "--data", "cifar10"), "no boxes"),
        (("--model", "resnet20", "--data", "digits", "--trunk", "runs/x"), "--trunk is not for a classifier"),
        (("--model", "resnet20", "--data", "digits", "--lists", "07+12"), "--lists is not for a classifier"),
    ],
)
def test_what_is_not_for_this_kind_of_network_is_refused(say: Callable[..., Any], options, words):
    said = say("train", *options)
    assert (said.code, words in said.err) == (2, True), said.err
    assert not Path("runs").exists()


def test_a_classifier_is_not_trained_on_boxes(say: Callable[..., Any], shared_data: Path):
    said = say("train", "--model", "resnet18", "--data", shared_data / "voc_small")
    assert (said.code, "--model faster_rcnn_resnet50_c4" in said.err) == (2, True), said.err
