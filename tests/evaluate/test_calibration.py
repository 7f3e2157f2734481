"""Confidence against accuracy."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from residual.evaluate.calibration import calibration_error, reliability
from residual.evaluate.score import Scores


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("spread", [0.5, 2.0, 5.0])
def test_the_calibration_error_agrees_with_torchmetrics(bins: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (2000,), generator=generator)
    logits = spread * torch.randn(2000, 10, generator=generator)
    theirs = multiclass_calibration_error(logits.double(), labels, num_classes=10, n_bins=bins, norm="l1")
    found = calibration_error(reliability(Scores(logits, labels), bins))
    assert found == pytest.approx(float(theirs), abs=1e-6)


def test_the_rows_count_every_image_once_and_lie_in_their_bins() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = Scores(3 * torch.randn(500, 4, generator=generator), torch.randint(4, (500,), generator=generator))
    rows = reliability(scores, 10)
    assert sum(row.count for row in rows) == 500
    for place, row in enumerate(rows):
        assert (row.count == 0) == (row.confidence is None) == (row.accuracy is None)
        if row.confidence is not None:
            assert place / 10 <= row.confidence <= (place + 1) / 10
    assert rows[0].count == rows[1].count == 0  # of four classes the highest has at least a quarter


def test_certainty_belongs_to_the_last_bin() -> None:
    scores = Scores(torch.tensor([[1000.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 1]))
    rows = reliability(scores)
    assert (rows[-1].confidence, rows[-1].accuracy, rows[-1].count) == (1.0, 0.5, 2)
    assert calibration_error(rows) == 0.5


def test_a_network_that_knows_how_sure_to_be_has_no_error() -> None:
    """Three of four right at a confidence of three quarters."""
    logits = torch.tensor([[3.0, 1.0]]).log().repeat(4, 1)
    rows = reliability(Scores(logits, torch.tensor([0, 0, 0, 1])))
    assert calibration_error(rows) == pytest.approx(0, abs=1e-7)
