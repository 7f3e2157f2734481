"""A drawn video of moving shapes, and a finder of them that is always right: what the tests of detection share.

Run with the words of a command, this is `residual` with that finder in place of every file of weights.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from residual.data.decode import Pixels
from residual.data.outlines import spread
from residual.data.shapes import _cover
from residual.detect.card import DetectorCard, card_of
from residual.detect.detections import outlines_of
from residual.detect.faster_rcnn import DetectorDescription
from residual.detect.found import Found
from residual.detect.procedure import Procedure

HEIGHT, WIDTH, SIDE = 120, 160, 31
COLOURS = {"circle": (220, 40, 40), "star": (40, 200, 60), "square": (50, 70, 230)}
CLASSES = tuple(COLOURS)
SPRITES = {name: _cover(name, SIDE, np.array([SIDE / 2, SIDE / 2]), SIDE / 2 - 1, 0.3) > 0.5 for name in CLASSES}


def places(number: int) -> dict[str, tuple[int, int]]:
    """Left and top of each shape on frame `number` of 300: a circle comes, a star goes, a square is there for 100."""
    there = {"circle": (2 + number * 126 // 300, 10), "star": (125 - number * 120 // 300, 50)}
    if 100 <= number < 200:
        there["square"] = (60, 88 - (number - 100) // 6)
    return there


def frame(number: int, *, there: dict[str, tuple[int, int]] | None = None) -> Pixels:
    """(120, 160, 3) uint8: shapes on grey, the square in front of the star, the star in front of the circle."""
    pixels = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    for name, (left, top) in (places(number) if there is None else there).items():
        pixels[top : top + SIDE, left : left + SIDE][SPRITES[name]] = COLOURS[name]
    return pixels


def video(path: Path, frames: int = 300, *, rate: float = 30.0) -> Path:
    """The video as MPEG-4; the ending of its name says in what."""
    import cv2

    sink = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), rate, (WIDTH, HEIGHT))
    for number in range(frames):
        sink.write(np.ascontiguousarray(frame(number)[:, :, ::-1]))
    sink.release()
    return path


class Finder(nn.Module):
    """Finds each shape by its colour.  seconds: how long it takes for an image."""

    def __init__(self, *, masks: bool = False, seconds: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.masks, self.seconds, self.seen = masks, seconds, 0
        self.card: DetectorCard = card_of(
            DetectorDescription(trunk="vgg16", classes=CLASSES),
            name="by_colour",
            classes=CLASSES,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            procedure=Procedure(),
        )

    def find(self, pixels: Pixels, procedure: Procedure | None = None) -> Found:
        time.sleep(self.seconds)
        self.seen += 1
        boxes, labels, scores, masks = [], [], [], []
        for label, name in enumerate(CLASSES):
            mask = np.abs(pixels.astype(int) - COLOURS[name]).max(2) < 60
            if mask.sum() > 50 and (box := spread(mask)) is not None:
                boxes.append(box)
                labels.append(label)
                scores.append(0.95 - 0.1 * label - float(mask.mean()))
                masks.append(mask)
        order = np.argsort([-score for score in scores])
        told: list[Any] = [torch.tensor(np.array(each, np.float32)[order]) for each in (boxes, scores)]
        kept = outlines_of(np.array(masks, bool).reshape(-1, *pixels.shape[:2])[order]) if self.masks else None
        return Found(told[0].reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)[order], told[1], kept)


def main() -> None:
    """As `residual`; SLOW in the environment says how many seconds an image takes, MASKS that there are some."""
    import residual.cli.detect
    from residual.cli.main import main as residual_main
    from residual.detect import weights

    finder = Finder(masks="MASKS" in os.environ, seconds=float(os.environ.get("SLOW", 0)))
    weights.load = lambda source: finder
    residual.cli.detect._refuse_classifier = lambda weights: None
    residual_main()


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    main()
