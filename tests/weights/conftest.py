"""What the tests of several layouts share."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view


def convolve(x, kernel, *, stride=1, pad=0):
    """Cross-correlation with (c_out, c_in, height, width), behind a border of zeros."""
    x = np.pad(np.float64(x), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, kernel.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("nchwij,ocij->nohw", windows, np.float64(kernel), optimize=True)


def max_pool(x, *, rounding):
    """3x3 with stride 2: where the last window leaves the map, "up" keeps it and "down" drops it."""
    if rounding == "up":
        room = [max((side - 3) % 2, 3 - side) for side in x.shape[2:]]
        x = np.pad(x, ((0, 0), (0, 0), (0, room[0]), (0, room[1])), constant_values=-np.inf)
    return sliding_window_view(x, (3, 3), (2, 3))[:, :, ::2, ::2].max((4, 5))


def per_channel(values):
    return np.float64(values)[:, None, None]


def normalise(x, *, mean, variance, epsilon):
    return (x - per_channel(mean)) / np.sqrt(per_channel(variance) + epsilon)


def disagreement(found, expected):
    """The largest difference, relative to the largest logit."""
    return float(np.abs(np.float64(found) - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def layers():
    """Layers in NumPy and float64, of which a test builds somebody's network as they describe it.

    Shapes: maps (N, C, H, W).
    """
    return SimpleNamespace(
        convolve=convolve,
        max_pool=max_pool,
        per_channel=per_channel,
        normalise=normalise,
        disagreement=disagreement,
    )


@pytest.fixture(scope="session")
def lua():
    """lua.py beside this file: another implementation of Torch7's format, which writes it."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("lua.py"))))


@pytest.fixture(scope="session")
def caffe():
    """Caffe's messages by name, written and read by google.protobuf (caffe_messages.py beside this file)."""
    return runpy.run_path(str(Path(__file__).with_name("caffe_messages.py")))["message_classes"]()


@pytest.fixture(scope="session")
def foreign():
    """foreign.py beside this file: numbers that training could have left, and how far two networks differ."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("foreign.py"))))
