from dataclasses import replace

import pytest

from residual.recipes.paper import paper
from residual.reproduce.arithmetic import learned
from residual.reproduce.budget import allocate, everything
from residual.reproduce.detectors import on_scenes
from residual.reproduce.experiment import Claim, Experiment, Row, Setting
from residual.reproduce.measures import training_error
from residual.reproduce.store import Run, iterations


def network(layers: int, family: str = "plain") -> Setting:
    return Setting(model=f"{family}{layers}", recipe=paper(), data="cifar10")


def cost(run: Run) -> float:
    """A second for every ten iterations of twenty layers, and three to begin."""
    return 3 + iterations(run.setting) / 10 * sum(run.setting.description.depths) / 9


def experiment(*layers: int, claims=((20, 56),), seeds: int = 3, name: str = "figure1") -> Experiment:
    return Experiment(
        name=name,
        title="",
        source="",
        claim="",
        rows=tuple(
            Row(name=f"{n}", unit="%", settings=(network(n),), measure=training_error, seeds=seeds) for n in layers
        ),
        claims=tuple(Claim(text="deeper is worse", rising=tuple(map(str, chain))) for chain in claims),
        data=("cifar10",),
    )


def fits(allocation, seconds: float, jobs: int) -> bool:
    """Whether jobs that take the runs one by one, in order, end in time."""
    ends = [0.0] * jobs
    for run in allocation.runs:
        ends[ends.index(min(ends))] += cost(run)
    return max(ends) <= seconds


def count(allocation) -> dict[tuple[str, int], int]:
    """Seeds by (network, iterations)."""
    found: dict[tuple[str, int], int] = {}
    for run in allocation.runs:
        about = run.setting.model, iterations(run.setting)
        found[about] = found.get(about, 0) + 1
    return found


def test_everything_is_what_the_rows_ask_for_first_seeds_first():
    runs = everything([experiment(20, 56), experiment(20, 32, claims=(), name="table6")], seeds=None).runs
    assert [(run.setting.model, run.seed) for run in runs] == [
        (model, seed) for seed in range(3) for model in ("plain20", "plain56", "plain32")
    ]
    assert len(everything([experiment(20, 56)], seeds=5).runs) == 10


def test_a_large_budget_buys_all_in_full_length():
    seconds = 1e7
    allocation = allocate([experiment(20, 56)], seconds=seconds, jobs=2, seeds=None, cost=cost)
    assert count(allocation) == {("plain20", 64_000): 3, ("plain56", 64_000): 3}
    assert not allocation.lengths
    assert not allocation.spare


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("seconds", [1_200.0, 7_200.0])
def test_a_small_budget_shortens_all_networks_of_a_claim_equally_and_three_seeds_fit(seconds, jobs):
    allocation = allocate([experiment(20, 56)], seconds=seconds, jobs=jobs, seeds=None, cost=cost)
    found = count(allocation)
    (length,) = {length for _, length in found}
    assert found == {("plain20", length): 3, ("plain56", length): 3}
    assert 640 <= length < 64_000
    assert set(allocation.lengths) == {network(20).key, network(56).key}
    assert set(allocation.lengths.values()) == {length}
    assert fits(allocation, seconds, jobs)
    assert {run.setting.recipe.schedule for run in allocation.runs} == {paper().schedule}
    assert allocation.spare, "more seeds for time that is left over"


def test_the_shortened_length_is_nearly_the_longest_that_fits():
    one = allocate([experiment(20, 56)], seconds=1_200, jobs=2, seeds=None, cost=cost)
    (length,) = set(one.lengths.values())
    longer = replace(one, runs=tuple(_with_length(run, round(1.03 * length)) for run in one.runs))
    assert not fits(longer, 1_200, 2)


def _with_length(run: Run, length: int) -> Run:
    return replace(run, setting=replace(run.setting, recipe=replace(run.setting.recipe, iterations=length)))


def test_where_three_seeds_are_too_short_there_are_two_and_where_two_are_there_is_nothing():
    two = allocate([experiment(20, 56)], seconds=200, jobs=1, seeds=None, cost=cost)
    assert set(count(two).values()) == {2}
    nothing = allocate([experiment(20, 56)], seconds=10, jobs=1, seeds=None, cost=cost)
    assert not nothing.runs
    assert not nothing.lengths


