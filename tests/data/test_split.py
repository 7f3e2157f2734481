from dataclasses import replace

import pytest
import torch

from residual.data.digits import read_digits
from residual.data.images import Dataset, Images
from residual.data.sources import open_dataset
from residual.data.split import hold_out, joined, to_evaluate


def some_images(count: int = 40, first: int = 0) -> Images:
    return Images(
        pixels=(torch.arange(count) % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(count, 4, 4, 3) + first,
        labels=torch.arange(count) % 4,
        classes=tuple("abcd"),
        names=tuple(f"{number + first}.png" for number in range(count)),
    )


def some_data(count: int = 40, **changes: object) -> Dataset:
    return replace(Dataset(train=some_images(count), classes=tuple("abcd"), origin="here"), **changes)


def test_holding_out_divides_the_training_images_by_class():
    data = hold_out(some_data(), 0.2, seed=0)
    assert sorted(data.train.names + data.validation.names) == sorted(some_images().names)
    assert torch.bincount(data.validation.labels).tolist() == [2, 2, 2, 2]
    for images in (data.train, data.validation):
        for name, label, picture in zip(images.names, images.labels, images.pixels, strict=True):
            assert int(label) == int(name.removesuffix(".png")) % 4
            assert int(picture[0, 0, 0]) == int(name.removesuffix(".png"))


def test_the_split_is_a_pure_function_of_seed_and_names_and_is_written_down():
    first, again, other = (hold_out(some_data(), 0.25, seed=seed) for seed in (1, 1, 2))
    shuffled = some_data()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = hold_out(replace(shuffled, train=shuffled.train.select(order)), 0.25, seed=1)
    assert first.validation.names == again.validation.names
    assert set(first.validation.names) == set(shuffled.validation.names)
    assert first.validation.names != other.validation.names
    assert first.split["held_out"]["validation"] == list(first.validation.names)
    assert first.split["held_out"]["seed"] == 1


def test_what_the_reader_said_of_the_split_stays():
    assert hold_out(read_digits(), 0.1, seed=0).split["made"] == "20% of each class held out"


@pytest.mark.parametrize("count", [1, 4])
def test_too_few_images_to_hold_out_are_refused(count):
    with pytest.raises(ValueError, match="cannot be held out"):
        hold_out(some_data(count), 0.2, seed=0)


def test_a_network_is_measured_on_test_images_then_validation_then_all():
    other = some_images(8, first=100)
    assert to_evaluate(some_data(test=other)) == ("test", other)
    assert to_evaluate(some_data(test=other, validation=some_images(4)))[1] is other
    assert to_evaluate(some_data(validation=other, split={"made": "as the folders are"})) == ("validation", other)
    split, images = to_evaluate(some_data())
    assert (split, len(images)) == ("all", 40)


def test_a_split_that_we_made_is_undone_for_a_network_that_never_saw_the_data():
    data = some_data(validation=some_images(8, first=100), made_here=True)
    split, images = to_evaluate(data)
    assert split == "all"
    assert len(images) == 48
    assert sorted(images.names) == sorted(data.train.names + data.validation.names)
    for name, label, picture in zip(images.names, images.labels, images.pixels, strict=True):
        assert int(picture[0, 0, 0]) == int(name.removesuffix(".png"))
        assert int(label) == (int(name.removesuffix(".png")) - 100 * (int(name.removesuffix(".png")) >= 100)) % 4


def test_files_are_joined_like_images_in_memory(tmp_path, draw, monkeypatch):
    from residual.data import assemble

    monkeypatch.setattr(assemble, "MEMORY", 0)
    for name in ("cat", "dog"):
        for number in range(5):
            draw(tmp_path / "pets" / name / f"{number}.png", seed=number)
    data = open_dataset(str(tmp_path / "pets"))
    both = joined(data.train, data.validation)
    everything = torch.arange(len(both))
    expected = torch.cat([part.fetch(torch.arange(len(part))) for part in (data.train, data.validation)])
    assert torch.equal(both.fetch(everything), expected)
    assert both.fingerprint != data.train.fingerprint


def test_a_folder_with_train_and_val_is_measured_on_val(tmp_path, draw):
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for number in range(count):
                draw(tmp_path / split / name / f"{number}.png", seed=number)
    split, images = to_evaluate(open_dataset(str(tmp_path)))
    assert (split, len(images)) == ("validation", 4)


def test_all_images_of_a_split_that_we_made_are_those_of_the_folder_in_its_order(pets):
    pieces = open_dataset(str(pets))
    split, images = to_evaluate(pieces)
    assert (split, pieces.made_here) == ("all", True)
    assert images.names == tuple(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10))
    assert hold_out(some_data(), 0.2, seed=0).made_here
