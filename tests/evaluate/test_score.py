"""A network looks at images: all of them, once, in order, as training stored them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from residual.data.images import Images
from residual.data.synsets import synsets
from residual.data.transforms import Preprocessing, prepare
from residual.evaluate.score import Scores, align, logits, score


class Mean(nn.Module):
    """Its scores are the mean colours; it remembers how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.calls: list[tuple[tuple[int, ...], bool, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        self.calls.append((tuple(x.shape), self.training, torch.is_inference_mode_enabled(), channels_last))
        return x.mean((2, 3))


def pictures(count: int = 7, side: int = 8, channels: int = 3) -> Images:
    generator = torch.Generator().manual_seed(0)
    return Images(
        pixels=torch.randint(256, (count, side, side, channels), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % 3,
        classes=("a", "b", "c"),
        names=tuple(map(str, range(count))),
    )


PREPROCESSING = Preprocessing(size=8, mean=(10, 20, 30), std=(50, 60, 70))


def test_every_image_is_scored_once_and_in_order() -> None:
    images, model = pictures(), Mean()
    scores = score(model, images, PREPROCESSING)
    expected = (images.pixels.double().mean((1, 2)) - torch.tensor([10, 20, 30])) / torch.tensor([50, 60, 70])
    assert torch.allclose(scores.logits.double(), expected, atol=1e-5)
    assert torch.equal(scores.labels, images.labels)
    assert scores.logits.dtype == torch.float32


def test_scores_come_batch_by_batch() -> None:
    model = Mean()
    found = list(logits(model, pictures(), PREPROCESSING, batch=3))
    assert [len(batch) for batch in found] == [3, 3, 1]
    assert torch.equal(torch.cat(found), score(model, pictures(), PREPROCESSING).logits)
    assert model.calls[0] == ((3, 3, 8, 8), False, True, True)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = Mean().train(training)
    score(model, pictures(), PREPROCESSING)
    assert model.training is training
    assert model.norm.training is training
    assert model.norm.num_batches_tracked == 0


def test_stored_images_are_cut_to_their_centre() -> None:
    images = pictures(side=12)
    cut = replace(PREPROCESSING, resize=12)
    centre = replace(images, pixels=images.pixels[:, 2:10, 2:10])
    assert torch.equal(score(Mean(), images, cut).logits, score(Mean(), centre, PREPROCESSING).logits)


def test_images_stored_at_another_size_are_resized_as_predicting_does() -> None:
    images = pictures(side=20)
    resized = np.stack([prepare(image.numpy(), PREPROCESSING) for image in images.pixels])
    small = replace(images, pixels=torch.from_numpy(resized))
    assert torch.equal(score(Mean(), images, PREPROCESSING).logits, score(Mean(), small, PREPROCESSING).logits)


def test_grey_images_are_refused_by_a_network_for_colour() -> None:
    with pytest.raises(ValueError, match="1 channels, but the network was trained on RGB"):
        score(Mean(), pictures(channels=1), PREPROCESSING)


def test_labels_follow_the_classes_of_the_network() -> None:
    images = pictures()
    aligned = align(images, ("z", "c", "a", "b"))
    assert [aligned.classes[label] for label in aligned.labels] == [images.classes[label] for label in images.labels]
    assert align(images, images.classes) is images


def test_a_class_the_network_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 classes of the data are unknown to the network, first 'c'"):
        align(pictures(), ("a", "b"))


NETWORK = tuple(synsets().values())  # as on the card of a network with 1,000 classes


@pytest.mark.parametrize("called", ["ids", "all words", "some ids"])
def test_imagenet_s_classes_are_known_by_their_ids_and_by_all_their_words(called: str) -> None:
    ids = tuple(synsets())
    words = (*(f"{name}, and so on" for name in NETWORK[:134]), "crane", *NETWORK[135:638], "maillot, tight")
    names = {"ids": ids, "all words": (*words, "maillot, tank suit", *NETWORK[640:]), "some ids": ids[500:]}[called]
    images = replace(pictures(len(names), 1), labels=torch.arange(len(names)), classes=names)
    aligned = align(images, NETWORK)
    assert aligned.classes == NETWORK
    assert aligned.labels.tolist() == list(range(1000))[-len(names) :]
    assert align(images, ids).labels.equal(aligned.labels)  # a network whose own folders were ids


def test_one_class_under_two_names_is_refused() -> None:
    images = replace(pictures(), classes=("n01440764", "goldfish", "tench, Tinca tinca"))
    with pytest.raises(ValueError, match="'n01440764' and 'tench, Tinca tinca' of the data are one class"):
        align(images, NETWORK)


def test_words_are_compared_as_they_stand_where_the_network_is_of_no_imagenet() -> None:
    with pytest.raises(ValueError, match="1 of 3 classes of the data are unknown to the network, first 'n01440764'"):
        align(replace(pictures(), classes=("a", "b", "n01440764")), ("a", "b", "tench"))


@pytest.mark.parametrize(
    "shape, labels, reason",
    [((2, 3), [0, 3], "labels go from 0 to 3"), ((2, 3), [-1, 0], "from -1"), ((0, 3), [], "at least one"),
     ((2, 3), [0], "must be"), ((6,), [0], "must be")],
)  # fmt: skip
def test_scores_and_labels_that_do_not_fit_are_refused(shape: tuple[int, ...], labels: list[int], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Scores(torch.zeros(shape), torch.tensor(labels, dtype=torch.int64))
