"""Does our number agree with the paper's?  Does our data bear the paper's claim out?  The rules, and nothing else.

A row is tested with two full-length runs or more.  The spread s is that of a run about the mean of its row.  It is
pooled (sums of squares over sums of degrees of freedom), so that three seeds a row suffice, over the rows of an
experiment that have the same unit and a number of the paper, lost no run, and are about equally noisy: Bartlett's test
at 25 % does not refuse it.  Any other row has its own spread.  The paper's number is itself one run, or one statistic
of n' runs, so it is met by a prediction interval of 95 %:

    single, mean      ours +- t s sqrt(1/n + 1/n')                  (n' = 1 for a single run)
    median, best      ours + m s +- t s sqrt(1/n + v + m^2 / 2d)    m, v: mean and variance of that order statistic of
                                                                    n' standard normal draws; d: degrees of freedom
    above, below      the paper prints no number, only a bound: the interval of the median of n' runs, of its own
                      spread, must lie beyond it
    exact             equal to the printed digits

agrees                        the paper's number lies inside, and the half-width is at most the row's resolution
differs                       it lies outside
not tested at this budget     the half-width is larger, there are fewer than two runs, or one was lost: it diverged or
                              failed, and a row is not judged by its survivors

That choice of a spread has its price.  With three seeds in each of six rows, the intervals hold 93 of 100 papers where
all rows are alike, and of one row that is noisier than the others 82 in the worst case (two and a half times as noisy);
a spread that is always pooled would hold 95 and 72, and ever fewer the noisier that row is.

A claim "a < b < c" is tested by Welch's one-sided test of each neighbouring pair at 5 %.  All must hold, so the
p-value of the chain is the largest (intersection-union test).  It differs if a pair is reversed; as any of k pairs
could be, each is tested at 5 % / k.

Runs that are all equal have no spread that a test could reckon with; how many they are still counts.  A row beside a
number is then not tested.  A bound holds if all lie beyond it and that would happen to fewer than 5 % of medians on
the bound, which takes five runs.  A pair of a claim is tested by permuting its runs, which takes four of each.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from itertools import combinations, pairwise
from statistics import fmean
from typing import Literal

import numpy as np
from scipy import stats

from residual.reproduce.experiment import Printed

LEVEL = 0.05
REFUSED = 0.25  # p-value of equal spreads below which they are not pooled
Outcome = Literal["agrees", "differs", "not tested at this budget", "cited", "measured"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Standard deviation of a run about the mean of its row, the degrees of freedom it is known with, and from how many
    rows.
    """

    std: float
    degrees: int
    rows: int = 1


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a test, and in a sentence why.  p: of a claim, the largest of its tests."""

    outcome: Outcome
    reason: str
    p: float | None = None


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % t interval of the mean; None for fewer than two values, or equal ones, of which it cannot be told."""
    if len(values) < 2 or not _variance(values):
        return None
    half = _t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def difference_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float] | None:
    """Welch's 95 % interval of the mean of `values` less that of `others`; None where it cannot be told."""
    if min(len(values), len(others)) < 2 or not (_variance(values) and _variance(others)):
        return None
    squared, degrees = _welch(values, others)
    difference, half = fmean(values) - fmean(others), _t(degrees) * math.sqrt(squared)
    return difference - half, difference + half


def pooled(samples: Iterable[Sequence[float]]) -> Spread | None:
    """The common spread of samples with different means; None where no sample has two values."""
    known = [sample for sample in samples if len(sample) >= 2]
    if not known:
        return None
    degrees = sum(len(sample) - 1 for sample in known)
    squares = sum(_variance(sample) * (len(sample) - 1) for sample in known)
    return Spread(std=math.sqrt(squares / degrees), degrees=degrees, rows=len(known))


