import pytest

from residual.data.folder import as_text
from residual.data.sources import open_dataset


def test_a_flat_folder_holds_out_a_fifth_of_each_class(pets):
    data = open_dataset(str(pets), seed=1)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.validation), data.test) == (16, 4, None)
    assert data.validation.labels.tolist() == [0, 0, 1, 1]
    assert data.split["seed"] == 1
    assert set(data.train.names) | set(data.validation.names) == {
        f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)
    }


def test_folders_of_splits_are_taken_as_they_are(tmp_path, draw):
    for split, count in (("train", 4), ("valid", 2), ("test", 3)):
        for name in ("cat", "dog"):
            for number in range(count):
                draw(tmp_path / split / name / f"{number}.png", seed=number)
    data = open_dataset(str(tmp_path))
    assert {name: len(images) for name, images in data.splits().items()} == {
        "train": 8, "validation": 4, "test": 6,
    }  # fmt: skip
    assert data.problems == ()


def test_train_and_test_alone_leave_training_whole(shared_data):
    data = open_dataset(str(shared_data / "cifar10_small"), workers=1)
    assert (len(data.train), data.validation, len(data.test)) == (2000, None, 1000)
    assert data.train.shape == (32, 32, 3)
    assert data.train.labels.bincount().tolist() == [200] * 10


def test_photographs_become_squares_of_the_stored_side(shared_data, tmp_path):
    photos = sorted((shared_data / "photos").iterdir())[:8]
    for number, photo in enumerate(photos):
        folder = tmp_path / ("a" if number % 2 else "b")
        folder.mkdir(exist_ok=True)
        (folder / photo.name).symlink_to(photo)
    data = open_dataset(str(tmp_path), size=56)
    assert data.train.shape == (64, 64, 3)
    assert len(data.train) + len(data.validation) == 8


def test_a_class_missing_from_validation_does_not_shift_the_others(tmp_path, draw):
    for name in ("ant", "bee", "cat"):
        draw(tmp_path / "train" / name / "1.png")
    draw(tmp_path / "val" / "cat" / "1.png")
    data = open_dataset(str(tmp_path))
    assert data.validation.labels.tolist() == [2]
    assert [problem.path for problem in data.problems] == ["val/ant", "val/bee"]


def test_names_that_are_no_text_are_shown_all_the_same():
    assert as_text(b"caf\xc3\xa9 \xff.png") == "café \\xff.png"


def test_the_folders_of_trainings_are_no_classes(pets, draw):
    (pets / "runs" / "resnet18" / "checkpoints").mkdir(parents=True)
    (pets / "runs" / "resnet18" / "run.json").write_text("{}")
    (pets / "first" / "tensorboard").mkdir(parents=True)
    (pets / "first" / "run.json").write_text("{}")
    draw(pets / "first" / "picture.png")
    draw(pets / "cat" / "mine" / "picture.png")
    (pets / "cat" / "mine" / "run.json").write_text("{}")
    data = open_dataset(str(pets))
    assert data.classes == ("cat", "dog")
    assert len(data.train) + len(data.validation) == 20
    assert {problem.path for problem in data.problems} == {"runs/resnet18", "first", "cat/mine"}
    assert all("training" in problem.reason for problem in data.problems)


def test_a_class_called_runs_stays_one_with_a_training_inside(pets, draw):
    draw(pets / "runs" / "1.png")
    (pets / "runs" / "resnet18").mkdir()
    (pets / "runs" / "resnet18" / "run.json").write_text("{}")
    assert open_dataset(str(pets)).classes == ("cat", "dog", "runs")


def test_who_only_looks_sees_every_fault_and_the_rest(tmp_path, draw):
    for place in ("train/cat", "train/Cat", "train/dog", "val/cat", "val/eel"):
        for number in range(2):
            draw(tmp_path / place / f"{number}.png", seed=number)
    (tmp_path / "train" / "newt").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="differ only in case"):
        open_dataset(str(tmp_path))
    data = open_dataset(str(tmp_path), lenient=True)
    told = [fault.reason for fault in data.faults]
    for words, reason in zip(("'Cat' and 'cat' differ", "has the class 'cat'", "has the class 'eel'", "'newt' has no"),
                             told, strict=True):  # fmt: skip
        assert words in reason
    assert data.classes == ("Cat", "dog", "newt")
    assert len(data.train) == 4
