import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from scipy.stats import ttest_ind

from residual.experiments import demo
from residual.experiments.demo import DEEP, LEVEL, MARGIN, SHALLOW, Curve, conclude, judge, networks, passes
from residual.pipeline import Stop
from residual.report import write_demo

SPREAD = dict(zip(demo.SEEDS, (-0.4, 0.1, 0.3), strict=True))  # of three seeds about their mean


def curves(**final: float) -> list[Curve]:
    """Three seeds of each network around its last training error: plain8=2, plain44=57, ..."""
    names = {f"{stem}{depth}": (family, depth) for family, stem in demo.FAMILIES.items() for depth in (SHALLOW, DEEP)}
    return [
        Curve(
            network=name,
            family=names[name][0],
            depth=names[name][1],
            seed=seed,
            errors=(90.0, error + SPREAD[seed]),
            test_error=error + 5,
            train_loss=0.1,
        )
        for name, error in final.items()
        for seed in demo.SEEDS
    ]


AS_IN_THE_PAPER = {"plain8": 2.0, "plain44": 57.0, "resnet8": 2.0, "resnet44": 1.5}


def held(**changed: float) -> list[bool]:
    return [test["holds"] for test in judge(curves(**(AS_IN_THE_PAPER | changed)))["tests"]]


def test_the_claim_holds_where_plain_nets_degrade_and_residual_ones_do_not():
    verdict = judge(curves(**AS_IN_THE_PAPER))
    assert verdict["holds"]
    assert held() == [True, True, True]
    assert verdict["sentence"].startswith("It shows: from 8 to 44 layers the training error of plain networks went")
    assert "from 2.0 % to 57.0 %" in verdict["sentence"]
    assert "from 2.0 % to 1.5 %" in verdict["sentence"]


@pytest.mark.parametrize(
    "changed, expected",
    [
        ({"plain44": 2.0}, [False, True, False]),  # plain networks do not degrade
        ({"plain44": 1.0}, [False, True, False]),  # they even gain
        ({"resnet44": 30.0}, [True, False, True]),  # residual ones degrade
        ({"resnet44": 60.0}, [True, False, False]),  # and more than plain ones
        ({"resnet44": 3.0}, [True, False, True]),  # by just the margin: not shown to be within it
        ({"plain44": 2.0, "resnet44": 30.0}, [False, False, False]),
    ],
)
def test_the_claim_does_not_hold_where_a_part_of_it_fails(changed: dict[str, float], expected: list[bool]):
    assert held(**changed) == expected
    verdict = judge(curves(**(AS_IN_THE_PAPER | changed)))
    assert not verdict["holds"]
    assert verdict["sentence"].startswith("It did not show this time (")
    for test in verdict["tests"]:
        assert (test["claim"] in verdict["sentence"]) == (not test["holds"])


def test_a_residual_network_may_be_a_little_worse_but_not_by_the_margin():
    assert MARGIN == 1.0
    assert held(resnet44=2.05) == [True, True, True]
    assert held(resnet44=3.2)[1] is False


def test_the_p_values_are_welch_s():
    given = curves(**AS_IN_THE_PAPER)
    last = {
        (curve.family, curve.depth): [c.errors[-1] for c in given if (c.family, c.depth) == (curve.family, curve.depth)]
        for curve in given
    }
    pairs = [
        (last["plain", SHALLOW], last["plain", DEEP]),
        (last["residual", DEEP], [error + MARGIN for error in last["residual", SHALLOW]]),
        (last["residual", DEEP], last["plain", DEEP]),
    ]
    for test, (lower, higher) in zip(judge(given)["tests"], pairs, strict=True):
        expected = ttest_ind(lower, higher, equal_var=False, alternative="less").pvalue
        assert test["p"] == pytest.approx(expected, rel=1e-12)
        assert test["holds"] == (test["p"] < LEVEL)


def test_one_noisy_seed_is_no_proof():
    last = dict(zip(demo.SEEDS, (2.0, 2.1, 90.0), strict=True))
    noisy = [
        replace(curve, errors=(90.0, last[curve.seed])) if curve.network == "plain44" else curve
        for curve in curves(**AS_IN_THE_PAPER)
    ]
    assert [test["holds"] for test in judge(noisy)["tests"]] == [False, True, False]


def test_a_pass_is_the_mean_of_its_points():
    points = [(0.5, 90.0, 2.3), (1.0, 70.0, 2.0), (1.5, 60.0, 1.8), (2.0, 50.0, 1.7), (2.5, 40.0, 1.5)]
    assert passes(points) == (80.0, 55.0, 40.0)
    assert passes([]) == ()
    uneven = [((step + 1) / 22, float(step), 0.0) for step in range(44)]  # 22 iterations a pass
    assert passes(uneven) == (mean(range(22)), mean(range(22, 44)))


def test_the_record_holds_every_curve_and_the_report_is_made_from_it(tmp_path: Path):
    verdict = conclude(tmp_path, curves(**AS_IN_THE_PAPER))
    record = json.loads((tmp_path / "demo.json").read_text())
    assert record["verdict"]["sentence"] == verdict["sentence"]
    assert len(record["runs"]) == 12
    assert record["runs"][0]["curve"][-1]["train_error"] == record["runs"][0]["final"]["train_error"]
    assert verdict["sentence"] in write_demo(tmp_path).read_text()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four networks, two of them deeper, one seed, two passes."""
    monkeypatch.setattr(demo, "SEEDS", (0,))
    monkeypatch.setattr(demo, "DEEP", 14)
    recipe = replace(demo.recipe(), epochs=2)
    monkeypatch.setattr(demo, "recipe", lambda: recipe)


def until(curves: Iterator[Curve], stop: Stop, *, network: str) -> list[Curve]:
    """Ask for a stop at the first pass of `network`."""
    found = []
    for curve in curves:
        found.append(curve)
        if curve.network == network:
            stop.signal = 2
    return found


@pytest.mark.usefixtures("short")
def test_a_stopped_demo_goes_on_without_repeating_what_is_done(tmp_path: Path):
    names = [name for name, _, _ in networks()]
    assert names == ["plain8", "resnet8", "plain14", "resnet14"]
    stop = Stop()
    before = until(demo.run(tmp_path, stop=stop), stop, network="resnet8")
    assert [(curve.network, len(curve.errors)) for curve in before] == [
        ("plain8", 1),
        ("plain8", 2),
        ("plain8", 2),
        ("resnet8", 1),
    ]
    done = (tmp_path / "plain8-seed0" / "metrics.jsonl").read_text()
    weights = (tmp_path / "plain8-seed0" / "model.safetensors").read_bytes()

    after = list(demo.run(tmp_path, stop=Stop()))
    finished = [curve for curve in after if curve.test_error is not None]
    assert [curve.network for curve in finished] == names
    assert all(len(curve.errors) == 2 for curve in finished)
    assert [curve for curve in after if curve.network == "plain8"] == [before[2]], "not trained again, and the same"
    assert (tmp_path / "plain8-seed0" / "model.safetensors").read_bytes() == weights
    steps = [json.loads(line)["step"] for line in done.splitlines() if "loss" in json.loads(line)]
    again = (tmp_path / "plain8-seed0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in again if "loss" in json.loads(line)] == steps

    whole = tmp_path / "whole"
    expected = [curve for curve in demo.run(whole, stop=Stop()) if curve.test_error is not None]
    assert finished == expected, "as if it had never been stopped"
