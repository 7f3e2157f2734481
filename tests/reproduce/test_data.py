from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residual.reproduce.data import DATA, given, missing, refuse_others, where


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIDUAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_for_the_one_data_set_that_is_needed_or_for_the_named_one(tmp_path):
    place = str(tmp_path)
    assert given([place], {"cifar10"}) == {"cifar10": tmp_path.resolve()}
    assert given([f"cifar10={place}", f"svhn={place}"], {"cifar10", "cifar100"}) == {
        "cifar10": tmp_path.resolve(),
        "svhn": tmp_path.resolve(),
    }


def test_a_path_with_an_equals_sign_is_a_path(tmp_path):
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert given([str(odd)], {"cifar10"}) == {"cifar10": odd.resolve()}


@pytest.mark.parametrize(
    "flags, needed, told",
    [
        (["{}"], {"cifar10", "cifar100"}, "does not say which"),
        (["{}"], set(), "does not say which"),
        (["cifar11={}"], {"cifar10"}, "there is no data set 'cifar11'"),
        (["cifar10={}/none"], {"cifar10"}, "there is no "),
        (["cifar10={}", "cifar10={}"], {"cifar10"}, "twice"),
        (["shapes={}"], {"cifar10"}, "made by this program"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, flags, needed, told):
    with pytest.raises(ValueError, match=told):
        given([flag.format(tmp_path) for flag in flags], needed)


def test_data_is_where_the_user_says_or_in_the_cache_or_drawn_or_missing(tmp_path, cache):
    assert where("shapes", {}) == "shapes"
    assert where("cifar10", {"cifar10": tmp_path}) == str(tmp_path)
    assert where("cifar10", {}) is None
    assert where("imagenet", {}) is None
    (cache / "cifar10").mkdir(parents=True)
    (cache / "imagenet").mkdir()
    assert where("cifar10", {}) == "cifar10"
    assert where("imagenet", {}) == str((cache / "imagenet").resolve())


def test_what_is_missing_says_where_it_comes_from_and_how_to_name_it():
    for name, source in DATA.items():
        assert source.origin in missing(name)
        assert f"--data {name}=DIR" in missing(name)


def test_other_data_than_the_named_is_refused(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(
                    tmp_path / split / label / f"{number}.png"
                )
    with pytest.raises(ValueError, match="is not CIFAR-10: it has 4 training images, 4 held out, 2 classes"):
        refuse_others("cifar10", str(tmp_path))
    refuse_others("shapes", "shapes")
