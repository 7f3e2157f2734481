import json

import pytest
import torch

from residual.train.distributed import World
from residual.train.totals import Totals

CPU = torch.device("cpu")


def test_means_are_over_all_images_since_the_last_time():
    totals = Totals(CPU)
    for loss, wrong, images in ((2.0, 3, 4), (1.0, 1, 4), (5.0, 2, 8)):
        assert totals.add(torch.tensor(loss), torch.tensor(wrong), images, World()) == wrong
    assert totals.take() == (pytest.approx((2 * 4 + 1 * 4 + 5 * 8) / 16), pytest.approx(100 * 6 / 16))
    totals.add(torch.tensor(7.0), torch.tensor(0), 2, World())
    assert totals.take() == (7.0, 0.0)


def test_they_come_back_from_json_exactly():
    totals, again = Totals(CPU), Totals(CPU)
    totals.add(torch.tensor(0.1), torch.tensor(1), 3, World())
    again.load(json.loads(json.dumps(totals.state())))
    assert again.take() == totals.take()
