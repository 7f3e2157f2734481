"""An order of the classes is found by labelled images; blind guesses have none."""

import torch
from torch import nn

from residual.evaluate.labelled import judge_order


def test_any_order_of_the_classes_is_found_and_no_order_in_blind_guesses():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 10
    blind = [judge_order(torch.randn(80, 10, generator=rng), labels)[1] for _ in range(50)]
    assert blind == [None] * 50
    order = torch.randperm(10, generator=rng)
    logits = torch.randn(80, 10, generator=rng) + 3 * nn.functional.one_hot(order[labels], 10)
    finding, found = judge_order(logits, labels)
    assert (finding.verdict, finding.found, found) == ("faulty", "another order", tuple(order.tolist()))
    finding, found = judge_order(logits, order[labels])
    assert (finding.verdict, found) == ("sound", None)
