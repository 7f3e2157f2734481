import os

import pytest
import torch

from residual.data.assemble import Entry, Listing, assemble, held_out, stored_side
from residual.data.loader import File


def entries_of(paths, label=lambda number: number % 2, split=None):
    return [
        Entry(file=File(name=path.name, path=os.fsencode(path)), label=label(number), split=split)
        for number, path in enumerate(paths)
    ]


def test_what_is_held_out_depends_on_seed_and_names_alone():
    names = [f"{number}.png" for number in range(100)]
    labels = torch.arange(100) % 4
    held = held_out(names, labels, share=0.2, seed=3)
    assert [int(held[labels == label].sum()) for label in range(4)] == [5, 5, 5, 5]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    shuffled = held_out([names[i] for i in order.tolist()], labels[order], share=0.2, seed=3)
    assert (shuffled == held[order]).all()
    assert (held != held_out(names, labels, share=0.2, seed=4)).any()


@pytest.mark.parametrize("count, expected", [(1, 0), (2, 1), (3, 1), (5, 1), (10, 2), (13, 3)])
def test_each_class_keeps_at_least_one_image_for_training(count, expected):
    names = [str(number) for number in range(count)]
    assert int(held_out(names, torch.zeros(count, dtype=torch.int64), share=0.2, seed=0).sum()) == expected


def test_the_stored_side_is_256_for_224():
    assert [stored_side(size) for size in (224, 128, 32)] == [256, 146, 37]


@pytest.mark.parametrize(
    "sizes, size, expected",
    [
        ([(32, 32)] * 4, None, (32, 32, 3)),
        ([(32, 32)] * 4, 32, (32, 32, 3)),
        ([(32, 32)] * 4, 56, (64, 64, 3)),
        ([(32, 32)] * 3 + [(48, 48)], None, (146, 146, 3)),
        ([(65, 65)] * 4, None, (146, 146, 3)),
        ([(32, 31)] * 4, None, (146, 146, 3)),
        ([(64, 64), (64, 64), (300, 200), (64, 64)], 56, (64, 64, 3)),
    ],
)
def test_images_of_one_small_size_stay_as_they_are(tmp_path, draw, sizes, size, expected):
    paths = [draw(tmp_path / f"{number}.png", number, one) for number, one in enumerate(sizes)]
    data = assemble(
        Listing(entries=entries_of(paths, split="train"), classes=("a", "b"), origin="here"),
        size=size,
        seed=0,
        workers=0,
    )
    assert data.train.shape == expected
    assert sum(data.sizes.values()) == 4


def test_workers_change_nothing(tmp_path, draw):
    paths = [draw(tmp_path / f"{number}.png", number, (40 + number, 70)) for number in range(40)]
    several = [
        assemble(
            Listing(entries=entries_of(paths), classes=("a", "b"), origin="here"), size=None, seed=5, workers=workers
        )
        for workers in (0, 2)
    ]
    assert several[0].train.fingerprint == several[1].train.fingerprint
    assert several[0].train.names == several[1].train.names
    assert several[0].split == several[1].split


def test_damaged_files_are_listed_and_left_out(tmp_path, draw):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(10)]
    paths[4].write_bytes(paths[4].read_bytes()[:100])
    data = assemble(Listing(entries=entries_of(paths), classes=("a", "b"), origin="here"), size=None, seed=0, workers=0)
    (problem,) = data.problems
    assert problem.path == "4.png"
    assert "cut short" in problem.reason
    assert len(data.train) + len(data.validation) == 9
    assert "4.png" not in data.train.names + data.validation.names


def test_a_class_whose_images_are_all_damaged_is_an_error_with_a_reason(tmp_path, draw):
    paths = [draw(tmp_path / "cat" / "0.png"), draw(tmp_path / "dog" / "1.png")]
    paths[1].write_bytes(b"woof")
    entries = entries_of(paths)
    with pytest.raises(ValueError, match="class 'dog' has no image that can be used for training"):
        assemble(Listing(entries=entries, classes=("cat", "dog"), origin="here"), size=None, seed=0, workers=0)


def test_progress_counts_to_the_end(tmp_path, draw):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(6)]
    seen = []
    assemble(
        Listing(entries=entries_of(paths), classes=("a", "b"), origin="here"), size=None, seed=0, workers=0,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(number, 6) for number in range(1, 7)]
