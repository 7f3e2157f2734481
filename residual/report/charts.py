"""Charts as SVG that stands inside the page and takes the page's colours, light or dark.

matplotlib draws with placeholder colours; each is then replaced by a variable of templates/style.css.
Text stays text.
"""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = SERIES = "#050505", "#060606", "#070707", "#080808", "#090909", "#0a0a0a"
VARIABLES = {
    INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", PAPER: "var(--paper)",
    FIRST: "var(--first)", SECOND: "var(--second)", THIRD: "var(--third)",
    FOURTH: "var(--fourth)", FIFTH: "var(--fifth)", SIXTH: "var(--sixth)",
}  # fmt: skip
CEILINGS = (2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0)  # where an error axis may end, percent
POINTS = 400  # a curve with more is averaged over equal stretches
Width = Literal["wide", "narrow"]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; `low` and `high`, where given, are the band around it."""

    label: str
    steps: tuple[float, ...]
    values: tuple[float, ...]
    color: str = FIRST
    dashed: bool = False
    low: tuple[float, ...] = field(default=())
    high: tuple[float, ...] = field(default=())


def training(
    errors: Sequence[Curve],
    losses: Sequence[Curve],
    rates: Sequence[Curve],
    width: Width = "wide",
    *,
    title: str = "error, %",
) -> "Markup":
    """Error in percent above, then the loss, then the learning rate, over the same iterations.

    title: what `errors` are, where they are none.  Of several losses the first iterations may be cut off.
    """
    parts = [(errors, 300, title), (losses, 140 if len(losses) < 2 else 240, "loss"), (rates, 90, "learning rate")]
    parts = [part for part in parts if part[0]]
    height = sum(part[1] for part in parts) + 40 * len(parts) + 20
    with _figure(830 if width == "wide" else 360, height) as figure:
        panels = figure.subplots(
            len(parts), 1, sharex=True, squeeze=False, height_ratios=[height for _, height, _ in parts]
        )[:, 0]
        end = max(curve.steps[-1] for curves, _, _ in parts for curve in curves)
        for axes, (curves, _, what) in zip(panels, parts, strict=True):
            if curves is rates:
                few = len(set(rates[0].values)) <= 8  # a few drops by ten, not a slope
                _draw(axes, curves, stepped=few)
                if few:
                    axes.set_yscale("log")
                    axes.minorticks_off()
                    axes.yaxis.set_major_formatter("{x:g}")
                else:
                    axes.set_ylim(bottom=0)
            else:
                _draw(axes, curves)
                if curves is errors:
                    axes.set_ylim(0, ceiling(curves))
                else:
                    axes.set_ylim(0, 1.6 * _late(curves) or None if len(curves) > 1 else None)
            _style(axes, what)
            if len(curves) > 1 or curves is errors:
                _label_ends(axes, curves)
        _count(panels[-1], end, "iterations")
        meaning = f"{title.removesuffix(', %').capitalize()}, loss and learning rate over the iterations"
        return _svg(figure, f"training-{width}", meaning)


def degradation(curves: Sequence[Curve], *, top: float, name: str) -> "Markup":
    """One panel of figure 6: training error of a shallow and a deep network, up to `top` percent."""
    with _figure(400, 330) as figure:
        figure.set_layout_engine("none")  # the same margins in every panel, so that they can be compared
        axes = figure.add_axes((0.07, 0.15, 0.64, 0.75))
        _draw(axes, curves)
        axes.set_ylim(0, top)
        _style(axes, "training error, %")
        _label_ends(axes, curves)
        _count(axes, max(curve.steps[-1] for curve in curves), "passes over the images")
        return _svg(figure, f"degradation-{name}", f"Training error of {name} networks over the passes")


def panel(curves: Sequence[Curve], *, top: float | None, x: str, y: str, name: str) -> "Markup":
    """One part of a figure of the paper.  top: where the axis ends; None: where the curves do.

    Solid curves are named at their end; a dashed one belongs to the solid one of its colour.
    """
    with _figure(400, 330) as figure:
        figure.set_layout_engine("none")  # the same margins in every panel, so that they can be compared
        axes = figure.add_axes((0.07, 0.15, 0.62, 0.75))
        _draw(axes, curves)
        axes.set_ylim(0, top)
        _style(axes, y)
        _label_ends(axes, [curve for curve in curves if not curve.dashed])
        _count(axes, max(curve.steps[-1] for curve in curves), x)
        return _svg(figure, name, f"{y} over {x}")


def reliability(confidence: Sequence[float], accuracy: Sequence[float], counts: Sequence[int]) -> "Markup":
    """Accuracy against confidence, all as fractions; below, how many images fell in each bin."""
    with _figure(440, 480) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, dashes=(4, 3))
        size = [20 + 130 * number / max(max(counts), 1) for number in counts]
        upper.plot(confidence, accuracy, color=FIRST, linewidth=1.3)
        upper.scatter(confidence, accuracy, s=size, color=FIRST, edgecolors=PAPER, linewidths=1.2, zorder=3)
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1.02)
        upper.text(0.04, 0.13, "as sure as right", color=MUTED, rotation=45, transform_rotates_text=True)
        _style(upper, "share that is right")
        upper.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        total = max(sum(counts), 1)
        width = 0.6 / max(len(counts), 12)
        lower.bar(confidence, [number / total for number in counts], width=width, color=FIRST, alpha=0.75)
        _style(lower, "share of images")
        lower.xaxis.set_major_formatter("{x:g}")
        lower.set_xlabel("probability given to the answer", color=MUTED)
        return _svg(figure, "reliability", "How often the network is right, against how sure it is")


def ceiling(curves: Sequence[Curve]) -> float:
    """Where an error axis ends: the later half of every curve has room, the start may be cut."""
    need = 1.25 * _late(curves)
    return next((top for top in CEILINGS if top >= need), 100.0)


def precision_recall(curves: Sequence[Curve]) -> "Markup":
    """Precision over recall, both from 0 to 1; the page names the curves by their colours."""
    with _figure(440, 360) as figure:
        axes = figure.subplots()
        _draw(axes, curves)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _style(axes, "precision")
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("recall", color=MUTED)
        return _svg(figure, "precision-recall", "Precision over recall")


def averaged(
    steps: Sequence[float], values: Sequence[float], points: int = POINTS
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most so many points, each the mean of an equal stretch, placed at its end."""
    size = -(-len(values) // points) if values else 1
    starts = range(0, len(values), size)
    stretches = [values[start : start + size] for start in starts]
    ends = [steps[min(start + size, len(steps)) - 1] for start in starts]
    return tuple(ends), tuple(sum(stretch) / len(stretch) for stretch in stretches)


def _late(curves: Sequence[Curve]) -> float:
    """The highest value in the later half of any curve."""
    return max((max(curve.values[len(curve.values) // 2 :], default=0.0) for curve in curves), default=0.0)


@contextmanager
def _figure(width: int, height: int) -> "Iterator[Figure]":
    """A figure measured in pixels of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": "residual", "font.family": "sans-serif", "font.size": 12,
        "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": RULE,
        "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
        "text.color": INK, "axes.labelcolor": MUTED, "lines.solid_capstyle": "round",
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield Figure(figsize=(width / 72, height / 72), layout="constrained")


def _draw(axes: "Axes", curves: Sequence[Curve], *, stepped: bool = False) -> None:
    for curve in curves:
        axes.plot(
            curve.steps,
            curve.values,
            color=curve.color,
            linewidth=1.2 if curve.dashed else 1.5 if len(curve.values) > POINTS // 2 else 2.2,
            linestyle=(0, (4, 2)) if curve.dashed else "solid",
            drawstyle="steps-post" if stepped else "default",
            marker="o" if len(curve.values) == 1 else "",
        )
        if curve.low:
            axes.fill_between(curve.steps, curve.low, curve.high, color=curve.color, alpha=0.16, linewidth=0)


def _style(axes: "Axes", title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.patch.set_visible(False)
    axes.grid(axis="y", color=RULE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=3, width=0.7)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6 if "%" in title else 3, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title, loc="left", fontsize=12, color=MUTED, pad=9)


def moved_apart(places: Sequence[float], *, gap: float, low: float) -> list[float]:
    """Rising places, at least `gap` from each other and `low` from below; those that touch stand around their mean."""
    groups: list[tuple[float, list[float]]] = []  # the lowest place of each, and the places that its members wish
    for place in places:
        start, wished = max(place, low), [place]
        while groups and start - (groups[-1][0] + gap * (len(groups[-1][1]) - 1)) < gap:
            wished = groups.pop()[1] + wished
            start = max(sum(wished) / len(wished) - gap * (len(wished) - 1) / 2, low)
        groups.append((start, wished))
    return [start + gap * number for start, wished in groups for number in range(len(wished))]


def _label_ends(axes: "Axes", curves: Sequence[Curve]) -> None:
    """Write each curve's name and last value at its end, moved apart where they would touch."""
    low, high = axes.get_ylim()
    gap = (high - low) * 17 / (axes.bbox.height / axes.figure.dpi * 72)  # 17 pixels
    ends = sorted((curve for curve in curves if curve.values), key=lambda curve: curve.values[-1])
    places = moved_apart([min(curve.values[-1], high) for curve in ends], gap=gap, low=low)
    for curve, place in zip(ends, places, strict=True):
        axes.annotate(
            f"{curve.label}\u2002{curve.values[-1]:.2f}",
            xy=(1, place),
            xycoords=("axes fraction", "data"),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            color=curve.color,
            fontsize=12,
            annotation_clip=False,
        )


def _count(axes: "Axes", end: float, what: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    whole = end >= 6  # an axis in tens of thousands of iterations may end at 0.06
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6 if whole else 4, integer=whole))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if whole else f"{value:g}"))
    axes.set_xlabel(what, color=MUTED)
    axes.set_xlim(0, end)


def _svg(figure: "Figure", name: str, meaning: str) -> "Markup":
    """The figure as one <svg> element without size, metadata or names that another chart could share."""
    from markupsafe import Markup, escape

    file = io.StringIO()
    with warnings.catch_warnings():
        # only its widths are used here; the reader's browser has the letters
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(meaning)}">'
    text = opening + text[text.index(">") + 1 :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for color, variable in VARIABLES.items():
        text = text.replace(color, variable)
    return Markup(text)
