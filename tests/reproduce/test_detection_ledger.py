import json
from dataclasses import asdict, replace

import pytest

from residual import pipeline
from residual.pipeline import DetectionPlan
from residual.recipes.detection import at_side, coco, detection_recipe, voc_alternating
from residual.reproduce.detection_ledger import AT_ONCE, COCO, RANDOM, VOC, of_detection_run
from residual.reproduce.ledger import differences


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """run.json of a small training."""
    recipe = detection_recipe("modern", "faster_rcnn_small_c4")
    recipe = replace(recipe, iterations=2, batch=2, augmentation=at_side(recipe.augmentation, 48))
    run = tmp_path_factory.mktemp("ledger") / "run"
    plan = DetectionPlan(
        model="faster_rcnn_small_c4", data="scenes:16", recipe=recipe, device="cpu", workers=0, looks=1
    )
    list(pipeline.train(plan, run))
    return json.loads((run / "run.json").read_text())


def test_a_run_says_how_it_was_trained(told):
    ours = of_detection_run(told)
    assert (ours.parts, ours.trunk, ours.devices) == (AT_ONCE, RANDOM, 1)
    assert (ours.batch, ours.iterations, ours.training_images, ours.side) == (2, 2, 16, 48)
    assert (ours.pooled, ours.regions, ours.share, ours.proposals) == (8, 16, 0.5, 100)
    assert ours.anchors == pytest.approx((100, 175, 275))
    assert ours.batch_norm == "group norm, trained"


def test_nothing_differs_from_itself_and_each_difference_is_told(told):
    ours = of_detection_run(told)
    assert differences(ours, ours) == []
    found = {each["what"]: (each["paper"], each["ours"]) for each in differences(VOC, ours)}
    assert found["side"] == ("600", "48")
    assert found["devices"] == ("not said", "1")
    assert "flips" not in found


def test_the_recipes_of_tables_7_to_9_keep_what_the_paper_says_of_both(told):
    for paper, recipe in ((VOC, voc_alternating()), (COCO, coco())):
        ours = of_detection_run(told | {"recipe": asdict(recipe)})
        for name in ("rate", "momentum", "side", "longest", "flips", "drop_factor"):
            assert getattr(ours, name) == getattr(paper, name), name
    assert of_detection_run(told | {"recipe": asdict(voc_alternating())}).parts == VOC.parts
