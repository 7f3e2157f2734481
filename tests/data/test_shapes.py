import pytest
import torch

from residual.data.shapes import CLASSES, draw_scene, draw_shapes, read_shapes


def test_an_image_is_a_pure_function_of_seed_and_index():
    together = draw_shapes(12, size=24, seed=3)
    alone = draw_shapes(1, size=24, seed=3, start=7)
    assert (alone.pixels[0] == together.pixels[7]).all()
    assert alone.names == (together.names[7],)
    assert (draw_shapes(1, size=24, seed=4, start=7).pixels != alone.pixels).any()


def test_classes_take_turns():
    assert draw_shapes(2 * len(CLASSES), size=16).labels.bincount().tolist() == [2] * len(CLASSES)


def test_train_and_test_share_no_image():
    data = read_shapes(size=16, train=30, test=20)
    assert data.test.names == draw_shapes(20, size=16, start=30).names
    assert not set(data.train.names) & set(data.test.names)


@pytest.mark.parametrize("index", range(40))
def test_boxes_hold_exactly_what_is_seen_of_each_object(index):
    scene = draw_scene(index, size=64, seed=1)
    assert scene.pixels.shape == (64, 64, 3)
    assert len(scene.labels) == len(scene.boxes) == len(scene.masks) >= 1
    assert (scene.masks.sum(0) <= 1).all()  # one object in front at each pixel
    for box, mask in zip(scene.boxes.long().tolist(), scene.masks, strict=True):
        left, top, right, bottom = box
        outside = mask.clone()
        outside[top:bottom, left:right] = False
        assert not outside.any()
        assert mask[top].any()
        assert mask[bottom - 1].any()
        assert mask[:, left].any()
        assert mask[:, right - 1].any()


def test_every_class_looks_different_from_its_background():
    images = draw_shapes(len(CLASSES), size=32, seed=0)
    spread = images.pixels.to(torch.float32).std((1, 2)).max(1).values
    assert (spread > 10).all()
