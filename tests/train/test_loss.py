import pytest
import torch
from torch.nn import functional

from residual.train.loss import PRESENT, binary_cross_entropy, binary_targets, cross_entropy


def some(count: int = 6, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.0])
def test_cross_entropy_of_a_mixed_image_is_that_of_the_mixed_target(share, smoothing):
    logits, labels = some()
    targets = share * functional.one_hot(labels, 5) + (1 - share) * functional.one_hot(labels.flip(0), 5)
    targets = (1 - smoothing) * targets.double() + smoothing / 5
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(logits, labels, share=share, smoothing=smoothing), expected)


def test_the_target_of_a_class_that_is_there_is_1_and_of_the_others_0():
    targets = binary_targets(torch.tensor([2, 0]), 4, share=1.0, smoothing=0.0)
    assert targets.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_a_mixed_image_is_of_both_its_classes_in_full():
    targets = binary_targets(torch.tensor([2, 0]), 4, share=0.6, smoothing=0.0)
    assert targets.tolist() == [[1, 0, 1, 0], [1, 0, 1, 0]]


@pytest.mark.parametrize(("share", "classes"), [(0.9, {2}), (0.1, {0}), (1 - PRESENT / 2, {2}), (0.5, {0, 2})])
def test_what_is_hardly_to_be_seen_does_not_count(share, classes):
    targets = binary_targets(torch.tensor([2, 0]), 4, share=share, smoothing=0.0)
    assert set(targets[0].nonzero()[:, 0].tolist()) == classes


def test_two_images_of_one_class_mix_to_one_of_that_class():
    assert binary_targets(torch.tensor([1, 1]), 3, share=0.5, smoothing=0.0).tolist() == [[0, 1, 0]] * 2


def test_smoothing_takes_from_the_ones_and_gives_to_all():
    targets = binary_targets(torch.tensor([2, 0]), 4, share=0.5, smoothing=0.2)
    torch.testing.assert_close(targets[0], torch.tensor([0.85, 0.05, 0.85, 0.05]))


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_binary_loss_is_the_mean_over_images_and_classes(share):
    logits, labels = some()
    targets = binary_targets(labels, 5, share=share, smoothing=0.1).double()
    yes, no = logits.sigmoid().log(), (-logits).sigmoid().log()
    expected = -(targets * yes + (1 - targets) * no).mean()
    torch.testing.assert_close(binary_cross_entropy(logits, labels, share=share, smoothing=0.1), expected)


def test_the_binary_loss_is_timm_s():
    """Of images that are not mixed, and of mixed ones where timm is given our threshold."""
    timm = pytest.importorskip("timm.loss")
    logits, labels = some()
    theirs = timm.BinaryCrossEntropy(smoothing=0.1)(logits, labels)
    torch.testing.assert_close(binary_cross_entropy(logits, labels, smoothing=0.1), theirs.double())
    mixed = 0.7 * functional.one_hot(labels, 5) + 0.3 * functional.one_hot(labels.flip(0), 5)
    theirs = timm.BinaryCrossEntropy(smoothing=0.0, target_threshold=PRESENT)(logits, mixed)
    torch.testing.assert_close(binary_cross_entropy(logits, labels, share=0.7), theirs.double())
