"""What a user can get wrong: one paragraph with the way out, exit code 2, nothing written, nothing lost."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

LEARN = ("train", "--model", "resnet8")
DIGITS = ("--data", "digits", "--epochs", "0.1", "--device", "cpu", "--workers", "0")

WRONG = {  # what is wrong: the command, and what the answer must say
    "missing data": ((*LEARN, "--data", "nowhere"), ["no 'nowhere'", "cifar10", "folder"]),
    "no data at all": (LEARN, ["--data must be given", "residual train --model"]),
    "empty words": ((*LEARN, "--data", ""), ["--data must be given"]),
    "data that is a file": ((*LEARN, "--data", "words.txt"), ["words.txt is a file", "folder"]),
    "one class": ((*LEARN, "--data", "one"), ["'cat'", "one folder per class"]),
    "an empty folder": ((*LEARN, "--data", "empty"), ["no folders and no images", "cat/1.jpg"]),
    "cifar10 not there": ((*LEARN, "--data", "cifar10"), ["CIFAR-10 is not here", "--download"]),
    "unknown network": (("train", "--model", "resnet5O", "--data", "digits"), ["resnet5O", "resnet50", "models"]),
    "no such depth": (("train", "--model", "resnet21", "--data", "digits"), ["6n + 2", "20 or 26"]),
    "no such depth to look at": (("models", "resnet21"), ["6n + 2", "20 or 26"]),
    "no time": ((*LEARN, "--data", "digits", "--time", "0"), ["'0'", "15m"]),
    "two lengths": ((*LEARN, "--data", "digits", "--time", "5m", "--epochs", "3"), ["--time 5m", "one of them"]),
    "epochs without number": ((*LEARN, *DIGITS, "--epochs", "many"), ["--epochs", "train --help"]),
    "endless epochs": ((*LEARN, *DIGITS, "--epochs", "nan"), ["--epochs is nan", "more than 0"]),
    "misspelt option": ((*LEARN, "--epoch", "3"), ["--epoch", "--epochs"]),
    "misspelt command": (("trian", "--model", "resnet8"), ["'trian'", "'train'"]),
    "command without verb": (("data",), ["residual data --help"]),
    "unknown recipe": ((*LEARN, *DIGITS, "--recipe", "papr"), ["'papr'", "modern, paper"]),
    "recipe of other networks": (
        ("train", "--model", "resnet50", "--data", "digits", "--recipe", "wide"),
        ["CIFAR", "--recipe modern"],
    ),
    "fine-tuning from nothing": (
        ("train", "--recipe", "finetune", "--model", "resnet20", "--data", "digits"),
        ["name of a network, not a file", "residual train"],
    ),
    "weights instead of a network": (("train", "--model", "run", "--data", "digits"), ["--recipe finetune"]),
    "unknown device": ((*LEARN, *DIGITS, "--device", "cuda:7"), ["'cuda:7'", "--device auto", "cpu"]),
    "negative seed": ((*LEARN, *DIGITS, "--seed", "-1"), ["--seed", "0"]),
    "negative workers": ((*LEARN, *DIGITS, "--workers", "-1"), ["--workers", "0"]),
    "tiny images": ((*LEARN, *DIGITS, "--size", "3"), ["--size is 3", "8 to 2048"]),
    "resume as another network": (("train", "--resume", "--out", "run", "--model", "resnet14"), ["resnet8", "--out"]),
    "resume for another length": (("train", "--resume", "--out", "run", "--epochs", "7"), ["epochs", "--out"]),
    "resume of no run": (("train", "--resume", "--out", "pets"), ["pets is not a run folder", "leave --resume out"]),
    "resume of nothing named": (("train", "--resume"), ["--out runs/NAME"]),
    "resume of a damaged run": (("train", "--resume", "--out", "damaged"), ["damaged/run.json", "truncated"]),
    "run folder that holds a run": ((*LEARN, *DIGITS, "--out", "run"), ["--resume --out run", "another folder"]),
    "file in the run's place": ((*LEARN, *DIGITS, "--out", "words.txt"), ["words.txt is a file", "--out"]),
    "file in the way of the run": ((*LEARN, *DIGITS, "--out", "words.txt/a/b"), ["words.txt is a file", "--out"]),
    "demo in the place of a file": (("demo", "--out", "words.txt"), ["words.txt is a file", "--out"]),
    "demo that is done": (("demo", "--out", "finished"), ["finished demo", "--out"]),
    "pickle that would run": (("predict", "payload.pth", "pets"), ["posix.system", "only tensors"]),
    "pickle of its own": (("weights", "inspect", "bare.pth"), ["posix.system", "state_dict()"]),
    "truncated weights": (("evaluate", "cut.safetensors", "--data", "digits"), ["cut.safetensors", "fetch it again"]),
    "truncated weights to look at": (("weights", "inspect", "cut.safetensors"), ["cut.safetensors", "fetch it again"]),
    "other classes": (("evaluate", "run", "--data", "pets", "--workers", "0"), ["'cat'", "fine-tune"]),
    "weights without images": (("evaluate", "run/model.safetensors"), ["--data DIR"]),
    "run without weights": (("evaluate", "begun"), ["residual train --resume --out begun"]),
    "unknown protocol": (("evaluate", "run", "--protocol", "five-crop"), ["'five-crop'", "one-crop"]),
    "evaluation onto a file": (("evaluate", "run", "--out", "words.txt"), ["words.txt exists", "another file"]),
    "evaluation into no folder": (("evaluate", "run", "--out", "no/where.json"), ["no folder no", "make it first"]),
    "missing image": (("predict", "run", "missing.png"), ["'missing.png'", "standard input"]),
    "folder without images": (("predict", "run", "notes", "--workers", "0"), ["no image", "notes", "JPEG"]),
    "weights that are not there": (("predict", "nowhere", "pets"), ["'nowhere'", "no such file"]),
    "no classes to name": (("predict", "run", "pets", "--top", "0"), ["--top", "1"]),
    "report of no run": (("report", "run", "pets"), ["pets is not a run folder", "residual train"]),
    "report of nothing": (("report",), ["RUN", "residual report --help"]),
    "conversion onto a file": (
        ("weights", "convert", "run/model.safetensors", "words.txt"),
        ["words.txt exists", "another file"],
    ),
    "conversion of nothing": (("weights", "convert", "nowhere", "new.safetensors"), ["'nowhere'"]),
    "check of nothing": (("data", "check", "nowhere"), ["no 'nowhere'"]),
}
OUTSIDE = (  # these in a process of their own too: imports, signals and exit codes as the shell sees them
    "missing data",
    "no such depth",
    "no time",
    "misspelt option",
    "resume of no run",
    "file in the run's place",
    "pickle that would run",
    "report of no run",
)


class Payload:
    """Unpickled, it leaves a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


