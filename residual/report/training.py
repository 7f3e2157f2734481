"""The curves of a training: what was measured on other images above, then the loss, then the learning rate."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from residual.report import charts
from residual.report.charts import Curve
from residual.report.evidence import SPLITS, Look, series

if TYPE_CHECKING:
    from markupsafe import Markup

PARTS = 240  # points of each curve where many lie over each other
Metrics = list[dict[str, Any]]


def drawn(
    measured: Sequence[Curve], losses: Sequence[Curve], rates: Sequence[Curve], *, title: str = "error, %"
) -> "dict[str, Markup] | None":
    """The chart in two widths, or None before the first measurement.  title: of what was measured."""
    if not (measured or losses):
        return None
    return {
        "wide": charts.training(measured, losses, rates, "wide", title=title),
        "narrow": charts.training(measured, losses, rates, "narrow", title=title),
    }


def looked(looks: Sequence[Look]) -> list[Curve]:
    """One curve for each set of images that was looked at."""
    found = []
    for split, color in zip(SPLITS, (charts.SECOND, charts.FIRST), strict=True):
        if mine := [look for look in looks if look.split == split]:
            steps, values = tuple(float(look.step) for look in mine), tuple(look.value for look in mine)
            found.append(Curve(label=split, steps=steps, values=values, color=color))
    return found


def curve(
    metrics: Metrics, name: str, label: str, *, color: str, dashed: bool = False, points: int = charts.POINTS
) -> list[Curve]:
    """One quantity of the training lines, averaged to so many points; none where it was not recorded."""
    steps, values = series(metrics, name)
    if not values:
        return []
    steps, values = charts.averaged(steps, values, points)
    return [Curve(label=label, steps=steps, values=values, color=color, dashed=dashed)]


def parts(metrics: Metrics, named: Sequence[tuple[str, str, str]]) -> list[Curve]:
    """The loss and what it sums, smoother than one curve alone.  named: in metrics.jsonl, in the chart, the colour."""
    return [one for name, label, color in named for one in curve(metrics, name, label, color=color, points=PARTS)]


def rates(metrics: Metrics) -> list[Curve]:
    """The learning rate, where there was one."""
    steps, values = series(metrics, "rate")
    return [Curve(label="rate", steps=steps, values=values, color=charts.INK)] if any(v > 0 for v in values) else []
