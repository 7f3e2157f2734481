import re
from itertools import pairwise

import pytest

from residual.report import charts
from residual.report.charts import Curve


def line(*values: float, label: str = "test") -> Curve:
    return Curve(label=label, steps=tuple(100.0 * i for i in range(1, len(values) + 1)), values=values)


def test_the_error_axis_cuts_the_start_and_never_the_end():
    assert charts.ceiling([line(90, 40, 12, 9, 8, 8)]) == 20
    assert charts.ceiling([line(90, 88, 86)]) == 100
    assert charts.ceiling([]) == 2


def test_a_long_curve_keeps_its_mean():
    values = [float(number % 7) for number in range(4000)]
    steps, means = charts.averaged(range(1, 4001), values)
    assert len(means) == charts.POINTS
    assert steps[-1] == 4000
    assert sum(means) / len(means) == pytest.approx(sum(values) / 4000)


def test_a_short_curve_is_left_as_it_is():
    assert charts.averaged([1, 2], [3.0, 4.0]) == ((1, 2), (3.0, 4.0))
    assert charts.averaged([], []) == ((), ())


def test_every_colour_of_a_chart_is_one_of_the_page():
    drawn = charts.training([line(20, 9)], [line(2, 1)], [line(0.1, 0.01)])
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", drawn))
    assert colours - {"none"} <= set(charts.VARIABLES.values())


def test_text_stays_text_and_is_escaped():
    drawn = charts.training([line(20, 9, label="<b>$a$ & 猫")], [], [])
    assert "&lt;b&gt;$a$ &amp; 猫" in drawn
    assert "<b>" not in drawn


@pytest.mark.parametrize("gap", [0.05, 0.085, 0.1, 0.12, 0.5])
def test_places_are_moved_apart_no_further_than_they_must(gap: float):
    wished = [0.003, 0.012, 0.11, 0.16, 0.22, 0.52]
    places = charts.moved_apart(wished, gap=gap, low=0.0)
    assert places[0] >= 0
    assert all(above - below > gap - 1e-12 for below, above in pairwise(places))
    assert charts.moved_apart(wished, gap=0.001, low=0.0) == wished
    assert charts.moved_apart([0.3, 0.3], gap=gap, low=0.0) == pytest.approx([0.3 - gap / 2, 0.3 + gap / 2])


def test_labels_at_the_ends_do_not_touch():
    drawn = charts.training([line(20, 9.0, label="one"), line(20, 9.01, label="two")], [], [])
    one, two = (re.search(rf'<text[^>]*? y="([\d.]+)"[^>]*>{name}', drawn) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert abs(float(one[1]) - float(two[1])) >= 12  # pixels, the size of the letters


def test_one_measurement_is_a_dot():
    assert "<svg" in charts.training([line(50.0)], [], [])
