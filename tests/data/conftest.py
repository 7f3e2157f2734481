"""Small folders of real image files, and a cache that is not the user's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Downloads and decoded pixels of a test go to a folder of its own."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RESIDUAL_CACHE", str(cache))
    return cache


@pytest.fixture
def draw() -> Draw:
    """draw(path, seed=0, size=(32, 32)): write a random picture; the suffix names the format."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(path)
        return path

    return write


@pytest.fixture
def pets(tmp_path: Path, draw: Draw) -> Path:
    """A flat folder: ten cats and ten dogs of 32 x 32 pixels."""
    for number in range(10):
        draw(tmp_path / "pets" / "cat" / f"{number}.png", seed=number)
        draw(tmp_path / "pets" / "dog" / f"{number}.png", seed=100 + number)
    return tmp_path / "pets"
