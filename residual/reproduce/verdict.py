"""Does our number agree with the paper's?  Does our data bear the paper's claim out?  The rules, and nothing else.

A row is tested with two full-length runs or more.  The spread s of a run about its mean is pooled over the rows of an
experiment that have the same unit (sums of squares over sums of degrees of freedom), so that three seeds a row
suffice.  The paper's number is itself one run, or one statistic of n' runs, so it is met by a prediction interval:

    single, mean      ours +- t s sqrt(1/n + 1/n')                  (n' = 1 for a single run)
    median, best      ours + m s +- t s sqrt(1/n + v + m^2 / 2d)    m, v: mean and variance of that order statistic of
                                                                    n' standard normal draws; d: degrees of freedom
    above, below      the paper prints no number, only a bound: that of a single run must lie beyond it
    exact             equal to the printed digits

agrees                        the paper's number lies inside, and the half-width is at most the row's resolution
differs                       it lies outside
not tested at this budget     the half-width is larger, or there are fewer than two runs

A claim "a < b < c" is tested by Welch's one-sided test of each neighbouring pair at 5 %.  All must hold, so the
p-value of the chain is the largest (intersection-union test).  It differs if a pair is reversed at 5 %.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import pairwise
from statistics import fmean
from typing import Literal

import numpy as np
from scipy import stats

from residual.reproduce.experiment import Printed

LEVEL = 0.05
Outcome = Literal["agrees", "differs", "not tested at this budget", "cited", "measured"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of a run about the mean of its row, and the degrees of freedom it is known with."""

    std: float
    degrees: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a test, and in a sentence why.  p: of a claim, the largest of its tests."""

    outcome: Outcome
    reason: str
    p: float | None = None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def pooled(samples: Iterable[Sequence[float]]) -> Spread | None:
    """The common spread of samples with different means; None where no sample has two values."""
    squares, degrees = 0.0, 0
    for sample in samples:
        if len(sample) >= 2:
            squares += float(np.var(sample)) * len(sample)
            degrees += len(sample) - 1
    return Spread(std=math.sqrt(squares / degrees), degrees=degrees) if degrees else None


def judge_number(
    values: Sequence[float], paper: Printed, *, spread: Spread | None, resolution: float, unit: str
) -> Verdict:
    """A row: ours over the seeds, beside the paper's number.  spread: pooled over the rows of the same unit."""
    if paper.kind == "exact":
        return _exact(values, paper, unit)
    if len(values) < 2 or spread is None:
        runs = "no run" if not values else "one run"
        return Verdict(outcome="not tested at this budget", reason=f"{runs} of full length; a test needs two or more")
    shift, half = _prediction(len(values), paper, spread)
    centre = fmean(values) + shift
    if paper.kind in ("above", "below"):
        return _bound(centre, half, paper)
    unit_of = f" {unit}" if unit else ""
    about = (
        f"{centre:.2f} ± {half:.2f}{unit_of} is where {_what(paper)} would lie (n = {len(values)}, spread "
        f"{spread.std:.2f} with {spread.degrees} degrees of freedom), the paper's is {paper.value:g}"
    )
    off = paper.value - centre
    if abs(off) > half:
        side = "lower" if off > 0 else "higher"
        meaning = "" if "error" not in unit else ", better" if off > 0 else ", worse"
        return Verdict(outcome="differs", reason=f"ours is {abs(off):.2f}{unit_of} {side}{meaning}: {about}")
    if half > resolution:
        more = _more_seeds(len(values), paper, spread, resolution)
        return Verdict(
            outcome="not tested at this budget",
            reason=f"{about}; this is wider than ± {resolution:g}, and {more}",
        )
    return Verdict(outcome="agrees", reason=about)


def judge_claim(
    samples: Sequence[Sequence[float]], names: Sequence[str], *, margin: float = 0.0, exact: bool = False
) -> Verdict:
    """A chain of rows whose means should rise.  exact: they are computed, and one number each is all there is."""
    if exact:
        return _exact_chain(samples, names, margin)
    few = [f"{name} has {len(sample)}" for name, sample in zip(names, samples, strict=True) if len(sample) < 2]
    if few:
        return Verdict(
            outcome="not tested at this budget", reason=f"a test needs two runs of each or more; {', '.join(few)}"
        )
    told, rising, falling = [], [], []
    for (low, a), (high, b) in pairwise(zip(names, samples, strict=True)):
        raised = [value + margin for value in b]
        rising.append(welch(a, raised))
        falling.append(welch(raised, a))
        than = f"{high} + {margin:g}" if margin else high
        told.append(
            f"{low} {fmean(a):.2f} below {than} {fmean(raised):.2f}: p = {rising[-1]:.2g}"
            + (f" (above: p = {falling[-1]:.2g})" if falling[-1] < LEVEL else "")
        )
    p = max(rising)
    outcome: Outcome = "not tested at this budget"
    if min(falling) < LEVEL:
        outcome = "differs"
    elif p < LEVEL:
        outcome = "agrees"
    return Verdict(outcome=outcome, reason="; ".join(told), p=p)


