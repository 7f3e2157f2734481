import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.train.schedule import Pace, Schedule

PAPER = Schedule(shape="steps", rate=0.1, drops=(0.5, 0.75))
LINEAR = Schedule(shape="linear", rate=0.3, warmup=0.1)
COSINE = Schedule(shape="cosine", rate=0.1, warmup=0.1)


# --- the schedule ---


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)],
)
def test_the_paper_divides_the_rate_by_10_at_32k_and_48k_of_64k_iterations(step, rate):
    assert Pace(PAPER, 64_000).rate(step) == pytest.approx(rate, rel=1e-12)


def test_wide_networks_keep_a_fifth_of_the_rate_at_each_drop():
    schedule = Schedule(shape="steps", rate=0.1, drops=(0.3, 0.6, 0.8), factor=0.2)
    rates = [schedule.at(progress) for progress in (0.29, 0.3, 0.6, 0.8)]
    assert rates == pytest.approx([0.1, 0.02, 0.004, 0.0008], rel=1e-12)


def test_a_rate_that_is_held_is_held_for_the_first_400_of_64k_iterations_and_no_longer():
    schedule = Schedule(shape="steps", rate=0.1, drops=(0.5, 0.75), warmup_rate=0.01, hold=400 / 64_000)
    pace = Pace(schedule, 64_000)
    assert [pace.rate(step) for step in (0, 399, 400, 31_999, 32_000)] == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01])


def test_a_warm_up_may_begin_above_zero():
    schedule = Schedule(shape="cosine", rate=0.5, warmup=0.1, warmup_from=0.005)
    assert [schedule.at(done) for done in (0.0, 0.05, 0.1)] == pytest.approx([0.005, 0.2525, 0.5])


@pytest.mark.parametrize("schedule", [LINEAR, COSINE])
def test_the_rate_climbs_in_a_line_to_its_highest_and_falls_to_zero(schedule):
    rates = [schedule.at(step / 1000) for step in range(1001)]
    assert rates[0] == 0
    assert rates[50] == pytest.approx(schedule.rate / 2)
    assert rates[100] == max(rates) == schedule.rate
    assert rates[:101] == sorted(rates[:101])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[1000] == pytest.approx(0, abs=1e-15)


def test_linear_and_cosine_are_at_half_when_half_is_left():
    assert LINEAR.at(0.55) == pytest.approx(0.15)
    assert COSINE.at(0.55) == pytest.approx(0.05)
    assert COSINE.at(0.1 + 0.9 / 3) == pytest.approx(0.1 * (1 + math.cos(math.pi / 3)) / 2)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rate": 0.0}, "above 0"),
        ({"rate": math.nan}, "above 0"),
        ({"shape": "cosine", "drops": (0.5,)}, "schedule of steps"),
        ({"drops": (0.75, 0.5)}, "rising"),
        ({"drops": (0.5, 1.0)}, "between 0 and 1"),
        ({"warmup": 1.0}, "warmup"),
        ({"factor": 1.0}, "factor"),
        ({"warmup": 0.1, "warmup_error": 80.0}, "not at both"),
        ({"hold": 0.1, "warmup_error": 80.0}, "not at both"),
        ({"hold": 0.1, "warmup": 0.1}, "not at both"),
        ({"hold": 1.0}, "hold"),
        ({"warmup": 0.1, "warmup_from": 0.2}, "cannot begin at 0.2"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**({"shape": "steps", "rate": 0.1} | wrong))


# --- warm-up until the training error has fallen ---


def test_110_layers_warm_up_until_the_training_error_is_below_80_percent():
    pace = Pace(Schedule(shape="steps", rate=0.1, drops=(0.5,), warmup_error=80.0), 1000)
    assert pace.rate(0) == 0.01
    step = 0
    while pace.warming:
        pace.saw_error(70.0)
        step += 1
        assert pace.rate(step) == (0.01 if pace.warming else 0.1)
    assert 40 < step < 80  # 100 falls to 80 on its way to 70 with a memory of about 50 iterations
    pace.saw_error(99.0)
    assert pace.rate(step) == 0.1  # it does not come back
    assert pace.rate(500) == pytest.approx(0.01)  # and the drops stand where they stood


def test_one_lucky_batch_does_not_end_the_warm_up():
    pace = Pace(Schedule(shape="steps", rate=0.1, warmup_error=80.0), 1000)
    for _ in range(200):
        pace.saw_error(90.0)
    pace.saw_error(0.0)
    assert pace.warming


def test_without_a_warm_up_error_it_is_never_warming():
    assert not Pace(PAPER, 10).warming


# --- the pace ---


@settings(deadline=None)  # how busy the machine is, is not tested
@given(st.integers(1, 5000), st.integers(0, 5000))
def test_progress_with_given_iterations_is_their_share(iterations, step):
    assert Pace(PAPER, iterations).progress(min(step, iterations)) == min(step, iterations) / iterations


@settings(deadline=None)
@given(
    first=st.integers(10, 2000),
    plans=st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.2, 5.0)), max_size=10),
    schedule=st.sampled_from([LINEAR, COSINE]),
)
def test_a_new_plan_goes_on_where_the_old_one_was_and_ends_at_zero(first, plans, schedule):
    pace, step = Pace(schedule, first), 0
    for through, factor in plans:
        step = min(max(step + 1, round(step + through * (pace.iterations - step))), pace.iterations - 1)
        if step < 1:
            break
        before = pace.progress(step)
        pace.replan(step, round(step + factor * (pace.iterations - step)))
        assert pace.progress(step) == pytest.approx(before, abs=1e-12)
        assert pace.iterations > step
    progress = [pace.progress(at) for at in range(step, pace.iterations + 1)]
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(1)
    assert pace.rate(pace.iterations) == pytest.approx(0, abs=1e-12)


def test_a_plan_of_no_iterations_leaves_one():
    pace = Pace(LINEAR, 100)
    pace.replan(40, 3)
    assert pace.iterations == 41


@pytest.mark.parametrize("schedule", [PAPER, LINEAR, Schedule(shape="steps", rate=0.1, warmup_error=80.0)])
def test_a_pace_comes_back_from_json_exactly(schedule):
    pace = Pace(schedule, 777)
    for step in range(1, 100):
        pace.saw_error(95.0 - step / 7)
        if step % 30 == 0:
            pace.replan(step, 600 + step)
    again = Pace(schedule, 5)
    again.load(json.loads(json.dumps(pace.state())))
    assert vars(again) == vars(pace)
    assert [again.rate(step) for step in range(99, 600)] == [pace.rate(step) for step in range(99, 600)]


def test_a_pace_of_another_schedule_is_refused():
    with pytest.raises(ValueError, match="trained with the schedule"):
        Pace(LINEAR, 10).load(Pace(COSINE, 10).state())


@pytest.mark.parametrize("name", ["iterations", "planned_at", "progress_then", "warming", "error", "schedule"])
def test_a_pace_without_one_of_its_numbers_is_refused(name):
    state = Pace(LINEAR, 10).state()
    del state[name]
    with pytest.raises(ValueError, match=name):
        Pace(LINEAR, 10).load(state)


def test_a_training_of_no_iterations_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Pace(PAPER, 0)
