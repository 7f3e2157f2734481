import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_run_is_measured_on_its_own_data(say: Callable[..., Any], trained: Path):
    said = say("evaluate", trained, "--device", "cpu")
    assert (said.code, said.err) == (0, "")
    recorded = json.loads((trained / "evaluation.json").read_text())
    assert f"top-1 error  {recorded['top1_error']:.2f} %" in said.out
    assert said.out.splitlines()[0].startswith("last iteration: ")
    assert said.out.splitlines()[-1] == f"Next: residual predict {trained} IMAGE"


def test_json_of_an_evaluation_parses_and_the_file_holds_the_mistakes_too(
    say: Callable[..., Any], trained: Path, tmp_path: Path
):
    out = tmp_path / "evaluation.json"
    said = say("evaluate", trained / "model.safetensors", "--data", "digits", "--device", "cpu", "--json", "--out", out)
    printed, kept = json.loads(said.out), json.loads(out.read_text())
    assert printed["file"]["top1_error"] == kept["file"]["top1_error"]
    assert "mistakes" not in printed["file"]
    assert kept["file"]["mistakes"]


def test_best_and_last_weights_are_measured_each_under_its_name(say: Callable[..., Any]):
    quick = ("--epochs", "0.1", "--device", "cpu", "--workers", "0")
    assert say("train", "--model", "resnet8", "--data", "digits", "--recipe", "paper-choosing", *quick).code == 0
    said = say("evaluate", "runs/resnet8", "--device", "cpu", "--json")
    found = json.loads(said.out)
    assert set(found) == {"last", "best"}
    for which, name in (("last", "evaluation.json"), ("best", "evaluation-best.json")):
        recorded = json.loads((Path("runs/resnet8") / name).read_text())
        assert found[which]["top1_error"] == pytest.approx(recorded["top1_error"])
