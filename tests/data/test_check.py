from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.check import check
from residual.data.images import Dataset, Images, Problem


def images_of(pixels: np.ndarray, name: str) -> Images:
    return Images(
        pixels=torch.from_numpy(pixels),
        labels=torch.arange(len(pixels)) % 2,
        classes=("a", "b"),
        names=tuple(f"{name}/{number}" for number in range(len(pixels))),
    )


def smooth(count: int, seed: int, side: int = 48) -> np.ndarray:
    """Random pictures with structure, as photographs have: (count, side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])


def altered(pixels: np.ndarray, how: str) -> np.ndarray:
    image, side = Image.fromarray(pixels), pixels.shape[0]
    if how == "resized":
        return np.asarray(image.resize((side * 3 // 4,) * 2).resize((side, side)))
    if how == "shifted":
        padded = np.pad(pixels, ((2, 2), (2, 2), (0, 0)), "edge")
        return padded[:side, 4 : side + 4]
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(BytesIO(buffer.getvalue())))


def test_counts_imbalance_and_problems_are_stated():
    train = images_of(smooth(9, 0), "train")
    problem = Problem(path="x.png", reason="the file is empty")
    found = check(Dataset(train=train, classes=("a", "b"), origin="here", problems=(problem,)))
    assert found.counts == {"train": {"a": 5, "b": 4}}
    assert found.imbalance == pytest.approx(1.25)
    assert found.problems == (problem,)
    assert (found.duplicates, found.near_duplicates) == ((), ())


def test_exact_duplicates_are_found_within_and_across_splits():
    train, test = smooth(20, 0), smooth(10, 1)
    train[7] = train[2]
    test[4] = train[11]
    data = Dataset(train=images_of(train, "train"), test=images_of(test, "test"), classes=("a", "b"), origin="here")
    first, second = check(data).duplicates
    assert first.names == ("train/2", "train/7")
    assert first.across_classes
    assert not first.across_splits
    assert second.names == ("train/11", "test/4")
    assert second.across_splits
    assert check(data).near_duplicates == ()


@pytest.mark.parametrize("how", ["resized", "compressed", "shifted"])
def test_near_duplicates_across_splits_are_found(how):
    train, test = smooth(300, 0), smooth(60, 1)
    for number in range(20):
        test[3 * number] = altered(train[10 * number], how)
    data = Dataset(train=images_of(train, "train"), test=images_of(test, "test"), classes=("a", "b"), origin="here")
    pairs = {pair.names for pair in check(data).near_duplicates}
    planted = {(f"train/{10 * number}", f"test/{3 * number}") for number in range(20)}
    assert len(pairs & planted) >= 19
    assert len(pairs - planted) == 0
