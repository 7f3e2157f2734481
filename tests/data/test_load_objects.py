"""Batches of images with objects: whose, in which order, and the same at any number of workers."""

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.load_objects import COLOUR, GROUPED, GroupedOrder, Picture, decoded, object_batches, together
from residual.data.loader import Pool
from residual.data.objects import ObjectImages, objects, with_masks
from residual.data.scenes import draw_scenes
from residual.data.vary_objects import ObjectAugmentation

Draw = Callable[..., Path]
SMALL = ObjectAugmentation(shorter=(40, 60), longer=90, crop=0.5, jitter=0.2)
WINDOWS = ObjectAugmentation(shorter=(40, 60), longer=90, window=24, shrink=False)


@pytest.fixture
def files(tmp_path: Path, draw: Draw) -> ObjectImages:
    """Ten pictures, five of them high."""
    sizes = [(30, 44) if number % 2 else (44, 30) for number in range(10)]
    paths = [draw(tmp_path / f"{n}.png", seed=n, size=(wide, high)) for n, (high, wide) in enumerate(sizes)]
    return ObjectImages(
        paths=tuple(paths),
        names=tuple(path.name for path in paths),
        sizes=tuple(sizes),
        objects=tuple(objects([[2, 3, 20 + n, 25]], [n % 2]) for n in range(10)),
        classes=("odd", "even"),
        origin="ten pictures",
    )


