"""Made-up records of a finished run and of a demo, in the form that training and the demo leave them."""

import base64
import io
import json
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from residual.report import write

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ENVIRONMENT = {
    "python": "3.11.7", "platform": "Linux-6.1-x86_64", "cpu": "AMD EPYC 7B13", "cores": 8, "gpu": None,
    "commit": "1f0c9a7be2d34c11", "torch": "2.15.0", "torchvision": "0.30.0", "numpy": "2.4.0", "threads": 8,
}  # fmt: skip
STAGES = (  # name, side, blocks, channels, parameters, macs of ResNet-20
    ("stem", 32, 0, 16, 464, 442_368),
    ("stage 1", 32, 3, 16, 14_016, 14_155_776),
    ("stage 2", 16, 3, 32, 51_072, 12_976_128),
    ("stage 3", 8, 3, 64, 203_520, 12_976_128),
    ("classifier", 1, 0, 10, 650, 640),
)
MODEL = {
    "name": "resnet20", "block": "basic", "depths": [3, 3, 3], "widths": [16, 32, 64], "stem": "cifar",
    "image": 32, "stem_width": 16, "shortcut": "A", "order": "original", "checkpoint": False,
}  # fmt: skip
RECIPE = {
    "name": "paper", "iterations": 64_000, "epochs": None, "batch": 128, "average": None,
    "schedule": {"shape": "steps", "rate": 0.1, "drops": [0.5, 0.75], "warmup": 0.0, "warmup_error": None},
    "optimizer": {"momentum": 0.9, "decay": 1e-4}, "augmentation": {"crop": "pad", "pad": 4, "flip": True},
}  # fmt: skip


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: Any) -> Path:
        return write_run(tmp_path / "run", **changes)

    return make


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose report is written once for all tests that only read it."""
    run = write_run(tmp_path_factory.mktemp("finished") / "run")
    write(run)
    return run


@pytest.fixture
def make_demo(tmp_path: Path) -> Callable[..., Path]:
    def make(**changes: Any) -> Path:
        return write_demo(tmp_path / "demo", **changes)

    return make


def write_run(folder: Path, *, classes: tuple[str, ...] = CIFAR, evaluated: bool = True) -> Path:
    """run.json, metrics.jsonl and the evaluations of a finished training."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    keys = ("name", "side", "blocks", "channels", "parameters", "macs")
    run = {
        "name": "first-try",
        "model": MODEL | {"classes": len(classes)},
        "recipe": RECIPE,
        "data": {
            "origin": "cifar10",
            "fingerprint": "9c7b1e6f" * 8,
            "counts": {"train": 45_000, "validation": 5_000, "test": 10_000},
            "classes": list(classes),
            "split": {"validation": "5,000 of the training images, the same share of every class, seed 0"},
            "problems": [{"path": "train/cat/0331.png", "reason": "the file ends after 412 of 2,210 bytes"}],
        },
        "preprocessing": {"size": 32, "channels": "RGB", "mean": [120 + rng.random() for _ in range(3072)]},
        "seed": 7,
        "precision": "float32",
        "device": "cpu",
        "processes": 1,
        "environment": ENVIRONMENT,
        "command": ["/usr/bin/residual", "train", "--model", "resnet20", "--data", "cifar10"],
        "started": "2026-01-14T09:12:44+00:00",
        "stages": [dict(zip(keys, row, strict=True)) for row in STAGES],
        "plan": {"budget": None},
    }
    (folder / "run.json").write_text(json.dumps(run, sort_keys=True))
    write_metrics(folder / "metrics.jsonl", rng)
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps(evaluation(classes, rng)))
        best = evaluation(classes, rng) | {"top1_error": 8.17}
        (folder / "evaluation-best.json").write_text(json.dumps(best))
    return folder


