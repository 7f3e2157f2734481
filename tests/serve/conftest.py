"""The drawn video and its finder, which the tests of detection share."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def moving() -> ModuleType:
    """The file moving.py beside this one."""
    told = importlib.util.spec_from_file_location("moving", Path(__file__).with_name("moving.py"))
    assert told is not None
    assert told.loader is not None
    module = importlib.util.module_from_spec(told)
    told.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def film(moving: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video of 300 frames.  Not to be written to."""
    return moving.video(tmp_path_factory.mktemp("film") / "film.mp4")
