import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.weights.card import Card
from residual.weights.safetensors import save
from residual.weights.sources import load


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


# --- protocols -----------------------------------------------------------------------------------------------

QUIET = ("--workers", 0, "--device", "cpu", "--json")


def found(said: Any, which: str = "last") -> dict[str, Any]:
    assert (said.code, said.err) == (0, "")
    return json.loads(said.out)[which]


def told(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What was measured, without what describes how."""
    return {name: value for name, value in evaluation.items() if name not in ("weights", "protocol", "networks")}


def test_a_number_says_under_which_protocol_it_was_measured(say: Callable[..., Any], trained: Path):
    plain = found(say("evaluate", trained, *QUIET))
    recorded = json.loads((trained / "evaluation.json").read_text())
    assert plain["protocol"] == recorded["protocol"]
    assert (plain["protocol"]["name"], plain["protocol"]["size"]) == ("one-crop", 8)
    shifted = found(say("evaluate", trained, "--protocol", "ten-crop", *QUIET))
    assert (shifted["protocol"]["pad"], shifted["protocol"]["flips"]) == (1, True)
    assert shifted["ece"] != plain["ece"]
    said = say("evaluate", trained, "--flips", "--workers", 0)
    assert "  protocol     the whole image as 8 x 8 pixels, each also mirrored, probabilities averaged" in said.out


def test_photographs_are_read_again_where_squares_lack_what_is_looked_at(say: Callable[..., Any], of_pets: Path):
    pictures(Path("photos"), 3, size=(60, 40))
    words = ("evaluate", of_pets, "--data", "photos", *QUIET)
    one = found(say(*words))
    seen = {
        name: found(say(*words, *options))
        for name, options in {
            "larger": ("--size", 32),
            "bicubic": ("--interpolation", "bicubic"),
            "scales": ("--protocol", "multi-scale", "--scales", "24,40", "--positions", "probabilities"),
            "cropped": ("--crop", 0.75),
            "corners": ("--protocol", "ten-crop", "--crop", 0.75, "--corners", "image", "--average", "logits"),
        }.items()
    }
    assert seen["scales"]["protocol"]["scales"] == [24, 40]
    assert (seen["cropped"]["protocol"]["size"], seen["cropped"]["protocol"]["resize"]) == (24, 32)
    assert seen["larger"]["protocol"]["size"] == 32
    assert len({each["ece"] for each in (one, *seen.values())}) == 6


def another(trained: Path, path: Path) -> Path:
    """Weights of the same network and classes, a little apart."""
    net, rng = load(trained), torch.Generator().manual_seed(1)
    moved = {
        name: value * torch.empty_like(value).uniform_(0.8, 1.2, generator=rng) if value.is_floating_point() else value
        for name, value in net.state_dict().items()
    }
    save(path, moved, net.card)
    return path


def test_an_ensemble_is_the_mean_of_what_its_networks_say(say: Callable[..., Any], trained: Path):
    other = another(trained, Path("other.safetensors"))
    found(say("evaluate", trained, "--keep-scores", "one", *QUIET))
    found(say("evaluate", other, "--data", "digits", "--keep-scores", "two", *QUIET), "file")
    together = found(say("evaluate", trained, "--ensemble", other, *QUIET), "ensemble")
    assert [each["weights"] for each in together["networks"]] == [str(trained / "model.safetensors"), str(other)]
    assert told(together) == told(found(say("evaluate", "one", "--ensemble", "two", "--json"), "ensemble"))
    assert together["ece"] != found(say("evaluate", "one", "--json"), "file")["ece"]


def test_the_same_weights_are_no_ensemble_wherever_they_lie(say: Callable[..., Any], trained: Path):
    other = another(trained, Path("other.safetensors"))
    shutil.copy(trained / "model.safetensors", "copy.safetensors")
    for several in ([trained], ["copy.safetensors"], [other, other]):
        words = [word for each in several for word in ("--ensemble", each)]
        said = say("evaluate", trained, *words, *QUIET)
        before = other if other in several else trained / "model.safetensors"
        assert (said.code, said.out) == (2, "")
        assert f"--ensemble {several[-1]} brings the weights of {before} a second time" in said.err


def test_weights_averaged_with_themselves_say_what_they_say(say: Callable[..., Any], trained: Path):
    alone = found(say("evaluate", trained, *QUIET))
    checkpoint = max((trained / "checkpoints").glob("*.safetensors"))
    mean = found(say("evaluate", trained, "--swa", checkpoint, *QUIET), "average")
    assert mean["averaged"] == [str(trained / "model.safetensors"), str(checkpoint)]
    assert mean["statistics_images"] > 1000
    assert mean["top1_error"] == pytest.approx(alone["top1_error"], abs=3)  # statistics of other augmented images


def test_weights_without_training_images_are_not_averaged(say: Callable[..., Any], trained: Path):
    shutil.copy(trained / "model.safetensors", "weights.safetensors")
    words = ("evaluate", "weights.safetensors", "--data", "digits", "--swa", "weights.safetensors", *QUIET)
    said = say(*words)
    assert said.code == 2
    assert "weights.safetensors does not say which those were; add --train-data DIR" in said.err
    assert found(say(*words, "--train-data", "digits"), "average")["images"] == 359


def test_kept_scores_are_evaluated_without_network_and_images(say: Callable[..., Any], trained: Path):
    measured = found(say("evaluate", trained, "--protocol", "ten-crop", "--keep-scores", "kept", *QUIET))
    again = found(say("evaluate", "kept", "--json"), "file")
    assert told(again) == told(measured)
    assert again["networks"][0]["weights"] == str(trained / "model.safetensors")
    summed = found(say("evaluate", "kept", "--average", "logits", "--json"), "file")
    assert summed["protocol"]["average"] == "logits"
    assert summed["ece"] != measured["ece"]
    shutil.copy("kept", "copy")
    for same in ("kept", "copy"):
        twice = say("evaluate", "kept", "--ensemble", same, "--json")
        assert (twice.code, f"--ensemble {same} brings the scores of kept a second time" in twice.err) == (2, True)
    assert say("evaluate", "kept").out.splitlines()[-1] == "Next: residual evaluate kept --ensemble SCORES"
    before = Path("kept").read_bytes()
    assert say("evaluate", trained, "--keep-scores", "kept", *QUIET).code == 2
    assert Path("kept").read_bytes() == before


def test_why_a_number_differs(say: Callable[..., Any], trained: Path):
    said = say(
        "evaluate", trained, "--explain", "--claimed", 20, "--workers", 0, "--device", "cpu", "--out", "why.json"
    )
    assert (said.code, said.err) == (0, "")
    why = json.loads(Path("why.json").read_text())
    recorded = json.loads((trained / "evaluation.json").read_text())
    assert why["top1_error"] == recorded["top1_error"]
    changes = {one["what"]: one for one in why["changes"]}
    assert {"computed in bfloat16", "averaged with its mirror image", "one mean per pixel"} < set(changes)
    raw, mean = "weights: of the last iteration, without the moving average", "weights: the mean of 2 checkpoints"
    assert {raw, mean} < set(changes)
    effects = [abs(one["effect"]) for one in why["changes"]]
    assert effects == sorted(effects, reverse=True)
    for one in changes.values():
        assert one["error"] - why["top1_error"] == pytest.approx(one["effect"])
        assert one["interval"][0] <= one["effect"] <= one["interval"][1]
    assert "the images are grey" in said.out
    assert said.out.splitlines()[-2].startswith(("Best guess for the claimed 20.00 %", "No single change"))
    assert said.out.splitlines()[-1] == f"Next: residual predict {trained} IMAGE"


def test_photographs_are_explained_from_their_files(say: Callable[..., Any], of_pets: Path):
    pictures(Path("photos"), 3, size=(60, 40))
    said = say("evaluate", of_pets, "--data", "photos", "--explain", *QUIET)
    assert said.code == 0
    what = [one["what"] for one in json.loads(said.out)["changes"]]
    assert {"resized by a bicubic filter", "shorter side 27", "five scales, fully convolutional"} < set(what)


def test_weights_that_were_trained_on_the_images_are_not_combined(say: Callable[..., Any], of_pets: Path):
    assert say("train", "--model", "resnet8", "--data", "pets", "--seed", 4, "--out", "other", *LEARN).code == 0
    for option in ("--ensemble", "--swa"):
        said = say("evaluate", of_pets, option, "other", *QUIET)
        assert said.code == 2
        assert "other was trained on some of the validation images of pets" in said.err
    longer = ("--seed", 3, *LEARN, "--epochs", "2")
    assert say("train", "--model", "resnet8", "--data", "pets", "--out", "longer", *longer).code == 0
    assert found(say("evaluate", of_pets, "--ensemble", "longer", *QUIET), "ensemble")["images"] == 4


def test_a_checkpoint_is_measured_like_weights_and_knows_its_run(say: Callable[..., Any], of_pets: Path):
    checkpoint = max((of_pets / "checkpoints").glob("*.safetensors"))
    assert found(say("evaluate", checkpoint, "--data", "pets", *QUIET), "file")["images"] == 4
    damaged = of_pets / "checkpoints" / "step-99999999.safetensors"
    damaged.write_bytes(b"{")
    said = say("evaluate", damaged, "--data", "pets", *QUIET)
    assert said.code == 2
    assert "no manifest" in said.err


REFUSED = {
    "an unknown protocol": (("--protocol", "five-crop"), ["'five-crop'", "one-crop, ten-crop, multi-scale"]),
    "scales of small images": (("--protocol", "multi-scale"), ["8 pixels", "--protocol one-crop"]),
    "scales that are no numbers": (("--protocol", "multi-scale", "--scales", "8,big"), ["8,big", "224,256,384"]),
    "scales of one crop": (("--scales", "8"), ["--scales is not of protocol one-crop"]),
    "a crop of whole images": (("--protocol", "multi-scale", "--crop", "1"), ["--crop is not of protocol multi-scale"]),
    "corners of one crop": (("--corners", "image"), ["--corners is not of protocol one-crop"]),
    "corners of squeezed images": (("--protocol", "ten-crop", "--corners", "image"), ["keeps its shape"]),
    "unknown corners": (("--protocol", "ten-crop", "--corners", "all"), ["--corners all", "square or image"]),
    "an unknown average": (("--average", "votes"), ["--average votes", "probabilities or logits"]),
    "an unknown filter": (("--interpolation", "nearest"), ["--interpolation nearest", "bilinear or bicubic"]),
    "an unknown format": (("--precision", "int8"), ["--precision int8", "float32 or bfloat16"]),
    "no size": (("--size", "0"), ["sides of 0"]),
    "a crop larger than the image": (("--crop", "1.2"), ["at most 1, not 1.2"]),
    "a claim to be explained by nobody": (("--claimed", "8.27"), ["--explain"]),
    "a claim beyond all": (("--explain", "--claimed", "827"), ["827", "0 to 100"]),
    "an explanation of an ensemble": (("--explain", "--ensemble", "x"), ["--ensemble", "leave one of them out"]),
    "lists of a detector": (("--lists", "07"), ["--lists 07 chooses among images with objects, for a detector"]),
    "training images for nothing": (("--train-data", "digits"), ["--swa and --explain"]),
    "an ensemble with nobody": (("--ensemble", "nowhere"), ["'nowhere'"]),
    "other classes": (("--ensemble", "pets-net"), ["only one has"]),
    "weights of other classes": (("--swa", "pets-net"), ["whose classes are the same", "--ensemble"]),
    "one file for two": (("--out", "x", "--keep-scores", "./x"), ["--out and --keep-scores both name x"]),
    "scores kept nowhere": (("--keep-scores", "no/where"), ["no folder no"]),
}


@pytest.mark.parametrize("options, words", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_measured_is_refused_with_a_way_out(
    options: tuple[str, ...], words: list[str], say: Callable[..., Any], trained: Path
):
    if "pets-net" in options:
        _grey_network_of_two_classes(Path("pets-net"))
    said = say("evaluate", trained, *options, "--workers", 0, "--device", "cpu")
    assert (said.code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert "fault of ours" not in said.err
    for word in words:
        assert word in said.err


def _grey_network_of_two_classes(path: Path) -> None:
    description = replace(describe("resnet8"), classes=2, channels=1)
    preprocessing = Preprocessing(size=8, channels="L", mean=(0,), std=(1,))
    card = Card(name="resnet8", model=description, classes=("cat", "dog"), preprocessing=preprocessing)
    save(path, ResNet(description).state_dict(), card)


@pytest.mark.parametrize(
    "options", [("--data", "digits"), ("--size", 9), ("--explain",), ("--protocol", "ten-crop"), ("--no-flips",)]
)
def test_scores_know_nothing_of_images(options: tuple[object, ...], say: Callable[..., Any], trained: Path):
    assert say("evaluate", trained, "--keep-scores", "kept", *QUIET).code == 0
    said = say("evaluate", "kept", *options)
    assert said.code == 2
    named = str(options[0]).replace("--no-", "--")
    assert f"kept holds scores, not a network, so {named} cannot be" in said.err
