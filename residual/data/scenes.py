"""Drawn scenes as a set of images with objects, boxes and outlines, in memory: detection without a download."""

from residual.data.objects import ObjectImages, from_masks
from residual.data.shapes import CLASSES, draw_scene

COUNTED = 1 << 64  # the seed of sets that are the same for every seed; torch takes none so large, so no run has it


def draw_scenes(count: int, *, size: int = 128, seed: int = 0, start: int = 0, most: int = 4) -> ObjectImages:
    """Scenes number start .. start + count - 1 of `shapes.draw_scene`: a pure function of seed and number."""
    scenes = [draw_scene(start + number, size=size, seed=seed, most=most) for number in range(count)]
    return ObjectImages(
        paths=(),
        names=tuple(f"scenes:{start + number}" for number in range(count)),
        sizes=((size, size),) * count,
        objects=tuple(from_masks(scene.masks.numpy(), scene.labels.tolist()) for scene in scenes),
        classes=CLASSES,
        origin=f"drawn scenes, {'the same for every seed' if seed == COUNTED else f'seed {seed}'}",
        pixels=tuple(scene.pixels.numpy() for scene in scenes),
    )
