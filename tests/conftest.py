"""What every test shares: where small real data lies, and one thread so that runs repeat bit for bit."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported anywhere


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data (CIFAR-10 pictures, photographs, somebody else's weights); absent on most machines."""
    place = Path(os.environ.get("RESIDUAL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no small real data at {place} (set RESIDUAL_TEST_DATA)")
    return place
