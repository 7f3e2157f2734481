"""Two processes train the detector that one would train, where both see the same anchors and regions.

Which are trained on is drawn, by each process for its own images, and what regions cost is a mean over all of a
process: here the first ones are taken, and as few of every image as every image has.
"""

import json
from dataclasses import replace

import pytest
import torch

from residual import pipeline
from residual.data import open_objects
from residual.detect import sampling, weights
from residual.detect.localize import LocalizerDescription
from residual.events import Finished
from residual.pipeline import DetectionPlan, detection
from residual.recipes.detection import at_side, modern

FEW = 8  # regions of an image; of a localizer anchors, too


@pytest.fixture(autouse=True)
def the_first_of_few(monkeypatch):
    honest = detection.describe_detector

    def described(*arguments, **named):
        found = honest(*arguments, **named)
        if isinstance(found, LocalizerDescription):
            return replace(found, batch=FEW, roi_batch=FEW)
        return replace(found, regions=replace(found.regions, batch=FEW))

    monkeypatch.setattr(open_objects, "SCENES", {"train": 12, "validation": 4, "test": 5})
    monkeypatch.setattr(detection, "describe_detector", described)
    monkeypatch.setattr(sampling, "_some", lambda indices, count: indices[:count])


def plan(model: str) -> DetectionPlan:
    data = "shapes" if model.startswith("localizer") else "scenes"
    seen = at_side(modern().augmentation, 48)
    recipe = replace(modern(), epochs=None, iterations=4, batch=4, augmentation=seen, average=0.9)
    return DetectionPlan(model=model, data=data, recipe=recipe, device="cpu", workers=0, looks=1)


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("faster_rcnn_small_c4", ("proposed", "placed", "classed", "boxed")),
        ("localizer_small", ("scored", "placed", "scored_again", "placed_again")),
    ],
)
def test_a_detector_of_two_processes_is_that_of_one(together, tmp_path, model, parts):
    """Weights after 4 iterations and the parts of their losses; and only the leader speaks and writes."""
    leader, other = together(lambda world: [type(event) for event in pipeline.train(plan(model), tmp_path / "two")])
    assert leader[-1] is Finished
    assert other == []
    list(pipeline.train(plan(model), tmp_path / "one"))
    one, two = (weights.load(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in two.items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    told = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    alone, shared = ([line for line in map(json.loads, lines) if "loss" in line] for lines in told)
    assert len(alone) == len(shared) > 0
    for one_line, two_line in zip(alone, shared, strict=True):
        for part in ("loss", *parts):
            assert two_line[part] == pytest.approx(one_line[part], rel=1e-4)