def write_metrics(path: Path, rng: random.Random) -> None:
    """64,000 iterations whose curves look like those of figure 6."""
    lines: list[dict[str, Any]] = []
    for step in range(100, 64_001, 100):
        phase = (step > 32_000) + (step > 48_000)
        noise = rng.gauss(0, 1.6 / (1 + phase))
        train = max((14.0, 4.2, 1.9)[phase] + 60 * math.exp(-step / 2_500) + noise, 0.3)
        common = {"step": step, "epoch": step * 128 / 45_000, "time": step * 0.041}
        lines.append(common | {"loss": train / 30 + 0.01, "rate": 0.1**phase / 10, "train_error": train})
        if step % 1600 == 0:
            noise = rng.gauss(0, (2.2, 0.25, 0.08)[phase])
            error = (17.5, 9.6, 9.1)[phase] + 40 * math.exp(-step / 3_000) + noise
            lines.append(common | {"validation_error": error, "weights": "last"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluation(classes: tuple[str, ...], rng: random.Random) -> dict[str, Any]:
    """One evaluation whose parts agree with each other."""
    each, kinds = 10_000 // len(classes), len(classes)
    confusion = []
    for truth in range(kinds):
        row = [0] * kinds
        for _ in range(int(each * rng.uniform(0.03, 0.18))):
            row[(truth + (2 if rng.random() < 0.5 else rng.randrange(1, kinds))) % kinds] += 1
        row[truth] += each - sum(row)
        confusion.append(row)
    error = 100 * (1 - sum(row[i] for i, row in enumerate(confusion)) / (each * kinds))
    accuracies = (None, 0.11, 0.2, 0.29, 0.39, 0.5, 0.61, 0.71, 0.8, 0.955)
    counts = (0, 2, 31, 96, 180, 260, 330, 470, 890, 7741)
    return {
        "split": "test",
        "weights": "last",
        "images": each * kinds,
        "top1_error": error,
        "top5_error": 0.41,
        "interval": [error - 0.55, error + 0.56],
        "ece": 0.0412,
        "per_class": [
            {"class": name, "images": each, "error": 100 * (1 - confusion[i][i] / each)}
            for i, name in enumerate(classes)
        ],
        "confusion": confusion,
        "reliability": [
            {"confidence": 0.05 + i / 10 if count else None, "accuracy": accuracy, "count": count}
            for i, (accuracy, count) in enumerate(zip(accuracies, counts, strict=True))
        ],
        "mistakes": [
            {
                "name": f"test/{classes[i % kinds]}/{i:04d}.png",
                "truth": classes[i % kinds],
                "predicted": classes[(i + 3) % kinds],
                "probability": 0.9995 - 0.01 * i,
                "png": png(rng),
            }
            for i in range(15)
        ],
    }


def png(rng: random.Random) -> str:
    """A blot of colours, 32 pixels a side, as base64."""
    colours = bytes(rng.randrange(256) for _ in range(48))
    file = io.BytesIO()
    Image.frombytes("RGB", (4, 4), colours).resize((32, 32), Image.Resampling.BICUBIC).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_demo(folder: Path, *, holds: bool = True) -> Path:
    """demo.json; where the claim does not hold, all networks end alike."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    finals = {("plain", 8): 9.0, ("plain", 50): 21.0, ("residual", 8): 8.6, ("residual", 50): 3.1}
    runs = []
    for (family, depth), level in finals.items():
        for seed in range(3):
            final = (level if holds else 9.0) + rng.gauss(0, 0.7)
            errors = {step: final + (85 - final) * math.exp(-step / 130) for step in range(20, 801, 20)}
            runs.append(
                {
                    "network": f"{'plain' if family == 'plain' else 'resnet'}{depth}",
                    "family": family,
                    "depth": depth,
                    "seed": seed,
                    "curve": [
                        {"step": step, "epoch": step / 45, "train_error": error + rng.gauss(0, 0.6)}
                        for step, error in errors.items()
                    ],
                    "final": {"train_error": final, "test_error": final + 2.5, "train_loss": final / 30},
                }
            )
    shows = "Depth hurt the plain networks (21.0 % against 9.0 %, p = 0.002) and not the residual ones."
    fails = "The plain network of 50 layers was not worse than that of 8 beyond chance (p = 0.41)."
    tests = [
        {
            "claim": "plain: deep is worse",
            "p": 0.002 if holds else 0.41,
            "holds": holds,
            "numbers": {"deep": 21.0},
        },
        {"claim": "residual: deep is not worse", "p": 0.0004, "holds": True, "numbers": [8.6, 3.1]},
    ]
    demo = {
        "claim": "Going from 8 to 50 layers raises the training error of plain networks only.",
        "verdict": {"holds": holds, "sentence": shows if holds else fails, "tests": tests},
        "depths": [8, 50],
        "runs": runs,
        "environment": ENVIRONMENT,
        "seconds": 412.0,
        "settings": {"data": "digits", "images": 1437, "iterations": 800, "batch": 32, "rate": 0.1},
    }
    (folder / "demo.json").write_text(json.dumps(demo))
    return folder


@pytest.fixture
def read_page() -> Callable[[Path], "ReadPage"]:
    return ReadPage


@pytest.fixture
def make_detector(tmp_path: Path) -> Callable[..., Path]:
    """A detector's or localizer's run from its evaluation; no metrics, whose charts take most of a page's time."""

    def make(evaluation: dict[str, Any] | None, **changes: Any) -> Path:
        return write_detector_run(tmp_path / "run", evaluation, **changes)

    return make


@pytest.fixture
def trained() -> Callable[[Path, dict[str, float]], Path]:
    return write_parts


def write_detector_run(folder: Path, evaluation: dict[str, Any] | None, **changes: Any) -> Path:
    """run.json and evaluation.json as a detector's training leaves them; changes: of run.json."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "name": "shapes, first try",
        "task": "detection",
        "model": {"name": "mask_rcnn_small_c4", "frozen": False, "proposals": {"sizes": [27.3, 54.6, 109.2]}},
        "recipe": {"name": "modern", "batch": 8, "schedule": {"shape": "cosine", "rate": 0.02}},
        "data": {
            "origin": "drawn scenes, seed 0",
            "fingerprint": "9c7b1e6f" * 8,
            "counts": {"train": 1_000, "validation": 100, "test": 60},
            "objects": {"train": 2_204, "validation": 220, "test": 153},
            "problems": [{"path": "Annotations/000012.xml", "reason": "box (4, 8, 4, 90) has no area"}],
        },
        "procedure": {"side": 128, "longest": 1000, "sides": [], "widest": 2000, "refined": False, "voters": None},
        "seed": 7,
        "precision": "float32",
        "device": "cpu",
        "processes": 1,
        "environment": ENVIRONMENT,
        "command": ["/usr/bin/residual", "train", "--model", "mask_rcnn_small_c4", "--data", "scenes"],
        "started": "2026-01-14T09:12:44+00:00",
        "stages": [],
        "plan": {"budget": None},
    }
    (folder / "run.json").write_text(json.dumps(run | changes))
    if evaluation is not None:
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


def write_parts(folder: Path, parts: dict[str, float], *, look: str = "validation_map50", level: float = 78.0) -> Path:
    """metrics.jsonl of 8,000 iterations: parts of the loss that begin at such heights, and looks that reach a level."""
    rng = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(20, 8_001, 20):
            told = {
                name: high * (0.15 + math.exp(-step / 900)) * rng.lognormvariate(0, 0.12)
                for name, high in parts.items()
            }
            line = {"step": step, "epoch": step / 500, "time": step * 0.21, "loss": sum(told.values()), **told}
            file.write(json.dumps(line | {"rate": 0.02 if step <= 6_000 else 0.002}) + "\n")
            if step % 800 == 0:
                value = level + (50 - level) * math.exp(-step / 1_800) + rng.gauss(0, 1)
                file.write(json.dumps({"step": step, look: value, "weights": "last"}) + "\n")
    return folder


class ReadPage(HTMLParser):
    """Refuses what is not well nested, and collects what would fetch, run or be doubly named."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words, self.tags, self.ids, self.addresses = "", set[str](), list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join(self.words.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a script in {name}"
            if name in ("src", "href", "data", "action", "srcset", "xlink:href"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "img", "br", "link"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + " "
