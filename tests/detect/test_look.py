"""Images before whatever finds: each once, in their order, each answer under the name of its image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from residual.data.scenes import draw_scenes
from residual.detect.found import Found
from residual.detect.look import finite, look, refuse_nothing


def test_every_image_is_shown_once_and_told_of_when_its_answer_has_been_used():
    images, told, asked = draw_scenes(3, size=32), [], []

    def find(pixels: np.ndarray) -> Found:
        asked.append(pixels)
        return Found(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))

    for number, (name, pixels, found, seconds) in enumerate(
        look(find, images, workers=0, progress=lambda done, all_of_them: told.append((done, all_of_them)))
    ):
        assert (name, len(asked), len(told)) == (images.names[number], number + 1, number)
        assert np.array_equal(pixels, (images.pixels or ())[number])
        assert pixels is asked[-1]
        assert (len(found.labels), seconds > 0) == (0, True)
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_answer_that_is_not_finite_is_refused_with_its_image():
    broken = Found(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), torch.full((1,), torch.nan))
    with pytest.raises(
        ValueError, match="the answer to a photograph is not finite; the detector's weights are damaged"
    ):
        finite(broken.detections(), "a photograph")


def test_images_without_an_object_that_counts_are_refused():
    images = draw_scenes(2, size=32)
    refuse_nothing(images)
    aside = tuple(replace(here, aside=np.ones(len(here), bool)) for here in images.objects)
    with pytest.raises(ValueError, match="none of the 2 images of drawn scenes, seed 0 has an object that counts"):
        refuse_nothing(replace(images, objects=aside))
