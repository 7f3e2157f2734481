"""Images as they were before a data set cut them to squares: what corners and scales are taken from.

Shapes: H x W pixels, C channels, uint8 (H, W, C), each image its own H and W.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from residual.data.decode import BadImage, Pixels, View
from residual.data.images import ImageFiles, Images
from residual.data.loader import CHUNK, Pool
from residual.data.sources import list_images

READ_AT_ONCE = 1000  # stored images per batch


def whole(images: Images | ImageFiles) -> Iterator[Pixels]:
    """Every image, in order, uncut: of files, all their pixels, decoded once; of images in memory, what is stored."""
    if isinstance(images, Images):
        yield from stored(images)
        return
    view = View(mode=images.view.mode)
    with Pool(workers=images.workers) as pool:  # whole photographs are large: few are decoded ahead
        for decoded in pool.decode(images.files, view, window=CHUNK * max(1, images.workers)):
            if isinstance(decoded.pixels, BadImage):
                raise ValueError(
                    f"{decoded.file.name}: {decoded.pixels}. It was good when the data was checked a moment ago; put "
                    "the file back and measure again"
                )
            yield decoded.pixels


def stored(images: Images | ImageFiles) -> Iterator[Pixels]:
    """Every image, in order, as the data set hands it on: a square."""
    count = len(images)
    batches = (torch.arange(start, min(start + READ_AT_ONCE, count)) for start in range(0, count, READ_AT_ONCE))
    for batch in images.stream(batches):
        yield from batch.cpu().numpy()


def as_files(images: Images, folder: Path, *, workers: int) -> ImageFiles:
    """The files of `folder` that these images, stored as squares, were made from.

    Refuses images that are no longer there, by name.
    """
    listed = {entry.file.name: entry.file for entry in list_images(folder.expanduser()).entries}
    lost = next((name for name in images.names if name not in listed), None)
    if lost is not None:
        raise ValueError(
            f"the original of {lost} is not found in {folder}, and the square that was kept of it lacks what this "
            "protocol looks at; put the file back, or measure with --protocol one-crop"
        )
    side, _, channels = images.shape
    return ImageFiles(
        files=tuple(listed[name] for name in images.names),
        labels=images.labels.cpu(),
        classes=images.classes,
        names=images.names,
        view=View(mode="L" if channels == 1 else "RGB", size=side, resize=side),
        workers=workers,
    )