@pytest.fixture
def surroundings(quiet_place: Path, cats_and_dogs: Path, trained: Path) -> Path:
    """A place with everything that the commands above stumble over."""
    shutil.copytree(trained, quiet_place / "run")
    shutil.copytree(cats_and_dogs / "cat", quiet_place / "one" / "cat")
    for folder in ("empty", "notes", "damaged", "begun", "finished"):
        (quiet_place / folder).mkdir()
    (quiet_place / "finished" / "demo.json").write_text("{}")
    (quiet_place / "notes" / "list.txt").write_text("milk")
    (quiet_place / "words.txt").write_text("precious")
    described = (trained / "run.json").read_bytes()
    (quiet_place / "begun" / "run.json").write_bytes(described)
    (quiet_place / "damaged" / "run.json").write_bytes(described[: len(described) // 2])
    weights = (trained / "model.safetensors").read_bytes()
    (quiet_place / "cut.safetensors").write_bytes(weights[: len(weights) // 2])
    payload = Payload(quiet_place.parent / "sentinel")
    (quiet_place / "bare.pth").write_bytes(pickle.dumps(payload))
    torch.save({"state_dict": payload}, quiet_place / "payload.pth")
    return quiet_place


def everything(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and content of all that is in and around `folder`."""
    return {
        str(path): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in (folder.parent, *folder.parent.rglob("*"))
    }


def judge(said: Any, words: list[str], code: int = 2) -> None:
    assert said.code == code, said
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, "not one paragraph"
    assert "Traceback" not in said.out + said.err
    assert "fault of ours" not in said.err
    for word in words:
        assert word in said.err


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_command_is_told_what_to_do_and_changes_nothing(what: str, surroundings: Path, say: Callable[..., Any]):
    command, words = WRONG[what]
    before = everything(surroundings)
    judge(say(*command), words)
    assert everything(surroundings) == before


@pytest.mark.parametrize("what", OUTSIDE)
def test_so_it_is_in_a_process_of_its_own(what: str, surroundings: Path, end: Callable[..., Any]):
    command, words = WRONG[what]
    before = everything(surroundings)
    said = end(*command)
    judge(said, words)
    assert said.out == ""
    assert everything(surroundings) == before


@pytest.mark.skipif(
    not Path("/sys/kernel").is_dir(), reason="needs Linux: /sys can be written by nobody, not by root either"
)
def test_a_folder_that_nobody_can_write_is_refused(surroundings: Path, say: Callable[..., Any]):
    before = everything(surroundings)
    judge(say(*LEARN, *DIGITS, "--out", "/sys/run"), ["/sys/run", "--out"])
    assert everything(surroundings) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_refused(surroundings: Path, say: Callable[..., Any]):
    (surroundings / "notes").chmod(0o555)
    judge(say(*LEARN, *DIGITS, "--out", "notes/run"), ["notes is not writable", "--out"])
    judge(say("weights", "convert", "run/model.safetensors", "notes/new.safetensors"), ["notes is not writable"])
