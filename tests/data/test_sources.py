import numpy as np
import pytest
import torch

from residual.data.decode import decode, fit
from residual.data.images import ImageFiles, Images
from residual.data.sources import NAMES, open_dataset
from residual.data.transforms import Preprocessing, prepare, view


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


def test_a_download_tells_how_far_it_is(monkeypatch, own_cache):
    told = []

    def fetched(source, cache, *, progress):
        progress(1, 2)
        raise ValueError("the network is gone")

    monkeypatch.setattr("residual.data.sources.download_cifar", fetched)
    with pytest.raises(ValueError, match="the network is gone"):
        open_dataset("cifar10", download=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_a_folder_here_too_is_refused_with_both_ways_out(name, pets, tmp_path, monkeypatch):
    pets.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"write \./{name} for the folder.*rename"):
        open_dataset(name)
    assert open_dataset(f"./{name}").classes == ("cat", "dog")


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=32),
        Preprocessing(size=32, resize=36, interpolation="bicubic"),
        Preprocessing(size=16, channels="L", mean=(100.0,), std=(50.0,)),
    ],
)
@pytest.mark.parametrize("shape", [(90, 70), (24, 24)])
def test_a_network_that_is_trained_already_gets_every_file_in_its_own_view(
    tmp_path, draw, monkeypatch, preprocessing, in_memory, shape
):
    for name in ("cat", "dog"):
        for number in range(2):
            draw(tmp_path / name / f"{number}.png", seed=number, size=shape)
    if not in_memory:
        monkeypatch.setattr("residual.data.assemble.MEMORY", 0)
    wanted = view(preprocessing)
    for images in open_dataset(str(tmp_path), size=preprocessing.size, view=wanted).splits().values():
        assert isinstance(images, Images if in_memory else ImageFiles)
        for place, name in enumerate(images.names):
            seen = images.fetch(torch.tensor([place]))[0].numpy()
            whole = decode((tmp_path / name).read_bytes(), mode=wanted.mode)
            assert np.array_equal(seen, fit(whole, wanted))
            assert np.array_equal(prepare(seen, preprocessing), prepare(whole, preprocessing))
