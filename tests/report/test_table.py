import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from residual.report.table import POINTS, main, named, record, renewed, table
from residual.report.table import row as row_of

README = "before\n<!-- results: made by `make table` -->\nold\n| rows |\n<!-- /results -->\nafter\n"
KEPT = {"row": "ResNet-20, CIFAR-10", "unit": "% test error", "paper": None, "ours": [8.75]}


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    """A finished run with the plan that the table asks for."""
    folder = make_run()
    described = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(described | {"plan": {"seed": 7, "model": "resnet20"}}))
    return folder


def keep(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(KEPT | changes))
    return path


def test_only_what_lies_between_the_marks_is_replaced():
    assert renewed(README, "| new |") == README.replace("old\n| rows |", "| new |")
    assert renewed(renewed(README, "| new |"), "old\n| rows |") == README


@pytest.mark.parametrize("text", ["no marks", "<!-- results: begun\nand never ended"])
def test_a_text_without_both_marks_is_left_alone(text: str):
    with pytest.raises(ValueError):
        renewed(text, "| new |")


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_record_says_which_images_its_error_was_measured_on(run: Path, split: str):
    found = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps(found | {"split": split}))
    kept = record(run, "ResNet-20")
    assert kept["unit"] == f"% {split} error"
    assert (kept["split"], kept["row"], kept["seeds"]) == (split, "ResNet-20", [7])
    assert kept["ours"] == [found["top1_error"]]


def test_the_record_of_a_run_has_its_whole_history_and_no_number_of_the_paper(run: Path):
    kept = record(run, "ResNet-20")
    assert kept["paper"] is None
    assert kept["environment"]["commit"]
    assert kept["data"]["fingerprint"]
    assert (kept["iterations"], kept["training"][-1]["step"]) == (64_000, 64_000)
    steps = [line["step"] for line in kept["training"]]
    assert steps == sorted(set(steps))
    assert len(steps) <= POINTS + 1
    assert len(kept["looks"]) == 40


def test_a_row_shows_a_number_of_the_paper_only_if_its_record_does(tmp_path: Path):
    path = keep(tmp_path / "results" / "ours.json")
    assert row_of(path, tmp_path) == "| ResNet-20, CIFAR-10, % test error | - | 8.75 | 1 | [ours](results/ours.json) |"
    keep(path, paper=8.75, ours=[8.0, 9.0, 10.0], unit="% validation error")
    assert row_of(path, tmp_path) == (
        "| ResNet-20, CIFAR-10, % validation error | 8.75 | 9.00 ± 1.00 | 3 | [ours](results/ours.json) |"
    )


def test_the_table_has_one_line_for_each_record_by_path(tmp_path: Path):
    for name in ("b", "a", "deep/c"):
        keep(tmp_path / "results" / f"{name}.json")
    head, rule, *rows = table(tmp_path / "results", tmp_path).splitlines()
    assert [line.count("|") for line in (head, rule, *rows)] == [6] * 5
    assert [line.split("](")[1] for line in rows] == [f"results/{name}.json) |" for name in ("a", "b", "deep/c")]


def test_a_run_is_kept_and_the_readme_renewed_from_the_command_line(run: Path, tmp_path: Path):
    (tmp_path / "README.md").write_text(README)
    main(["--add", str(run), str(tmp_path / "results" / "cifar" / "r20.json"), "ResNet-20"])
    main([str(tmp_path / "README.md"), str(tmp_path / "results")])
    text = (tmp_path / "README.md").read_text()
    assert "| ResNet-20, % test error | - | " in text
    assert "old" not in text
    assert "(results/cifar/r20.json)" in text
    assert text.endswith("<!-- /results -->\nafter\n")


@pytest.mark.parametrize(
    ("name", "unit", "told"),
    [
        ("ResNet-20", "% test error", "ResNet-20, % test error"),
        ("plain-20, training error", "% training error", "plain-20, training error, %"),
        ("ResNet-18: layers", "layers", "ResNet-18: layers"),
        ("conv2_x", "", "conv2_x"),
    ],
)
def test_a_unit_is_said_once(name: str, unit: str, told: str):
    assert named(name, unit) == told


def test_a_reproduction_gives_its_trained_numbers_and_its_tested_claims(tmp_path: Path):
    short = {"iterations": 609, "of": 64_000}
    trained = {
        "name": "plain-20",
        "unit": "% training error",
        "paper": None,
        "ours": [50.0, 52.0],
        "mean": 51.0,
        "interval": [38.0, 64.0],
        "n": 2,
        "seconds": 60.0,
        "short": short,
        "verdict": "not tested at this budget",
    }
    full = trained | {"name": "ResNet-20", "paper": {"value": 8.75}, "short": None, "verdict": "agrees"}
    computed = trained | {"name": "counted", "seconds": 0}
    claim = {
        "text": "deeper is worse",
        "p": 0.0123,
        "verdict": "agrees",
        "short": short,
        "numbers": {"a": [1, 2], "b": [3, 4, 5]},
    }
    keep(tmp_path / "results" / "figure1.json", experiment={"name": "figure1"}, rows=[trained, full, computed],
         claims=[claim, claim | {"p": None}])  # fmt: skip
    lines = table(tmp_path / "results", tmp_path).splitlines()[2:]
    link = "[figure1](results/figure1.json)"
    assert lines == [
        f"| figure1: plain-20, % training error (609 of 64,000 iterations) | - | 51.00 ± 13.00 | 2 | {link} |",
        f"| figure1: ResNet-20, % training error | 8.75 | 51.00 ± 13.00: agrees | 2 | {link} |",
        f"| figure1: deeper is worse (609 of 64,000 iterations) | claimed | agrees, p = 0.012 | 2 each | {link} |",
    ]


def test_a_detectors_record_tells_the_number_that_was_asked_for(make_run: Callable[..., Path]):
    run = make_run()
    described = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(described | {"plan": {"seed": 7}, "task": "detection"}))
    found = {
        "task": "detection", "split": "test", "images": 9, "objects": 30, "map50": 91.5, "interval": [90, 93],
        "coco": {"AP50": 91.4}, "coco_masks": {"AP50": 87.0}, "mistakes": [{"png": "x"}],
    }  # fmt: skip
    (run / "evaluation.json").write_text(json.dumps(found))
    boxes, masks = record(run, "Mask R-CNN"), record(run, "Mask R-CNN", "masks")
    assert (boxes["ours"], boxes["unit"], boxes["interval"]) == ([91.5], "% test mAP@.5 of boxes", [90, 93])
    assert (masks["ours"], masks["unit"], masks["interval"]) == ([87.0], "% test AP@.5 of masks", None)
    assert masks["numbers"]["coco_masks"] == {"AP50": 87.0}
    assert "mistakes" not in masks["numbers"]
    with pytest.raises(ValueError, match="it has: map50, masks"):
        record(run, "Mask R-CNN", "top1_error")
