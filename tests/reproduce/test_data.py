from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.images import Images
from residual.data.open_objects import open_objects
from residual.data.sources import open_dataset
from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.models.resnet import ResNet
from residual.reproduce.data import (
    DATA,
    content,
    given,
    held_out,
    missing,
    refuse_other_objects,
    refuse_other_weights,
    refuse_others,
    where,
)
from residual.weights.card import Card
from residual.weights.safetensors import save


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
    for name, one in DATA.items():
        assert one.origin in missing(name)
        assert f"--data {name}={'RUN|WEIGHTS' if one.network else 'DIR'}" in missing(name)


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


def some_images(seed: int = 0) -> Images:
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), np.uint8))
    labels = torch.arange(12) % 3
    return Images(pixels=pixels, labels=labels, classes=("a", "b", "c"), names=tuple(map(str, range(12))))


def test_content_is_told_by_pixels_and_classes_in_whatever_order():
    images = some_images()
    shuffled = images.select(torch.randperm(12, generator=torch.Generator().manual_seed(0)))
    renamed = replace(images, labels=(images.labels + 1) % 3, classes=("x", "y", "z"))
    assert content(images) == content(shuffled) == content(renamed)
    labels, pixels = images.labels.clone(), images.pixels.clone()
    labels[0], pixels[5, 0, 0, 0] = 1, pixels[5, 0, 0, 0] ^ 1
    others = [replace(images, labels=labels), replace(images, pixels=pixels), some_images(1)]
    assert len({content(each) for each in (images, *others)}) == 4


def test_other_images_of_the_same_counts_are_refused(tmp_path, monkeypatch):
    """CIFAR's counts were enough before."""
    for split in ("train", "test"):
        for number, label in enumerate(("cat", "dog")):
            (tmp_path / split / label).mkdir(parents=True)
            pixels = np.full((32, 32, 3), 40 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / label / "1.png")
    found = open_dataset(str(tmp_path))
    true = (content(found.train), content(found.test))
    small = replace(DATA["cifar10"], train=2, held=2, classes=2, content=true)
    monkeypatch.setitem(DATA, "cifar10", small)
    refuse_others("cifar10", str(tmp_path))
    Image.fromarray(pixels + 1).save(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(ValueError, match="has the counts of CIFAR-10, but its test images or their labels are others"):
        refuse_others("cifar10", str(tmp_path))


def test_cifar_is_known_by_its_images():
    for name in ("cifar10", "cifar100"):
        assert len(set(DATA[name].content)) == 2
        assert all(len(each) == 64 for each in DATA[name].content)


def voc(root: Path, **lists: int) -> Path:
    """A VOCdevkit whose lists have so many images, each with a cat."""
    year = root / "VOC2007"
    for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (year / folder).mkdir(parents=True)
    for name, count in lists.items():
        names = [f"{name}{number}" for number in range(count)]
        (year / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(names))
        for one in names:
            Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(year / "JPEGImages" / f"{one}.jpg")
            (year / "Annotations" / f"{one}.xml").write_text(
                "<annotation><size><width>20</width><height>20</height></size><object><name>cat</name><bndbox>"
                "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
            )
    return root


def test_other_images_with_objects_than_the_named_are_refused(tmp_path, monkeypatch):
    place = str(voc(tmp_path / "voc", train=4, val=3, test=5))
    expected = "is not PASCAL VOC 2007, train and val: it has 4 images to train on, 3 held out, 20 classes"
    with pytest.raises(ValueError, match=expected):
        refuse_other_objects("voc07", place)
    monkeypatch.setitem(DATA, "voc07", replace(DATA["voc07"], train=4, held=3))
    refuse_other_objects("voc07", place)
    monkeypatch.setitem(DATA, "voc07", replace(DATA["voc07"], train=5, held=3, lacking=(4, 500)))
    refuse_other_objects("voc07", place)
    monkeypatch.setitem(DATA, "voc07", replace(DATA["voc07"], train=3, held=3, lacking=(4, 500)))
    with pytest.raises(ValueError, match="has 3 images to train on"):
        refuse_other_objects("voc07", place)


@pytest.mark.parametrize(
    ("train", "held", "classes", "known"),
    [
        (343_000, 10_060, 200, True),  # our halves of the validation images, and the training images with objects
        (343_000, 9_917, 200, True),  # other halves, which lack some
        (456_567 + 10_061, 10_060, 200, True),
        (100_000, 10_060, 200, False),
        (343_000, 5_100, 200, False),  # half of what is held out
        (343_000, 20_121, 200, False),
        (343_000, 10_060, 199, False),
    ],
)
def test_imagenet_s_detection_set_is_known_whatever_its_halves(monkeypatch, train, held, classes, known):
    found = SimpleNamespace(train=range(train), validation=range(held), test=None, classes=range(classes))
    monkeypatch.setattr("residual.reproduce.data.open_objects", lambda place, *, lists, workers: found)
    if known:
        refuse_other_objects("imagenet-det", "somewhere")
    else:
        with pytest.raises(ValueError, match="somewhere is not ImageNet detection"):
            refuse_other_objects("imagenet-det", "somewhere")
    assert held_out(found, DATA["imagenet-det"].lists) is found.validation


def test_lists_that_are_not_there_and_other_layouts_are_refused_by_name(tmp_path, shared_data):
    place = str(voc(tmp_path / "voc", train=4))
    with pytest.raises(ValueError, match=r"is not PASCAL VOC 2007, train and val: .*no list 'val'.*there are train"):
        refuse_other_objects("voc07", place)
    with pytest.raises(ValueError, match=r"is not PASCAL VOC 2007 and 2012: .* chooses images of a VOCdevkit"):
        refuse_other_objects("voc07+12", str(shared_data / "coco_small"))


def test_a_detector_is_measured_on_what_its_lists_say(tmp_path):
    data = open_objects(str(voc(tmp_path, train=4, val=3, test=5)), lists="2007:train/2007:val")
    assert held_out(data, "2007:train/2007:val") is data.validation
    assert held_out(data, None) is data.test
    assert held_out(replace(data, test=None), None) is data.validation


def test_weights_of_another_network_or_of_other_classes_are_refused(tmp_path):
    described = replace(describe("resnet18"), widths=(8, 16, 32, 64), stem_width=8)
    colours = Preprocessing(size=32, mean=(100.0,) * 3, std=(50.0,) * 3)

    def weights(name: str, classes: int) -> str:
        network = replace(described, classes=classes)
        labels = tuple(f"class {number}" for number in range(classes))
        card = Card(name=name, model=network, classes=labels, preprocessing=colours)
        save(tmp_path / name, ResNet(network).state_dict(), card)
        return str(tmp_path / name)

    with pytest.raises(ValueError, match=r"is not ResNet-18 trained on Tiny ImageNet: .* holds narrow"):
        refuse_other_weights("resnet18-tiny-imagenet", weights("narrow", 200))
    described = describe("resnet18")
    with pytest.raises(ValueError, match="tells 3 classes apart, not 200"):
        refuse_other_weights("resnet18-tiny-imagenet", weights("few", 3))
    refuse_other_weights("resnet18-tiny-imagenet", weights("right", 200))
    with pytest.raises(ValueError, match="is not VGG-16 trained on ImageNet"):
        refuse_other_weights("vgg16-imagenet", str(tmp_path / "right"))
