"""Section 3.4 in small: the paper's recipe for ImageNet on images of 64 pixels, such as Tiny ImageNet's.

Lengths along an image are a quarter of the paper's: the network sees 56 of 64 pixels as it does 224 of 256, and in
training the shorter side is 64 to 120 pixels as it is 256 to 480.  120 passes, as 600k iterations are over ImageNet.
"""

from dataclasses import replace

from residual.recipes.imagenet import paper_photos
from residual.recipes.recipe import Recipe

SIDE = 56  # pixels that a network sees


def paper_tiny() -> Recipe:
    """For networks with an ImageNet stem, on images of SIDE pixels."""
    paper = paper_photos()
    augmentation = replace(paper.augmentation, shorter=(64, 120))
    return replace(paper, name="paper-tiny", iterations=None, epochs=120, augmentation=augmentation)
