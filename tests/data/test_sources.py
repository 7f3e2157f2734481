import pytest

from residual.data.sources import open_dataset


def test_names_need_no_files():
    assert open_dataset("digits").train.shape == (8, 8, 1)
    assert open_dataset("shapes", size=16).train.shape == (16, 16, 3)


def test_images_in_the_cache_serve_as_cifar10(own_cache, draw):
    for split in ("train", "test"):
        for name in ("airplane", "bird"):
            draw(own_cache / "cifar10" / split / name / "1.png")
    assert open_dataset("cifar10").classes == ("airplane", "bird")


@pytest.mark.parametrize("where, reason", [("nowhere", "there is no 'nowhere'"), (__file__, "is a file")])
def test_what_is_no_data_is_refused_with_the_way_out(where, reason):
    with pytest.raises(ValueError, match=reason):
        open_dataset(where)


def test_a_missing_cifar_says_what_to_do():
    with pytest.raises(ValueError, match=r"CIFAR-100 is not here.*Ask for the download.*cs\.toronto\.edu"):
        open_dataset("cifar100")
