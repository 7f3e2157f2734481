from itertools import islice

import pytest
import torch

from residual.data.batches import Order, training_batches
from residual.data.images import Images
from residual.data.transforms import Augmentation, Normalize, Preprocessing
from residual.train.distributed import World

CPU = torch.device("cpu")
MIXED = Augmentation(pad=2, mixup=0.5, cutmix=0.5)


def some_images(count: int = 23, side: int = 8) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        names=tuple(f"{number}.png" for number in range(count)),
    )


def some_batches(images, number, *, start=0, batch=5, seed=0, augmentation=MIXED, **rest):
    normalize = Normalize(Preprocessing(size=images.shape[0]))
    stream = training_batches(images, augmentation, normalize, batch=batch, seed=seed, start=start, device=CPU, **rest)
    found = list(islice(stream, number))
    stream.close()
    return found


def same(ones, others):
    return len(ones) == len(others) and all(
        torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
        and torch.equal(one.indices, other.indices)
        and one.share == other.share
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("batch", [1, 5, 23, 24, 60])
def test_every_image_comes_once_per_epoch_and_every_batch_is_full(batch):
    images = some_images()
    found = some_batches(images, 3 * 23, batch=batch)
    assert {len(one.labels) for one in found} == {batch}
    seen = torch.cat([one.indices for one in found])
    for epoch in seen[: len(seen) // 23 * 23].split(23):
        assert torch.equal(epoch.sort().values, torch.arange(23))


def test_labels_belong_to_the_images():
    images = some_images()
    plain = Augmentation(crop="none", flip=False)
    for one in some_batches(images, 10, augmentation=plain):
        assert torch.equal(one.labels, images.labels[one.indices])
        expected = images.pixels[one.indices].permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(one.images, expected)


@pytest.mark.parametrize("start", range(1, 12))
def test_a_batch_is_a_pure_function_of_its_step(start):
    """Also in the middle of an epoch, and where a batch spans two: 23 images are 4.6 batches."""
    images = some_images()
    whole = some_batches(images, 15)
    late = some_batches(images, 15 - start, start=start)
    assert same(whole[start:], late)


def test_another_seed_gives_another_order_and_other_crops():
    images = some_images()
    first, second = some_batches(images, 1, seed=0)[0], some_batches(images, 1, seed=1)[0]
    assert not torch.equal(first.indices, second.indices)


def test_an_image_is_varied_differently_in_another_epoch():
    images = some_images()
    plain = Augmentation(pad=3)
    crops = {}
    for one in some_batches(images, 14, augmentation=plain):
        for index, crop in zip(one.indices.tolist(), one.images, strict=True):
            crops.setdefault(index, []).append(crop)
    different = [not torch.equal(several[0], several[1]) for several in crops.values()]
    assert sum(different) >= 20  # of 23; one in 98 is the same by chance


def test_shares_of_several_processes_make_up_the_batch_and_are_mixed_alike():
    """Row i of the whole is mixed with row B - 1 - i; in a share the mirror must be the same image."""
    images = some_images(24)  # two batches, so that no image comes twice in one
    whole = some_batches(images, 6, batch=12)
    shares = [some_batches(images, 6, batch=12, shard=World(rank, 3, rank).shard) for rank in range(3)]
    for step, one in enumerate(whole):
        parts = [share[step] for share in shares]
        assert {len(part.labels) for part in parts} == {4}
        assert {part.share for part in parts} == {one.share}
        place = {int(index): row for row, index in enumerate(one.indices)}
        rows = [place[int(index)] for part in parts for index in part.indices]
        assert sorted(rows) == list(range(12))
        assert torch.equal(torch.cat([part.images for part in parts]), one.images[rows])
        for part in parts:
            partners = one.labels.flip(0)[[place[int(index)] for index in part.indices]]
            assert torch.equal(part.labels.flip(0), partners)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_files_give_the_batches_of_the_same_images_in_memory(tmp_path, draw, workers, monkeypatch):
    from residual.data import assemble
    from residual.data.sources import open_dataset

    for number in range(24):
        draw(tmp_path / "pets" / ("cat" if number < 12 else "dog") / f"{number}.png", seed=number)
    in_memory = open_dataset(str(tmp_path / "pets")).train
    monkeypatch.setattr(assemble, "MEMORY", 0)
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    on_disk = open_dataset(str(tmp_path / "pets"), workers=workers).train
    assert type(on_disk).__name__ == "ImageFiles"
    expected, found = (some_batches(images, 9, batch=7) for images in (in_memory, on_disk))
    assert same(expected, found)


def test_files_can_be_joined_at_any_step(tmp_path, draw, monkeypatch):
    from residual.data import assemble
    from residual.data.sources import open_dataset

    monkeypatch.setattr(assemble, "MEMORY", 0)
    for name in ("cat", "dog"):
        for number in range(5):
            draw(tmp_path / "pets" / name / f"{number}.png", seed=number)
    images = open_dataset(str(tmp_path / "pets")).train
    whole = some_batches(images, 6, batch=3)
    for start in range(1, 6):
        assert same(whole[start:], some_batches(images, 6 - start, batch=3, start=start))


def test_a_set_without_images_is_refused():
    with pytest.raises(ValueError, match="no image"):
        Order(0, 0)


def test_the_order_keeps_only_the_epochs_in_use():
    order = Order(10, 0)
    for step in range(50):
        order.at(torch.arange(step * 7, step * 7 + 7))
    assert len(order._epochs) <= 2


def test_repeated_images_stand_in_a_row_are_varied_apart_and_come_equally_often():
    order = Order(10, seed=1, repeats=3)
    visits, indices = order.at(torch.arange(60))
    rows = indices.view(20, 3)
    assert (rows == rows[:, :1]).all()
    assert torch.equal(rows[:10, 0].sort().values, torch.arange(10))
    assert torch.equal(rows[10:, 0].sort().values, torch.arange(10))
    assert len({(v, i) for v, i in zip(visits.tolist(), indices.tolist(), strict=True)}) == 60
    once_visits, once = Order(10, seed=1).at(torch.arange(20))
    assert torch.equal(rows[:, 0], once)
    assert torch.equal(visits.view(20, 3)[:, 0] // 3, once_visits)
