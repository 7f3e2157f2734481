"""The resident stream is the training stream, batch for batch."""

import pytest
import torch

from residual.data.batches import training_batches
from residual.data.images import Images
from residual.data.resident import ResidentBatches, can_be_resident
from residual.data.transforms import Augmentation, Normalize, Preprocessing
from tests.conftest import some_images

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(size=8, mean=(120.0, 110.0, 100.0), std=(60.0, 61.0, 62.0))


@pytest.fixture
def images() -> Images:
    return some_images(50)


@pytest.mark.parametrize("batch", [16, 50, 120], ids=["a third of an epoch", "an epoch", "more than two"])
@pytest.mark.parametrize("start", [0, 5])
def test_every_batch_is_that_of_the_training_stream(images: Images, batch: int, start: int):
    normalize, augmentation = Normalize(PREPROCESSING), Augmentation(crop="pad", pad=2)
    stream = training_batches(images, augmentation, normalize, batch=batch, seed=7, start=start, device=CPU)
    resident = ResidentBatches(images, augmentation, normalize, batch=batch, seed=7, device=CPU)
    for step in range(start, start + 12):
        expected = next(stream)
        resident.at(step)
        found = resident.draw()
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.labels, expected.labels)
        assert torch.equal(found.indices, expected.indices)


def test_going_back_to_an_earlier_iteration_draws_its_batch_again(images: Images):
    resident = ResidentBatches(images, Augmentation(), Normalize(PREPROCESSING), batch=16, seed=7, device=CPU)
    drawn = []
    for step in (0, 1, 2, 3, 4, 1):
        resident.at(step)
        drawn.append(resident.draw().images)
    assert torch.equal(drawn[5], drawn[1])
    assert not torch.equal(drawn[5], drawn[0])


def test_mixing_is_refused(images: Images):
    assert can_be_resident(images, Augmentation(crop="pad"))
    assert not can_be_resident(images, Augmentation(crop="resized"))
    with pytest.raises(ValueError, match="can be resident, not"):
        ResidentBatches(images, Augmentation(mixup=0.2), Normalize(PREPROCESSING), batch=16, seed=7, device=CPU)
