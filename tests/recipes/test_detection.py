"""Recipes of detectors: the numbers of the papers, and refusals."""

from dataclasses import replace

import pytest

from residual.recipes.detection import RECIPES, at_side, detection_recipe, modern


def test_vocs_is_that_of_faster_rcnn():
    """Ren et al. 2015, section 3.3, and py-faster-rcnn's end-to-end schedule: 50,000 at 0.001, 20,000 at 0.0001."""
    voc = RECIPES["voc"]()
    rates = [voc.schedule.at(step / voc.length(1)) for step in (0, 49_999, 50_001, 69_999)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    assert (voc.batch, voc.optimizer.decay, voc.optimizer.momentum) == (2, 5e-4, 0.9)
    assert (voc.augmentation.shorter, voc.augmentation.longer) == ((600, 600), 1000)
    assert voc.augmentation.flip


def test_cocos_is_the_papers():
    """Appendix A: 8 images at a time, 240k iterations at 0.001, 80k at 0.0001."""
    coco = RECIPES["coco"]()
    assert coco.length(1) == 320_000
    assert [coco.schedule.at(step / 320_000) for step in (239_999, 240_000)] == pytest.approx([1e-3, 1e-4])
    assert (coco.batch, len(coco.anchors), coco.validation) == (8, 4, 0)


def test_the_cascades_is_its_authors():
    mnc = RECIPES["mnc"]()
    assert mnc.length(1) == 25_000
    assert [mnc.schedule.at(step / 25_000) for step in (19_999, 20_000)] == pytest.approx([1e-3, 1e-4])


def test_localization_cuts_224_pixels_256_at_a_time():
    recipe = RECIPES["localization"]()
    assert (recipe.batch, recipe.side, recipe.augmentation.crop) == (256, 224, 1.0)


def test_windows_are_of_fixed_size_and_nothing_is_shrunk():
    recipe = RECIPES["windows"]()
    assert (recipe.augmentation.window, recipe.augmentation.shrink, recipe.side) == (256, False, 512)
    assert [anchor * recipe.side / 600 for anchor in recipe.anchors] == pytest.approx([48, 96, 192])


@pytest.mark.parametrize("side", [96, 300, 800])
def test_another_side_keeps_the_proportions(side):
    found = at_side(modern().augmentation, side)
    assert found.shorter[1] == side
    assert found.longer == round(side * 1000 / 600)


def test_passes_are_counted_in_images():
    assert replace(modern(), epochs=2, iterations=None, batch=4).length(100) == 50


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"iterations": 5}, "iterations or epochs"),
        ({"batch": 0}, "at least 1 image"),
        ({"anchors": ()}, "anchors"),
        ({"validation": 1.0}, "validation"),
        ({"clip": 0.0}, "clip"),
        ({"average": 1.0}, "average"),
        ({"average_every": 0}, "average_every counts"),
        ({"epochs": 0}, "longer than 0"),
        ({"in_turn": True}, "average=None"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(modern(), **changes)


def test_the_small_trunk_has_its_own_modern_recipe():
    assert detection_recipe("modern", "mask_rcnn_small_c4").side == 96
    assert detection_recipe("modern", "localizer_small").side == 64
    assert detection_recipe("modern", "faster_rcnn_resnet50_c4").side == 600
    assert detection_recipe("modern", "mask_rcnn_small_fpn").side == 600
