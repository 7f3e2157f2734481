"""Drawn shapes: images, boxes and masks without a download, a pure function of (seed, index).

Shapes: N images, S x S pixels, K objects in a scene.  Each class is one outline; place, size, turn, colours
and a noisy background vary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from residual.data.images import Dataset, Images

CLASSES = ("circle", "cross", "heart", "hexagon", "moon", "ring", "square", "star", "stripes", "triangle")
TRAIN, TEST = 2_000, 500
FINE = 4  # outlines are drawn so many times finer, then averaged


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One drawn image with what is in it."""

    pixels: Tensor  # (S, S, 3) uint8
    labels: Tensor  # (K,) int64
    boxes: Tensor  # (K, 4) float32: left, top, right, bottom, in pixels; right and bottom are outside
    masks: Tensor  # (K, S, S) bool: what is seen of each object


def read_shapes(*, size: int = 32, seed: int = 0, train: int = TRAIN, test: int = TEST) -> Dataset:
    """A classification set: one shape per image, classes in turn."""
    first, second = (
        draw_shapes(count, size=size, seed=seed, start=start) for count, start in ((train, 0), (test, train))
    )
    return Dataset(
        train=first,
        test=second,
        classes=CLASSES,
        origin=f"drawn shapes, seed {seed}",
        split={"made": "drawn", "seed": seed, "train": train, "test": test},
        sizes={f"{size}x{size}": train + test},
    )


def draw_shapes(count: int, *, size: int = 32, seed: int = 0, start: int = 0) -> Images:
    """Images number start .. start + count - 1, one shape each."""
    pixels = np.empty((count, size, size, 3), np.uint8)
    labels = torch.arange(start, start + count) % len(CLASSES)
    for row in range(count):
        rng = np.random.default_rng((seed, start + row))
        pixels[row] = _draw(rng, size, [int(labels[row])], smallest=0.5, largest=0.9)[0]
    names = tuple(f"shapes:{number}" for number in range(start, start + count))
    return Images(pixels=torch.from_numpy(pixels), labels=labels, classes=CLASSES, names=names)


def draw_scene(index: int, *, size: int = 128, seed: int = 0, most: int = 4) -> Scene:
    """Scene number `index`: one to `most` shapes, later ones in front, 16 visible pixels or more each."""
    rng = np.random.default_rng((seed, index, 1))
    labels = rng.integers(len(CLASSES), size=rng.integers(1, most + 1)).tolist()
    pixels, covers = _draw(rng, size, labels, smallest=0.15, largest=0.5)
    visible: list[NDArray[np.bool_]] = []
    hidden = np.zeros((size, size), np.bool_)
    for cover in reversed(covers):
        visible.insert(0, cover & ~hidden)
        hidden |= cover
    kept = [number for number, mask in enumerate(visible) if mask.sum() >= 16]
    boxes = []
    for number in kept:
        rows, columns = np.nonzero(visible[number])
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return Scene(
        pixels=torch.from_numpy(pixels),
        labels=torch.tensor([labels[number] for number in kept], dtype=torch.int64),
        boxes=torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        masks=torch.from_numpy(np.array([visible[n] for n in kept], np.bool_).reshape(-1, size, size)),
    )


def _draw(
    rng: np.random.Generator, size: int, labels: list[int], *, smallest: float, largest: float
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A noisy background with shapes on it, and the pixels that each covers at least half."""
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.uint8)
    ground = Image.fromarray(corners).resize((size, size), Image.Resampling.BILINEAR)
    canvas = np.asarray(ground, dtype=np.float64)
    covers: list[NDArray[np.bool_]] = []
    for label in labels:
        diameter = size * rng.uniform(smallest, largest)
        centre = rng.uniform(diameter / 2, size - diameter / 2, 2)
        turn = rng.uniform(0, 2 * np.pi)
        cover = _cover(CLASSES[label], size, centre, diameter / 2, turn)
        mean = canvas[cover > 0.5].mean(0) if (cover > 0.5).any() else canvas.mean((0, 1))
        colour = rng.uniform(0, 255, 3)
        while np.abs(colour - mean).max() < 64:  # seen at least in one channel
            colour = rng.uniform(0, 255, 3)
        canvas = canvas + cover[..., None] * (colour - canvas)
        covers.append(cover >= 0.5)
    canvas = canvas + rng.normal(0, rng.uniform(2, 12), canvas.shape)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), covers


def _cover(name: str, size: int, centre: NDArray[np.float64], radius: float, turn: float) -> NDArray[np.float64]:
    """The share of each pixel that a shape covers: (S, S), 0..1."""
    picture = Image.new("L", (size * FINE, size * FINE))
    pen = ImageDraw.Draw(picture)

    def disc(x: float, y: float, r: float, ink: int = 255) -> None:
        across, down = _place(np.array([[x, y]]), centre, radius, turn)[0] * FINE
        r = r * radius * FINE
        pen.ellipse((across - r, down - r, across + r, down + r), fill=ink)

    def polygon(points: NDArray[np.float64]) -> None:
        placed = _place(points, centre, radius, turn) * FINE
        pen.polygon([(float(x), float(y)) for x, y in placed], fill=255)

    match name:
        case "circle":
            disc(0, 0, 1)
        case "ring":
            disc(0, 0, 1)
            disc(0, 0, 0.55, 0)
        case "moon":
            disc(0, 0, 1)
            disc(0.5, 0, 0.8, 0)
        case "heart":
            disc(-0.45, -0.3, 0.5)
            disc(0.45, -0.3, 0.5)
            polygon(np.array([[-0.9, -0.1], [0.9, -0.1], [0, 1.0]]))
        case "cross":
            for across, down in ((0.95, 0.3), (0.3, 0.95)):
                polygon(np.array([[-across, -down], [across, -down], [across, down], [-across, down]]))
        case "stripes":
            for left in (-0.8, -0.2, 0.4):
                polygon(np.array([[left, -0.6], [left + 0.4, -0.6], [left + 0.4, 0.6], [left, 0.6]]))
        case "star":
            angles = np.arange(10) * np.pi / 5
            lengths = np.where(np.arange(10) % 2, 0.4, 1.0)
            polygon(np.stack([lengths * np.cos(angles), lengths * np.sin(angles)], 1))
        case _:
            corners = {"triangle": 3, "square": 4, "hexagon": 6}[name]
            angles = np.arange(corners) * 2 * np.pi / corners
            polygon(np.stack([np.cos(angles), np.sin(angles)], 1))
    fine = np.asarray(picture, dtype=np.float64).reshape(size, FINE, size, FINE)
    return np.asarray(fine.mean((1, 3)) / 255)


def _place(points: NDArray[np.float64], centre: NDArray[np.float64], radius: float, turn: float) -> NDArray[np.float64]:
    """Turn, scale and move outline points, which lie within the unit circle."""
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(points @ rotation.T * radius + centre, dtype=np.float64)