def told(batches) -> list[bytes]:
    return [
        batch.images.numpy().tobytes() + b"".join(here.boxes.tobytes() for here in batch.objects) for batch in batches
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(files: ObjectImages, workers: int):
    alone = told(islice(object_batches(files, SMALL, batch=3, seed=4), 5))
    assert told(islice(object_batches(files, SMALL, batch=3, seed=4, workers=workers), 5)) == alone


@pytest.mark.parametrize("varied", [SMALL, WINDOWS])
def test_going_on_is_the_same_as_never_having_stopped(files: ObjectImages, varied: ObjectAugmentation):
    whole = told(islice(object_batches(files, varied, batch=3, seed=4), 9))
    assert told(islice(object_batches(files, varied, batch=3, seed=4, start=5), 4)) == whole[5:]
    assert told(islice(object_batches(files, varied, batch=3, seed=5), 4)) != whole[:4]


def test_two_processes_share_a_batch(files: ObjectImages):
    (whole,) = islice(object_batches(files, SMALL, batch=4, seed=0), 1)
    halves = [
        next(islice(object_batches(files, SMALL, batch=4, seed=0, shard=lambda rows, r=rank: rows[r::2]), 1))
        for rank in (0, 1)
    ]
    for rank, half in enumerate(halves):
        assert half.indices.tolist() == whole.indices.tolist()[rank::2]
        for place, (high, wide) in enumerate(half.sizes):
            assert torch.equal(half.images[place, :high, :wide], whole.images[rank + 2 * place, :high, :wide])


@pytest.mark.parametrize("count,batch", [(10, 3), (16, 2), (7, 5)])
def test_every_image_comes_as_often_as_any_other(count: int, batch: int):
    order = GroupedOrder([(1, 2) if n % 3 else (2, 1) for n in range(count)], SMALL, batch=batch, seed=0)
    stretches = count  # after so many, whole epochs have passed
    seen = Counter[tuple[int, int]]()
    for step in range(stretches * GROUPED):
        visits, indices = order.at(step)
        assert len(indices) == batch
        seen.update(zip(visits.tolist(), indices.tolist(), strict=True))
    assert set(seen.values()) == {1}
    assert len(seen) == stretches * GROUPED * batch


def test_an_image_of_windows_comes_once_for_each_of_them_and_never_twice_the_same():
    told = ObjectAugmentation(shorter=(20, 20), longer=60, window=10, shrink=False)
    sizes, windows = [(20, 20), (60, 40), (10, 20), (20, 100)], [4, 24, 8, 7]  # the last two become 20x40 and 12x60
    order, seen = GroupedOrder(sizes, told, batch=3, seed=1), Counter[tuple[int, int]]()
    for step in range(sum(windows) * GROUPED):  # 24 passes
        seen.update(zip(*(rows.tolist() for rows in order.at(step)), strict=True))
    assert set(seen.values()) == {1}
    times = Counter(index for _, index in seen)
    assert [times[index] for index in range(4)] == [24 * each for each in windows]


def test_wide_and_high_images_seldom_meet():
    order = GroupedOrder([(1, 2) if n % 2 else (2, 1) for n in range(1000)], SMALL, batch=4, seed=0)
    mixed = sum(len(set((order.at(step)[1] % 2).tolist())) == 2 for step in range(10 * GROUPED))
    assert mixed <= 10  # one of each stretch, at most
    assert [order.at(step)[1][0].item() % 2 for step in range(2 * GROUPED)] not in ([0, 1] * 8, [1] * 8 + [0] * 8)


def test_images_are_padded_to_the_right_and_below_by_the_mean():
    row = [
        Picture(index=7, pixels=np.full((2, 5, 3), 9, np.uint8), objects=objects([], [])),
        Picture(index=3, pixels=np.full((4, 1, 3), 8, np.uint8), objects=objects([], [])),
    ]
    batch = together(row)
    assert batch.images.shape == (2, 4, 5, 3)
    assert batch.sizes == ((2, 5), (4, 1))
    assert batch.indices.tolist() == [7, 3]
    assert (batch.images[0, :2] == 9).all()
    assert (batch.images[0, 2:] == torch.tensor(COLOUR)).all()
    assert (batch.images[1, :, 1:] == torch.tensor(COLOUR)).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_measured_on_comes_whole_and_in_the_order_asked_for(files: ObjectImages, workers: int):
    with Pool(workers=workers) as pool:
        for asked in (list(range(10)), [4, 2]):
            for index, pixels in zip(asked, decoded(files, iter(asked), pool), strict=True):
                assert np.array_equal(pixels, np.asarray(Image.open(files.paths[index])))


def test_masks_of_windows_are_those_of_the_whole_image():
    scenes = draw_scenes(8, size=48)
    (batch,) = islice(object_batches(scenes, WINDOWS, batch=8, seed=0, masks=True), 1)
    (bare,) = islice(object_batches(scenes, WINDOWS, batch=8, seed=0), 1)
    assert torch.equal(batch.images, bare.images)
    assert set(batch.sizes) == {(24, 24)}
    assert any(len(here) for here in batch.objects)
    for here, boxed in zip(batch.objects, bare.objects, strict=True):
        assert here.masks.shape == (len(here), 24, 24)
        assert len(here) <= len(boxed)  # a corner of a box may have no pixel of its object


def test_masks_come_where_they_are_asked_for():
    scenes = draw_scenes(4, size=48)
    (batch,) = islice(object_batches(scenes, SMALL, batch=4, seed=0, masks=True), 1)
    for here, size in zip(batch.objects, batch.sizes, strict=True):
        assert here.masks.shape == (len(here), *size)
    plain = ObjectAugmentation(flip=False, shorter=(48, 48))
    (batch,) = islice(object_batches(scenes, plain, batch=4, seed=0, masks=True), 1)
    for here, index in zip(batch.objects, batch.indices.tolist(), strict=True):
        assert np.array_equal(here.masks, with_masks(scenes.objects[index], 48, 48).masks)
    (batch,) = islice(object_batches(scenes, plain, batch=4, seed=0), 1)
    assert all(here.masks is None for here in batch.objects)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_not_as_it_was_stops_the_run_by_name(files: ObjectImages, draw: Draw, workers: int):
    draw(files.paths[3], size=(20, 20))
    with (
        Pool(workers=workers) as pool,
        pytest.raises(ValueError, match=r"3\.png has 20x20 pixels, but its boxes are told for 44x30"),
    ):
        list(decoded(files, iter(range(10)), pool))
    files.paths[3].write_bytes(b"damaged")
    with Pool(workers=workers) as pool, pytest.raises(ValueError, match=r"3\.png: not an image"):
        list(decoded(files, iter(range(10)), pool))


def test_masks_of_boxes_alone_are_refused(files: ObjectImages):
    with pytest.raises(ValueError, match="no outline"):
        next(object_batches(files, SMALL, batch=2, seed=0, masks=True))