def spreads(samples: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Of rows by name that could have one spread: the common one, or each its own where they are not alike."""
    known = {name: sample for name, sample in samples.items() if len(sample) >= 2}
    together = pooled(known.values()) if are_alike(list(known.values())) else None
    found = {name: together or pooled([sample]) for name, sample in known.items()}
    return {name: spread for name, spread in found.items() if spread is not None}


def are_alike(samples: Sequence[Sequence[float]]) -> bool:
    """Whether Bartlett's test leaves it open that samples of two values or more have one spread."""
    if len(samples) < 2:
        return True
    if not all(_variance(sample) for sample in samples):
        return False
    return float(stats.bartlett(*samples).pvalue) >= REFUSED


def judge_number(
    values: Sequence[float], paper: Printed, *, spread: Spread | None, resolution: float, unit: str
) -> Verdict:
    """A row: ours over the seeds, beside the paper's number.  spread: its own, or that of rows like it."""
    if paper.kind == "exact":
        return _exact(values, paper, unit)
    if len(values) < 2 or spread is None:
        runs = "no run" if not values else "one run"
        return Verdict(outcome="not tested at this budget", reason=f"{runs} of full length; a test needs two or more")
    if paper.kind in ("above", "below"):
        return _bound(values, paper, spread)
    if not spread.std:
        return Verdict(
            outcome="not tested at this budget",
            reason=f"all {len(values)} runs give {values[0]:.2f}: how far another would lie from them is not known",
        )
    shift, half = _prediction(len(values), paper, spread)
    centre = fmean(values) + shift
    unit_of = f" {unit}" if unit else ""
    over = f" over {spread.rows} rows" if spread.rows > 1 else ""
    about = (
        f"{centre:.2f} ± {half:.2f}{unit_of} is where {_what(paper)} would lie (n = {len(values)}, spread "
        f"{spread.std:.2f} with {spread.degrees} degrees of freedom{over}), the paper's is {paper.value:g}"
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
    reversed_at = LEVEL / max(1, len(samples) - 1)  # any of the pairs could be, by chance
    for (low, a), (high, b) in pairwise(zip(names, samples, strict=True)):
        raised = [value + margin for value in b]
        rising.append(is_below(a, raised))
        falling.append(is_below(raised, a))
        than = f"{high} + {margin:g}" if margin else high
        equal = "" if _variance(a) and _variance(b) else ", by permutation: runs without a spread"
        told.append(
            f"{low} {fmean(a):.2f} below {than} {fmean(raised):.2f}: p = {rising[-1]:.2g}"
            + (f" (above: p = {falling[-1]:.2g})" if falling[-1] < reversed_at else "")
            + equal
        )
    p = max(rising)
    outcome: Outcome = "not tested at this budget"
    if min(falling) < reversed_at:
        outcome = "differs"
    elif p < LEVEL:
        outcome = "agrees"
    return Verdict(outcome=outcome, reason="; ".join(told), p=p)


def welch(low: Sequence[float], high: Sequence[float]) -> float:
    """p-value of Welch's one-sided test that the mean of `low` is below that of `high`; one of them has a spread."""
    squared, degrees = _welch(low, high)
    return float(stats.t.cdf((fmean(low) - fmean(high)) / math.sqrt(squared), degrees))


def _welch(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Variance of the difference of two means, and the degrees of freedom it is known with."""
    a, b = (_variance(values) / len(values) for values in (one, other))
    return a + b, (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))


def permutation(low: Sequence[float], high: Sequence[float]) -> float:
    """p-value of the same by permutation: the share of all ways to deal out the runs with as low a mean of `low`."""
    runs = [*low, *high]
    sums = [math.fsum(chosen) for chosen in combinations(runs, len(low))]
    most = math.fsum(low) + 1e-9 * max(1.0, *map(abs, runs))  # equal sums, whatever their rounding
    return sum(each <= most for each in sums) / len(sums)


def is_below(low: Sequence[float], high: Sequence[float]) -> float:
    """p-value that the mean of `low` is below that of `high`: Welch's, or of a sample without spread by permutation."""
    return welch(low, high) if _variance(low) and _variance(high) else permutation(low, high)


def half_width(n: int, degrees: int) -> float:
    """Of the prediction interval of one more run beside n runs, in units of the spread."""
    return _t(degrees) * math.sqrt(1 / n + 1)


def _bound(values: Sequence[float], paper: Printed, spread: Spread) -> Verdict:
    _, half = _prediction(len(values), paper, spread)
    centre = fmean(values)
    beyond = centre - paper.value if paper.kind == "above" else paper.value - centre
    says = f"the paper says {paper.kind} {paper.value:g}"
    if spread.std:
        reason = f"{_what(paper)} would lie within {centre:.2f} ± {half:.2f}, {says}"
        is_told = abs(beyond) > half
    else:
        p = 0.5 ** len(values)  # of so many draws on one side of their median
        reason = (
            f"all {len(values)} runs give {values[0]:.2f}, {says}; without a spread only their count tells: p = {p:.2g}"
        )
        is_told = p < LEVEL and beyond != 0
    if not is_told:
        return Verdict(outcome="not tested at this budget", reason=reason)
    return Verdict(outcome="agrees" if beyond > 0 else "differs", reason=reason)


def _variance(values: Sequence[float]) -> float:
    """Of the runs that the values are a sample of; exactly 0 where all are equal, whatever their mean is rounded to."""
    return float(np.var(values, ddof=1)) if max(values) > min(values) else 0.0


def _prediction(n: int, paper: Printed, spread: Spread) -> tuple[float, float]:
    """How far the paper's statistic lies from the mean of runs, and the half-width of its interval."""
    match paper.kind:
        case "median" | "above" | "below":
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
    what = "mean" if paper.kind == "mean" else "median"
    return f"the {what} of {paper.n} runs" if paper.n > 1 else "a single run"


def _t(degrees: float) -> float:
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
