"""Images shown one after the other to whatever finds: the answers that can be measured, and how long each took."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from residual.data.decode import Pixels
from residual.data.load_objects import decoded
from residual.data.loader import Pool
from residual.data.objects import ObjectImages
from residual.detect.detections import Detections
from residual.detect.found import Found

Find = Callable[[Pixels], Found]
"""What is found on an image (H, W, 3) uint8: `Detector.find`, or an ensemble's."""
Tell = Callable[[int, int], object]
"""Is told how many images are done, and of how many."""


def look(
    find: Find, images: ObjectImages, *, workers: int, progress: Tell
) -> Iterator[tuple[str, Pixels, Found, float]]:
    """The name and the pixels of each image, what is found on it, and the seconds that this took.

    workers: processes that decode.  progress: told after every image.
    """
    with Pool(workers=workers) as pool:
        seen = decoded(images, iter(range(len(images))), pool)
        for number, (name, pixels) in enumerate(zip(images.names, seen, strict=True)):
            started = time.perf_counter()
            found = find(pixels)
            yield name, pixels, found, time.perf_counter() - started
            progress(number + 1, len(images))


def finite(found: Detections, name: str) -> Detections:
    """The answer to the image `name`; refuses numbers that are none."""
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        raise ValueError(
            f"the answer to {name} is not finite; the detector's weights are damaged, or its training diverged, so "
            "evaluate an earlier checkpoint"
        )
    return found


def refuse_nothing(images: ObjectImages) -> None:
    """Refuse images without an object that counts."""
    if not any((~here.aside).any() for here in images.objects):
        raise ValueError(
            f"none of the {len(images)} images of {images.origin} has an object that counts, so there is nothing to "
            "measure; give images whose objects are annotated"
        )