def test_the_same_question_has_the_same_answer():
    ask = {"seconds": 1_200.0, "jobs": 2, "seeds": None, "cost": cost}
    assert allocate([experiment(20, 56)], **ask) == allocate([experiment(20, 56)], **ask)


def test_two_full_runs_of_each_come_before_a_third_of_any():
    first = sum(cost(Run(setting=network(n), seed=0)) for n in (20, 56))
    allocation = allocate([experiment(20, 56)], seconds=2.5 * first, jobs=1, seeds=None, cost=cost)
    assert count(allocation) == {("plain20", 64_000): 3, ("plain56", 64_000): 2}, "the cheaper third seed fits"
    assert not allocation.lengths


def test_a_giant_is_left_out_where_claims_remain_without_it():
    claims = ((20, 32), (32, 1202))
    allocation = allocate([experiment(20, 32, 1202, claims=claims)], seconds=1_200, jobs=2, seeds=None, cost=cost)
    assert {model for model, _ in count(allocation)} == {"plain20", "plain32"}


def test_rows_of_no_claim_are_never_shortened():
    allocation = allocate([experiment(20, 56, claims=())], seconds=1_200, jobs=2, seeds=None, cost=cost)
    assert not allocation.runs
    plenty = allocate([experiment(20, 56, claims=())], seconds=30_000, jobs=2, seeds=None, cost=cost)
    assert {length for _, length in count(plenty)} == {64_000}


def test_finished_runs_cost_nothing_and_keep_a_claim_in_full_length():
    def free(run: Run) -> float:
        return 0.0 if iterations(run.setting) == 64_000 and run.seed < 2 else cost(run)

    allocation = allocate([experiment(20, 56)], seconds=100, jobs=1, seeds=None, cost=free)
    assert count(allocation) == {("plain20", 64_000): 2, ("plain56", 64_000): 2}


def test_seeds_are_what_the_user_says():
    five = allocate([experiment(20, 56)], seconds=1_200, jobs=2, seeds=5, cost=cost)
    assert set(count(five).values()) == {5}
    one = allocate([experiment(20, 56)], seconds=1e7, jobs=2, seeds=1, cost=cost)
    assert set(count(one).values()) == {1}


def test_claims_with_a_common_network_are_shortened_to_one_length():
    other = experiment(32, 56, claims=((32, 56),), name="figure6")
    allocation = allocate([experiment(20, 56), other], seconds=1_800, jobs=2, seeds=None, cost=cost)
    assert len(set(allocation.lengths.values())) == 1
    assert len(allocation.lengths) == 3


def test_a_shortened_setting_is_another_training_with_the_same_shape():
    allocation = allocate([experiment(20, 56)], seconds=1_200, jobs=2, seeds=None, cost=cost)
    actual = allocation.actual(network(20))
    assert actual.key != network(20).key
    assert actual.recipe == replace(paper(), iterations=allocation.lengths[network(20).key])
    assert allocation.actual(network(110)) == network(110)


def test_detectors_share_the_time_as_classifiers_do():
    small, deep = (on_scenes(model) for model in ("faster_rcnn_small_c4", "mnc5_small"))
    rows = tuple(
        Row(name=each.model, unit="% mAP", settings=(each,), measure=training_error, seeds=3) for each in (small, deep)
    )
    claim = Claim(text="a cascade is better", rising=tuple(row.name for row in rows))
    detectors = Experiment(name="detectors", title="", source="", claim="", rows=rows, claims=(claim,))

    def cost(run: Run) -> float:
        return 3 + iterations(run.setting) * learned(run.setting).macs / 1e9

    allocation = allocate([detectors], seconds=600, jobs=1, seeds=None, cost=cost)
    (length,) = set(allocation.lengths.values())
    assert 60 <= length < iterations(small)
    assert allocation.actual(deep) == replace(deep, recipe=replace(deep.recipe, iterations=length))
    assert [run.setting.model for run in allocation.runs[:2]] == ["mnc5_small", "mnc5_small"], "the dear ones first"
    assert sum(map(cost, allocation.runs)) <= 600
