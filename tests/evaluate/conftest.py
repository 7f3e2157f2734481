"""What the tests of evaluation share: photographs as files, whole and square, and a small network for them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from residual.data.decode import View
from residual.data.images import ImageFiles
from residual.data.loader import File
from residual.data.transforms import Preprocessing
from residual.models.catalog import describe
from residual.models.resnet import ResNet

CLASSES = tuple("abcdefg")
PREPROCESSING = Preprocessing(
    size=56, resize=64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
)  # the usual 224 of 256, a quarter as large


@pytest.fixture(scope="session")
def narrow() -> ResNet:
    """ResNet-18 of an eighth of the width, with batch-norm statistics that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet(replace(describe("resnet18"), widths=(8, 16, 32, 64), stem_width=8, classes=len(CLASSES)))
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.2)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="session")
def photographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    """Six photographs: four as they are, none of them square, and two made square.  Not to be written to."""
    folder = tmp_path_factory.mktemp("photographs")
    pictures = [opened(path) for path in sorted((shared_data / "photos").iterdir())[:6]]
    pictures[4:] = [pictures[4].resize((180, 180)), pictures[5].resize((97, 97))]
    files = []
    for number, picture in enumerate(pictures):
        picture.thumbnail((240, 240))  # small ones are enough
        path = folder / f"{number}.png"
        picture.save(path)
        files.append(File(name=path.name, path=os.fsencode(path)))
    assert len({picture.size for picture in pictures}) > 2
    return ImageFiles(
        files=tuple(files),
        labels=torch.arange(6) % len(CLASSES),
        classes=CLASSES,
        names=tuple(file.name for file in files),
        view=View(size=64, resize=64),
    )


@pytest.fixture
def pictures(photographs: ImageFiles) -> list[Image.Image]:
    """The same, as Pillow opens them."""
    return [opened(os.fsdecode(file.path or b"")) for file in photographs.files]


def opened(path: str | Path) -> Image.Image:
    """A picture that no longer holds its file open."""
    with Image.open(path) as picture:
        return picture.convert("RGB")
