"""What tests share: where small real data lies, small made images, and one thread so that runs repeat bit for bit."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from residual.data.images import Images

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data (CIFAR-10 pictures, photographs, somebody else's weights); absent on most machines."""
    place = Path(os.environ.get("RESIDUAL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no small real data at {place} (set RESIDUAL_TEST_DATA)")
    return place


def some_images(count: int = 30) -> "Images":
    """Noise of 8 x 8 pixels, of three classes in turn."""
    import torch

    from residual.data.images import Images

    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        names=tuple(map(str, range(count))),
    )
