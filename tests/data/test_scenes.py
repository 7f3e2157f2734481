"""Drawn scenes are a data set like any other, and the same ones every time."""

import numpy as np

from residual.data.objects import with_masks
from residual.data.scenes import draw_scenes
from residual.data.shapes import draw_scene


def test_a_scene_has_the_boxes_and_masks_that_were_drawn():
    found = draw_scenes(3, size=64, seed=5, start=7)
    assert found.names == ("scenes:7", "scenes:8", "scenes:9")
    for number, here in enumerate(found.objects):
        scene = draw_scene(7 + number, size=64, seed=5)
        assert np.array_equal(here.boxes, scene.boxes.numpy())
        assert here.labels.tolist() == scene.labels.tolist()
        assert np.array_equal(with_masks(here, 64, 64).masks, scene.masks.numpy())
        assert np.array_equal(found.pixels[number], scene.pixels.numpy())
        assert here.areas.tolist() == scene.masks.sum((1, 2)).tolist()


def test_the_fingerprint_is_that_of_what_is_seen():
    found = draw_scenes(3, size=64)
    assert found.fingerprint == draw_scenes(3, size=64).fingerprint
    others = [draw_scenes(3, size=64, seed=1), draw_scenes(3, size=64, start=1), found.select([0, 1])]
    assert len({found.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert found.select([2, 0, 1]).select([1, 2, 0]).fingerprint == found.fingerprint


def test_a_scene_is_known_in_another_set_by_its_pixels():
    first, second = draw_scenes(4, size=32), draw_scenes(4, size=32, start=2)
    assert first.marks[2:] == second.marks[:2]
    assert len({*first.marks, *second.marks}) == 6
    assert set(first.marks).isdisjoint(draw_scenes(4, size=32, seed=1).marks)
