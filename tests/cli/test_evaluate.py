import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from residual.cli.evaluate import _tell


@pytest.mark.parametrize(
    "which, split, spread",
    [
        ("last", "validation", "95 % interval 4.00 to 6.00"),
        ("best", "test", "95 % interval 4.00 to 6.00"),
        ("best", "validation", "no interval: chosen by validation error"),
    ],
)
def test_an_error_that_chose_its_weights_has_no_interval(
    which: str, split: str, spread: str, capsys: pytest.CaptureFixture[str]
):
    found = {"split": split, "images": 100, "top1_error": 5.0, "interval": (4.0, 6.0), "ece": 0.1, "per_class": []}
    _tell(which, found)
    assert f"  top-1 error  5.00 %   ({spread})" in capsys.readouterr().out.splitlines()


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


LEARN = ("--recipe", "modern", "--epochs", "1", "--device", "cpu", "--workers", "0")


def pictures(folder: Path, count: int = 10, size: tuple[int, int] = (24, 24), seed: int = 0) -> Path:
    """Noise of two classes."""
    for number in range(count):
        for label, name in enumerate(("cat", "dog")):
            noise = np.random.default_rng((seed, label, number)).integers(0, 256, (*size, 3), np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(folder / name / f"{number}.png")
    return folder


def measured(said: Any) -> tuple[str, int]:
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)["last"]
    return found["split"], found["images"]


@pytest.fixture
def of_pets(say: Callable[..., Any], quiet_place: Path) -> Path:
    """A run on a folder without splits, with a seed that is not 0."""
    pictures(quiet_place / "pets")
    assert say("train", "--model", "resnet8", "--data", "pets", "--seed", 3, "--out", "run", *LEARN).code == 0
    return Path("run")


def test_images_that_were_trained_on_are_never_measured(say: Callable[..., Any], of_pets: Path):
    shutil.copytree("pets", "copy")
    for data in ("pets", "./pets", "copy"):  # another place, the same images
        assert measured(say("evaluate", of_pets, "--data", data, "--workers", 0, "--json")) == ("validation", 4)
    own = say("evaluate", of_pets / "model.safetensors", "--data", "copy", "--workers", 0, "--json")
    assert json.loads(own.out)["file"]["images"] == 4
    pictures(Path("new"), seed=1)
    assert measured(say("evaluate", of_pets, "--data", "new", "--workers", 0, "--json")) == ("all", 20)


def test_the_training_part_of_a_split_is_refused_by_its_own_name_too(say: Callable[..., Any], quiet_place: Path):
    pictures(quiet_place / "pets" / "train")
    pictures(quiet_place / "pets" / "val", 3, seed=1)
    assert say("train", "--model", "resnet8", "--data", "pets", "--out", "run", *LEARN).code == 0
    assert measured(say("evaluate", "run", "--data", "pets", "--workers", 0, "--json")) == ("validation", 6)
    said = say("evaluate", "run", "--data", "pets/train", "--workers", 0)
    assert said.code == 2
    assert "was trained on" in said.err
    assert "residual evaluate run" in said.err


@pytest.mark.parametrize("keys", [("fingerprint", "fingerprints"), ("fingerprint",)], ids="+".join)
def test_changed_data_is_not_measured_as_the_run_s_own(say: Callable[..., Any], of_pets: Path, keys: tuple[str, ...]):
    described = json.loads((of_pets / "run.json").read_text())
    described["data"] = {k: v for k, v in described["data"].items() if not k.startswith("fingerprint") or k in keys}
    (of_pets / "run.json").write_text(json.dumps(described))
    assert say("evaluate", of_pets, "--workers", 0).code == 0
    pictures(Path("pets"), 11)
    for words in ((), ("--data", "pets")):
        said = say("evaluate", of_pets, *words, "--workers", 0)
        assert said.code == 2
        assert "with --data" in said.err
    assert "train images in pets are not those of run" in say("evaluate", of_pets, "--workers", 0).err


def test_changed_held_out_images_are_not_measured_as_the_run_s_own(say: Callable[..., Any], quiet_place: Path):
    pictures(quiet_place / "pets" / "train")
    pictures(quiet_place / "pets" / "val", 3, seed=1)
    assert say("train", "--model", "resnet8", "--data", "pets", "--out", "run", *LEARN).code == 0
    pictures(quiet_place / "pets" / "val", 3, seed=2)
    said = say("evaluate", "run", "--workers", 0)
    assert said.code == 2
    assert "validation images in pets are not those of run" in said.err
    assert measured(say("evaluate", "run", "--data", "pets", "--workers", 0, "--json")) == ("validation", 6)


def test_a_training_inside_the_data_goes_on_and_is_measured(
    say: Callable[..., Any], quiet_place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(pictures(quiet_place / "pets"))
    assert say("train", "--model", "resnet8", "--data", ".", *LEARN).code == 0
    assert say("train", "--resume", "--out", "runs/resnet8").code == 0
    assert measured(say("evaluate", "runs/resnet8", "--workers", 0, "--json")) == ("validation", 4)
    assert say("train", "--model", "resnet8", "--data", ".", *LEARN).code == 0
    assert Path("runs/resnet8-2/model.safetensors").is_file()


def test_photographs_are_measured_as_they_are_predicted(
    say: Callable[..., Any], of_pets: Path, monkeypatch: pytest.MonkeyPatch
):
    """A network of 24 pixels looks at the whole photograph, not at the middle of a square of 146."""
    pictures(Path("photos"), 6, size=(300, 200))
    out = Path("evaluation.json")
    words = ("--data", "photos", "--workers", 0, "--device", "cpu")
    assert say("evaluate", of_pets, *words, "--json", "--out", out).code == 0
    mistakes = json.loads(out.read_text())["last"]["mistakes"]
    assert mistakes
    lines = say("predict", of_pets, "photos", "--workers", 0, "--device", "cpu", "--json").out.splitlines()
    predicted = {one["path"].removeprefix("photos/"): one for one in map(json.loads, lines[: 2 * 6])}
    wrong = {name: one for name, one in predicted.items() if not name.startswith(one["classes"][0])}
    assert {one["name"]: one["probability"] for one in mistakes} == {
        name: pytest.approx(one["probabilities"][0], abs=1e-5) for name, one in wrong.items()
    }
