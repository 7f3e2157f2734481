"""What labelled images tell, and batch norms do not: the order of the classes; which of two answers is the better.

Shapes: N images, K classes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from residual.evaluate.finding import SURE, Finding, Verdict

BY_CHANCE = 0.006  # how often SURE is passed without a reason
FLOOR = 0.1  # of a network's answer: counts as a guess, so that no single mistake decides


@dataclass(frozen=True, kw_only=True, eq=False)
class _Order:
    """The output for each class (K,), in words, and how well each image (N,) is answered so."""

    words: str
    outputs: Tensor
    scores: Tensor


def judge_order(logits: Tensor, labels: Tensor, classes: Sequence[str] = ()) -> tuple[Finding, tuple[int, ...] | None]:
    """Whether the network's outputs stand in the order of the labels; if not, the output for each class.

    logits: (N, K).  labels: (N,), in the claimed order.  Tried are all rotations (a background class in front), the
    reverse and the names sorted; then, where there are two images of each class, the best assignment of outputs to
    classes, which is chosen on half of the images and judged on the others.
    """
    guesses = log_probabilities(logits)
    claimed = _scored("as claimed", torch.arange(guesses.shape[1]), guesses, labels)
    named = list(_named_orders(guesses, labels, classes))
    bar = max(SURE, NormalDist().inv_cdf(1 - BY_CHANCE / (len(named) + 1)))  # the more are tried, the higher
    found = claimed
    likeliest = max(named, key=lambda one: float(one.scores.mean()), default=None)
    for order in (likeliest, _assigned_order(guesses, labels)):
        if order is not None and paired(order.scores - found.scores) >= bar:
            found = order
    rivals = [paired(one.scores - claimed.scores) for one in named]
    margin = -max(rivals, default=0.0) if found is claimed else paired(found.scores - claimed.scores)
    then, now = (100 * float((logits.argmax(1) == one.outputs[labels]).double().mean()) for one in (claimed, found))
    verdict: Verdict = "faulty" if found is not claimed else "sound" if margin >= SURE else "cannot tell"
    because = {
        "faulty": f"{now:.0f} % of the answers are right in this order, {then:.0f} % in the claimed one",
        "sound": f"{then:.0f} % of the answers are right, fewer in any other order",
        "cannot tell": f"{then:.0f} % of the answers are right, about as many as in another order",
    }[verdict]
    finding = Finding(
        setting="class order", claimed=claimed.words, found=found.words, verdict=verdict, margin=margin, because=because
    )
    return finding, None if found is claimed else tuple(found.outputs.tolist())


def _scored(words: str, outputs: Tensor, guesses: Tensor, labels: Tensor) -> _Order:
    return _Order(words=words, outputs=outputs, scores=guesses[torch.arange(len(labels)), outputs[labels]])


def _named_orders(guesses: Tensor, labels: Tensor, classes: Sequence[str]) -> Iterator[_Order]:
    """Orders other than the claimed one that people have used."""
    straight = torch.arange(guesses.shape[1])
    named = {f"shifted by {places}": straight.roll(-places) for places in range(1, len(straight))}
    named["reversed"] = straight.flip(0)
    if len(classes) == len(straight):
        for words, key in (("sorted by name", str), ("sorted by name, whatever the case", str.casefold)):
            named[words] = torch.tensor(sorted(straight.tolist(), key=lambda place: key(classes[place]))).argsort()
    for words, outputs in named.items():
        if not torch.equal(outputs, straight):
            yield _scored(words, outputs, guesses, labels)


def _assigned_order(guesses: Tensor, labels: Tensor) -> _Order | None:
    """The best assignment of outputs to classes; each image is scored by the one that the other half chose."""
    counts = torch.bincount(labels, minlength=guesses.shape[1])
    if int(counts.min()) < 2:
        return None
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(len(counts)):
        second[(labels == label).nonzero().flatten()[1::2]] = True
    scores = torch.empty(len(labels), dtype=guesses.dtype)
    for half in (second, ~second):
        chosen = _assigned(guesses[~half], labels[~half])
        scores[half] = _scored("", chosen, guesses[half], labels[half]).scores
    return _Order(words="another order", outputs=_assigned(guesses, labels), scores=scores)


def _assigned(guesses: Tensor, labels: Tensor) -> Tensor:
    """The output for each class with which these images are answered best: (K,)."""
    from scipy.optimize import linear_sum_assignment

    table = torch.zeros(guesses.shape[1], guesses.shape[1], dtype=guesses.dtype).index_add(0, labels, guesses)
    return torch.from_numpy(linear_sum_assignment(table.numpy(), maximize=True)[1])


def log_probabilities(logits: Tensor) -> Tensor:
    """(N, K) logarithms of the probabilities, as of one who guesses blindly in FLOOR of all cases."""
    return ((1 - FLOOR) * logits.softmax(1) + FLOOR / logits.shape[1]).log()


def paired(difference: Tensor) -> float:
    """A mean difference over images, in its standard deviations over images."""
    spread = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / max(spread, 1e-12)
