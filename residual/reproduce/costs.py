"""What a departure from the paper costs, read off the committed records of the experiment `departures`.

Its rows are recipe `paper` and the same with one thing changed, named as the ledger names it: "loss: cross-entropy, 0.1
of the target spread".  So any difference of a ledger whose two values both have a row there has a measured cost.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from residual.data.transforms import Preprocessing
from residual.recipes.paper import paper
from residual.reproduce.ledger import CIFAR, of_recipe, told
from residual.reproduce.verdict import difference_interval

RESULTS = Path(__file__).parents[2] / "results"
DEPARTURES, BASELINE = "departures", "recipe paper"
"""The experiment, and its row without a departure."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a departure changes: the mean test error with ours less that with the paper's, in points, with its 95 %
    interval.

    n: runs with ours, and with the paper's.  iterations, of: how long they were trained, and would be in full.
    """

    difference: float
    interval: tuple[float, float]
    n: tuple[int, int]
    iterations: int
    of: int

    def __str__(self) -> str:
        low, high = self.interval
        short = "" if self.iterations == self.of else f" of {self.of:,}, which says little of the full length"
        return (
            f"{self.difference:+.2f} points of test error, {low:+.2f} to {high:+.2f} (n = {self.n[0]} and {self.n[1]}, "
            f"ResNet-20 on CIFAR-10, {self.iterations:,} iterations{short})"
        )


class _Short(msgspec.Struct):
    iterations: int


class _Row(msgspec.Struct):
    """What is read of a record's row."""

    name: str
    ours: list[float]
    short: _Short | None
    lost: str = ""


def cost(difference: Mapping[str, str]) -> Cost | None:
    """What a difference costs by the committed record with the longest trainings; None: nobody has measured it."""
    known = [found for record in _departures() if (found := cost_in(record, difference)) is not None]
    return max(known, key=lambda found: (found.iterations, sum(found.n)), default=None)


def cost_in(record: Mapping[str, Any], difference: Mapping[str, str]) -> Cost | None:
    """The same by one record of the experiment `departures`."""
    baseline = of_recipe(paper(), Preprocessing(size=32, resize=None), images=CIFAR.training_images)
    what = difference["what"]
    prefix, values = f"{what}: ", {told(getattr(baseline, what.replace(" ", "_"), None)): BASELINE}
    rows = {row.name: row for row in _rows(record) if not row.lost}
    values |= {name.removeprefix(prefix): name for name in rows if name.startswith(prefix)}
    with_ours, with_theirs = rows.get(values.get(difference["ours"], "")), rows.get(values.get(difference["paper"], ""))
    if with_ours is None or with_theirs is None or with_ours.short != with_theirs.short:
        return None
    samples = with_ours.ours, with_theirs.ours
    interval = difference_interval(*samples)
    if interval is None:
        return None
    full = paper().length(CIFAR.training_images)
    return Cost(
        difference=fmean(samples[0]) - fmean(samples[1]),
        interval=interval,
        n=(len(samples[0]), len(samples[1])),
        iterations=full if with_ours.short is None else with_ours.short.iterations,
        of=full,
    )


def _rows(record: Mapping[str, Any]) -> list[_Row]:
    """Those that are what they should be."""
    found, rows = [], record.get("rows")
    for row in rows if isinstance(rows, list) else ():
        with suppress(ValueError):
            found.append(msgspec.convert(row, _Row))
    return found


def _departures() -> list[dict[str, Any]]:
    """The committed records of the experiment."""
    records = (read_record(path) for path in sorted(RESULTS.glob("**/*.json")))
    return [
        record
        for record in records
        if record and record["experiment"].get("name") == DEPARTURES and not record.get("quick")
    ]


def read_record(path: Path) -> dict[str, Any]:
    """A record as plain data; an empty one where it is not a record."""
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("experiment"), dict) else {}
