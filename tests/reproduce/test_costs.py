"""What departures cost, read off records of the experiment `departures`."""

from dataclasses import replace
from statistics import fmean

import pytest
from scipy import stats

from residual.data.transforms import Preprocessing
from residual.experiments import departures
from residual.recipes.paper import paper
from residual.records import write_json
from residual.reproduce import costs
from residual.reproduce.costs import BASELINE, cost, cost_in, read_record
from residual.reproduce.ledger import CIFAR, IMAGENET, differences, of_recipe, told
from residual.reproduce.verdict import judge_claim

GROUP, LOSS = "images per statistic: 64", "loss: cross-entropy, 0.1 of the target spread"
NUMBERS = {BASELINE: [8.9, 9.1, 9.0], GROUP: [8.6, 8.8, 8.7, 8.7], LOSS: [9.0, 9.4, 9.2]}
SPREAD = {"what": "images per statistic", "paper": "64", "ours": "128"}


def a_record(numbers=NUMBERS, *, iterations=None, quick=False, lost=()):
    """record.json, as far as it is read here."""
    short = None if iterations is None else {"iterations": iterations, "of": 64_000}
    rows = [
        {"name": name, "ours": values, "short": short, "lost": "seed 2 was lost" if name in lost else ""}
        for name, values in numbers.items()
    ]
    return {"experiment": {"name": "departures"}, "quick": quick, "rows": rows}


def ours(**changes):
    """How recipe paper trains, with something changed."""
    return of_recipe(replace(paper(), **changes), Preprocessing(size=32), images=50_000)


def test_a_cost_is_ours_less_the_papers_with_welchs_interval():
    found = cost_in(a_record(), SPREAD)
    assert found.difference == pytest.approx(fmean(NUMBERS[BASELINE]) - fmean(NUMBERS[GROUP]))
    theirs = stats.ttest_ind(NUMBERS[BASELINE], NUMBERS[GROUP], equal_var=False).confidence_interval(0.95)
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    assert found.n == (3, 4)
    assert "+0.30 points of test error" in str(found)


def test_the_other_way_round_the_sign_turns():
    turned = cost_in(a_record(), SPREAD | {"paper": "128", "ours": "64"})
    assert turned.difference == pytest.approx(-cost_in(a_record(), SPREAD).difference)


def test_two_departures_in_one_field_are_compared_with_each_other():
    numbers = NUMBERS | {"images per statistic: 32": [8.4, 8.5, 8.6]}
    found = cost_in(a_record(numbers), SPREAD | {"paper": "32", "ours": "64"})
    assert found.difference == pytest.approx(0.2)


def test_a_shortened_training_says_how_long_it_was_and_is_no_full_one():
    whole, short = (str(cost_in(a_record(iterations=length), SPREAD)) for length in (None, 2_000))
    assert "64,000 iterations)" in whole
    assert "2,000 iterations of 64,000, which says little of the full length" in short


@pytest.mark.parametrize(
    "record",
    [
        a_record({BASELINE: [9.0, 9.1]}),
        a_record(lost=[GROUP]),
        a_record(lost=[BASELINE]),
        a_record(NUMBERS | {GROUP: [8.7]}),
        a_record(NUMBERS | {GROUP: [8.7, 8.7]}),
    ],
    ids=["no such row", "a lost run", "a lost run of the baseline", "one run", "no spread"],
)
def test_what_is_not_measured_has_no_cost(record):
    assert cost_in(record, SPREAD) is None


def test_what_nobody_changed_has_no_cost():
    assert cost_in(a_record(), {"what": "devices", "paper": "2", "ours": "1"}) is None
    assert cost_in(a_record(), {"what": "anchors", "paper": "not said", "ours": "16, 28, 44"}) is None


def test_the_longest_record_is_quoted_and_no_quick_one(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "RESULTS", tmp_path)
    assert cost(SPREAD) is None
    write_json(tmp_path / "quick.json", a_record(quick=True))
    assert cost(SPREAD) is None
    write_json(tmp_path / "long.json", a_record(iterations=9_000))
    write_json(
        tmp_path / "short.json", a_record({name: values * 2 for name, values in NUMBERS.items()}, iterations=600)
    )
    (tmp_path / "other").mkdir()
    write_json(tmp_path / "other" / "table6.json", a_record() | {"experiment": {"name": "table6"}})
    assert cost(SPREAD).iterations == 9_000
    write_json(tmp_path / "other" / "full.json", a_record())
    assert cost(SPREAD).iterations == 64_000


@pytest.mark.parametrize("name", [name for name in departures.CHANGES if name != BASELINE])
def test_a_row_is_named_as_the_ledger_names_its_one_change(name):
    (found,) = differences(ours(), ours(**departures.CHANGES[name]))
    assert f"{found['what']}: {found['ours']}" == name


def test_differences_of_the_papers_find_their_cost():
    measured = a_record({name: [9.0, 9.1 + 0.1 * place, 9.2] for place, name in enumerate(departures.CHANGES)})
    known = [each["what"] for each in differences(CIFAR, ours()) if cost_in(measured, each)]
    assert known == ["images per statistic"]
    scaled = replace(IMAGENET, normalisation=ours(mean="channel", std=True).normalisation)
    known = [each["what"] for each in differences(IMAGENET, scaled) if cost_in(measured, each)]
    assert known == ["normalisation"]


def test_every_committed_cost_can_be_told():
    if not costs._departures():
        pytest.skip("no record of the experiment `departures` is committed")
    for name in departures.CHANGES.keys() - {BASELINE}:
        what, _, value = name.partition(": ")
        found = cost({"what": what, "paper": value, "ours": told(getattr(ours(), what.replace(" ", "_"), None))})
        assert found is not None, name
        assert min(found.n) >= 2
        assert str(found.iterations) in str(found).replace(",", "")


@pytest.mark.parametrize(
    "rows",
    [None, 3, [3], [{}], [{"name": BASELINE}], [{"name": GROUP, "ours": "many", "short": None}]],
)
def test_a_record_of_another_shape_has_no_cost_and_ends_nothing(rows):
    """It ended experiments after their training."""
    assert cost_in(a_record() | {"rows": rows}, SPREAD) is None
    assert cost_in({"experiment": {"name": "departures"}}, SPREAD) is None
    if isinstance(rows, list):
        whole = cost_in(a_record(), SPREAD)
        assert cost_in(a_record() | {"rows": [*rows, *a_record()["rows"]]}, SPREAD) == whole, "only what does not fit"


def test_a_departure_that_helps_is_no_contradiction_to_its_claim():
    """It said "within", which has two sides, and tested one."""
    for claim in departures.experiment.claims:
        assert claim.text.startswith("Costs less than 0.5 points: ")
        helps, harms = ([[mean - 0.1, mean, mean + 0.1], [9.0, 9.1, 8.9]] for mean in (6.0, 12.0))
        assert judge_claim(helps, claim.rising, margin=claim.margin).outcome == "agrees"
        assert judge_claim(harms, claim.rising, margin=claim.margin).outcome == "differs"


def test_what_is_no_record_is_read_as_an_empty_one(tmp_path):
    for text in ("", "{", "[]", '{"experiment": 3}'):
        (tmp_path / "record.json").write_text(text)
        assert read_record(tmp_path / "record.json") == {}
    assert read_record(tmp_path / "none.json") == {}