def welch(low: Sequence[float], high: Sequence[float]) -> float:
    """p-value of Welch's one-sided test that the mean of `low` is below that of `high`."""
    difference = fmean(low) - fmean(high)
    a, b = (float(np.var(values, ddof=1)) / len(values) for values in (low, high))
    if a + b == 0:  # no spread: the difference is certain, or there is none
        return 0.5 if difference == 0 else float(difference > 0)
    degrees = (a + b) ** 2 / (a**2 / (len(low) - 1) + b**2 / (len(high) - 1))
    return float(stats.t.cdf(difference / math.sqrt(a + b), degrees))


def half_width(n: int, degrees: int) -> float:
    """Of the prediction interval of one more run beside n runs, in units of the spread."""
    return _t(degrees) * math.sqrt(1 / n + 1)


def _bound(centre: float, half: float, paper: Printed) -> Verdict:
    beyond = centre - paper.value if paper.kind == "above" else paper.value - centre
    reason = f"a single run would lie within {centre:.2f} ± {half:.2f}, the paper says {paper.kind} {paper.value:g}"
    if abs(beyond) <= half:
        return Verdict(outcome="not tested at this budget", reason=reason)
    return Verdict(outcome="agrees" if beyond > 0 else "differs", reason=reason)


def _prediction(n: int, paper: Printed, spread: Spread) -> tuple[float, float]:
    """How far the paper's statistic lies from the mean of runs, and the half-width of its interval."""
    match paper.kind:
        case "median":
            shift, variance = order_statistic((paper.n + 1) / 2, paper.n)
        case "best":
            shift, variance = order_statistic(1, paper.n)
        case _:
            shift, variance = 0.0, 1 / paper.n
    variance += 1 / n + shift**2 / (2 * spread.degrees)
    return shift * spread.std, _t(spread.degrees) * spread.std * math.sqrt(variance)


@cache
def order_statistic(k: float, n: int) -> tuple[float, float]:
    """Mean and variance of the k-th smallest of n standard normal draws; k = 2.5: of an even number, the middle."""
    # The k-th of n uniform draws follows Beta(k, n + 1 - k), also a good rule between two whole k.
    quantiles = stats.norm.ppf(stats.beta.ppf((np.arange(20_000) + 0.5) / 20_000, k, n + 1 - k))
    return float(quantiles.mean()), float(quantiles.var())


def _more_seeds(n: int, paper: Printed, spread: Spread, resolution: float) -> str:
    for more in range(1, 200):
        grown = Spread(std=spread.std, degrees=spread.degrees + more)
        if _prediction(n + more, paper, grown)[1] <= resolution:
            return f"{more} more seed{'s' if more > 1 else ''} would do"
    return f"no number of seeds would do, since {_what(paper)} is itself uncertain by the spread"


def _what(paper: Printed) -> str:
    match paper.kind:
        case "single":
            return "a single run"
        case "best":
            return f"the best of {paper.n} runs"
    return f"the {paper.kind} of {paper.n} runs" if paper.n > 1 else "a single run"


def _t(degrees: int) -> float:
    return float(stats.t.ppf(1 - LEVEL / 2, degrees))


def _exact(values: Sequence[float], paper: Printed, unit: str) -> Verdict:
    if not values:
        return Verdict(outcome="not tested at this budget", reason="nothing was computed")
    value, digits = values[0], _last_digit(paper.value)
    ours = Decimal(repr(value)).quantize(digits, ROUND_HALF_UP)
    unit_of = f" {unit}" if unit else ""
    if ours == Decimal(repr(paper.value)):
        return Verdict(outcome="agrees", reason=f"{value:g}{unit_of} is {paper.value:g} to the printed digits")
    reason = f"{value:.10g}{unit_of} is {float(ours):g} to the printed digits, and the paper has {paper.value:g}"
    return Verdict(outcome="differs", reason=reason)


def _last_digit(value: float) -> Decimal:
    """10 to the place of the last printed digit: 0.01 of 8.75, 1 of the integer 110, 1e8 of 3.8e9."""
    if isinstance(value, int):
        return Decimal(1)
    printed = Decimal(repr(value))
    if abs(value) >= 1e6:
        printed = printed.normalize()
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int)
    return Decimal(1).scaleb(exponent)


def _exact_chain(samples: Sequence[Sequence[float]], names: Sequence[str], margin: float) -> Verdict:
    if any(not sample for sample in samples):
        return Verdict(outcome="not tested at this budget", reason="a number of it was not computed")
    numbers = [sample[0] for sample in samples]
    holds = all(low < high + margin for low, high in pairwise(numbers))
    told = ", ".join(f"{name} {number:.6g}" for name, number in zip(names, numbers, strict=True))
    return Verdict(outcome="agrees" if holds else "differs", reason=f"computed: {told}")
