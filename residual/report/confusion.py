"""What is taken for what: the counts as a coloured table, and its largest entries as a list."""

from collections.abc import Sequence
from dataclasses import dataclass

FULL_MATRIX = 30  # classes; above this the confusion matrix is told by its largest entries
NUMBERED_MATRIX = 12  # classes; up to this every cell carries its number


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One entry of the confusion matrix."""

    number: int
    share: float  # of the colour's full strength, 0 to 1
    right: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """rows: one for each of `truths`, a cell for each of `answers`."""

    truths: tuple[str, ...]
    answers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbered: bool


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Images or objects of `truth` that were taken for `predicted`."""

    truth: str
    predicted: str
    number: int
    share: float  # of all of `truth`


def matrix(
    counts: Sequence[Sequence[int]], names: tuple[str, ...], *, beyond: tuple[str, str] | None = None
) -> Matrix | None:
    """Counts with the strength of their colour: the right by their share, the wrong against the worst.

    beyond: what a last row and a last column stand for that are no class.  What such a row says of a class is told
    beside the class's own row, since it has no whole.
    None where there are no counts, or more classes than can be looked at.
    """
    if not counts or not 0 < len(names) <= FULL_MATRIX:
        return None
    truths, answers = (names, names) if beyond is None else ((*names, beyond[0]), (*names, beyond[1]))
    sums = [max(sum(row), 1) for row in counts]
    wholes = [
        [sums[j if i == len(names) and j < len(sums) else i] for j in range(len(answers))] for i in range(len(counts))
    ]
    shares = [
        [min(number / whole, 1.0) for number, whole in zip(row, line, strict=False)]
        for row, line in zip(counts[: len(truths)], wholes, strict=False)
    ]
    worst = max((s for i, row in enumerate(shares) for j, s in enumerate(row) if i != j), default=0.0) or 1.0
    rows = tuple(
        tuple(
            Cell(
                number=counts[i][j],
                share=round(share if i == j else (share / worst) ** 0.6, 3),
                right=i == j,
                title=f"{truths[i]} taken for {answers[j]}: {counts[i][j]:,} of {wholes[i][j]:,}",
            )
            for j, share in enumerate(row)
        )
        for i, row in enumerate(shares)
    )
    return Matrix(truths=truths, answers=answers, rows=rows, numbered=len(names) <= NUMBERED_MATRIX)


def confused(counts: Sequence[Sequence[int]], names: tuple[str, ...]) -> list[Pair]:
    """Every confusion of two classes that happened, the most frequent first."""
    pairs = [
        Pair(truth=names[i], predicted=names[j], number=number, share=number / sum(row))
        for i, row in enumerate(counts[: len(names)])
        for j, number in enumerate(row[: len(names)])
        if i != j and number
    ]
    return sorted(pairs, key=lambda pair: (-pair.number, -pair.share, pair.truth, pair.predicted))
