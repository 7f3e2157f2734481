"""Errors agree with other people's code, and with arithmetic where they disagree."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from residual.evaluate.error import (
    bootstrap_interval,
    confusion,
    mcnemar,
    paired_interval,
    per_class,
    ranks,
    top_k_error,
)
from residual.evaluate.score import Scores


def random_scores(images: int = 500, classes: int = 12, seed: int = 0) -> Scores:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator)
    return Scores(logits + 2 * torch.nn.functional.one_hot(labels, classes), labels)


@pytest.mark.parametrize("k", [1, 2, 5, 11])
def test_top_k_error_agrees_with_scikit_learn_and_torchmetrics(k: int) -> None:
    scores = random_scores()
    theirs = top_k_accuracy_score(scores.labels, scores.logits, k=k, labels=np.arange(12))
    assert top_k_error(scores, k) == pytest.approx(100 * (1 - theirs), abs=1e-9)
    accuracy = multiclass_accuracy(scores.logits, scores.labels, num_classes=12, top_k=k, average="micro")
    assert top_k_error(scores, k) == pytest.approx(100 * (1 - float(accuracy)), abs=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_of_equal_scores_the_first_class_counts_as_higher(k: int) -> None:
    """As a stable sort has it; scikit-learn and torchmetrics leave ties to their sorting algorithms."""
    generator = torch.Generator().manual_seed(1)
    scores = Scores(
        torch.randint(3, (400, 6), generator=generator).float(), torch.randint(6, (400,), generator=generator)
    )
    order = np.argsort(-scores.logits.numpy(), axis=1, kind="stable")[:, :k]
    right = (order == scores.labels.numpy()[:, None]).any(axis=1)
    assert top_k_error(scores, k) == pytest.approx(100 * (1 - right.mean()), abs=1e-9)
    assert top_k_error(scores, 1) == pytest.approx(100 * float(scores.wrong.double().mean()), abs=1e-9)


def test_a_constant_network_is_right_on_the_first_class_only() -> None:
    scores = Scores(torch.zeros(10, 5), torch.arange(10) % 5)
    assert [top_k_error(scores, k) for k in range(1, 6)] == [80, 60, 40, 20, 0]


def test_scores_that_are_not_numbers_are_never_right() -> None:
    logits = torch.zeros(3, 4)
    logits[0] = float("nan")
    logits[1, 2] = float("nan")
    scores = Scores(logits, torch.tensor([0, 2, 0]))
    assert ranks(scores).tolist() == [4, 4, 0]


def test_the_confusion_matrix_agrees_with_scikit_learn() -> None:
    scores = random_scores()
    theirs = confusion_matrix(scores.labels, scores.predicted, labels=range(12))
    assert confusion(scores).tolist() == theirs.tolist()


def test_every_class_has_its_own_error() -> None:
    scores = Scores(torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 1, 1, 1]))
    assert per_class(scores, ("a", "b", "c")) == [
        {"class": "a", "images": 1, "error": 0.0},
        {"class": "b", "images": 3, "error": pytest.approx(100 / 3)},
        {"class": "c", "images": 0, "error": None},
    ]


@pytest.mark.parametrize("k", [0, 13])
def test_a_k_that_does_not_exist_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"the top {k} of 12 classes"):
        top_k_error(random_scores(), k)


def test_the_interval_agrees_with_resampling_the_images_themselves() -> None:
    wrong = torch.arange(300) < 30
    rng = np.random.default_rng(5)
    means = wrong.double().numpy()[rng.integers(300, size=(20_000, 300))].mean(axis=1)
    low, high = np.quantile(100 * means, [0.025, 0.975])
    assert bootstrap_interval(wrong, seed=0) == pytest.approx((low, high), abs=0.35)  # one image is 0.33


def test_the_interval_is_a_pure_function_of_the_seed() -> None:
    wrong = torch.arange(1000) < 83
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = bootstrap_interval(wrong, seed=1)
    assert first == bootstrap_interval(wrong, seed=1)
    assert first != bootstrap_interval(wrong, seed=2) or first == bootstrap_interval(wrong, seed=3)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert first[0] < 8.3 < first[1]


def test_no_error_in_few_images_proves_little() -> None:
    """The rule of three: 0 of 100 wrong leaves up to 3.6 % possible at 97.5 % certainty."""
    low, high = bootstrap_interval(torch.zeros(100, dtype=torch.bool), seed=0)
    assert (low, high) == (0, pytest.approx(3.62, abs=0.01))
    low, high = bootstrap_interval(torch.ones(100, dtype=torch.bool), seed=0)
    assert (low, high) == (pytest.approx(96.38, abs=0.01), 100)


def test_an_interval_of_95_percent_holds_the_truth_about_as_often() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(150):
        low, high = bootstrap_interval(torch.from_numpy(rng.random(400) < 0.1), seed=seed)
        held += low <= 10 <= high
    assert 132 <= held <= 149  # 142 expected, standard deviation 3


def test_a_paired_interval_agrees_with_resampling_the_images_themselves() -> None:
    before = torch.arange(300) < 30
    after = (torch.arange(300) < 50) & (torch.arange(300) >= 8)  # 20 become wrong, 8 become right
    rng = np.random.default_rng(5)
    moved = after.double().numpy() - before.double().numpy()
    means = moved[rng.integers(300, size=(20_000, 300))].mean(axis=1)
    low, high = np.quantile(100 * means, [0.025, 0.975])
    assert paired_interval(before, after, seed=0) == pytest.approx((low, high), abs=0.35)  # one image is 0.33
    assert paired_interval(after, before, seed=1) == pytest.approx((-high, -low), abs=0.35)


def test_pairing_tells_more_than_two_intervals() -> None:
    """Two networks that err on nearly the same images differ surely, although each error is unsure."""
    before = torch.arange(1000) < 100
    after = torch.arange(1000) < 112
    low, high = paired_interval(before, after, seed=0)
    assert 0 < low < 1.2 < high
    assert bootstrap_interval(before, seed=0)[1] > bootstrap_interval(after, seed=0)[0]


@pytest.mark.parametrize(
    "became_wrong, became_right, p",
    [(0, 0, 1), (1, 0, 1), (5, 5, 1), (0, 6, 2 / 64), (8, 1, 2 * 10 / 512), (1, 8, 2 * 10 / 512)],
)
def test_the_exact_test_counts_coins(became_wrong: int, became_right: int, p: float) -> None:
    assert mcnemar(became_wrong, became_right) == pytest.approx(p)
