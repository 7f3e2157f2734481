import pytest

from residual.train import clock as clock_file
from residual.train.budget import Budget
from residual.train.clock import Clock
from residual.train.distributed import World
from residual.train.schedule import Pace, Schedule

ALONE = World()
SCHEDULE = Schedule(shape="linear", rate=0.1)


@pytest.fixture
def now(monkeypatch):
    """now[0]: what the time is, in seconds since the run began."""
    time = [0.0]
    monkeypatch.setattr(clock_file.time, "monotonic", lambda: time[0])
    return time


def budget(seconds: float | None, **changes: int) -> Budget:
    return Budget(seconds, **({"batch": 10, "looks": 20, "looked_at": 0, "at_the_end": 0} | changes))


def train(limit: Budget, now: list[float], seconds_of, *, first_guess: int = 1000) -> tuple[int, list[int]]:
    """Iterations that take as long as `seconds_of(step)` says, until the pace is done; its plans."""
    pace, clock, plans = Pace(SCHEDULE, first_guess), Clock(0), []
    step = 0
    while step < pace.iterations:
        step += 1
        now[0] += seconds_of(step)
        if step < pace.iterations and limit.replan(pace, clock, step, now[0], ALONE):
            plans.append(pace.iterations)
    return step, plans


def test_without_a_limit_nothing_is_planned_anew(now):
    steps, plans = train(budget(None), now, lambda step: 1.0, first_guess=50)
    assert (steps, plans) == (50, [])


@pytest.mark.parametrize("per_step", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("first_guess", [100, 100_000])
def test_at_an_even_speed_all_of_the_time_is_used_and_no_more(now, per_step, first_guess):
    train(budget(600), now, lambda step: per_step, first_guess=first_guess)
    assert 0.97 * 600 <= now[0] <= 600


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_lasting_change_of_speed_is_followed(now, factor):
    train(budget(600), now, lambda step: 0.1 if step < 2000 else 0.1 * factor)
    assert 0.95 * 600 <= now[0] <= 1.01 * 600


def test_a_stutter_does_not_cut_the_training_short(now):
    """Of ten seconds, as much as a hundred iterations take."""
    undisturbed, _ = train(budget(600), now, lambda step: 0.1)
    now[0] = 0.0
    steps, plans = train(budget(600), now, lambda step: 10.0 if step == 12 else 0.1)
    assert steps > 0.95 * undisturbed
    assert min(plans) > 0.5 * undisturbed


def test_what_comes_after_the_training_is_set_aside(now):
    steps, _ = train(budget(600), now, lambda step: 0.1)
    now[0] = 0.0
    limit = budget(600, at_the_end=10_000)
    limit.seconds_per_image = 0.02  # 200 s in all
    fewer, _ = train(limit, now, lambda step: 0.1)
    assert steps - fewer == pytest.approx(2000, abs=40)


@pytest.mark.parametrize(("per_image", "fits"), [(0.029, True), (0.031, False)])
def test_looks_are_left_out_where_they_would_take_a_tenth_of_the_time(per_image, fits):
    limit = budget(600, looked_at=100)
    limit.seconds_per_image = per_image
    assert limit.looks_fit() == fits
    assert budget(None, looked_at=10**9).looks_fit(1.0)


def test_the_time_left_is_that_of_the_iterations_looks_and_end():
    limit = budget(None, looked_at=100, at_the_end=500)
    limit.seconds_per_image = 0.01
    pace = Pace(SCHEDULE, 1000)
    assert limit.seconds_left(pace, 500, 0.1, spent=7.0) == pytest.approx(500 * 0.1 + 0.01 * (10 * 100 + 500))
    assert budget(60).seconds_left(pace, 500, 0.1, spent=7.0) == 53
    assert budget(60).seconds_left(pace, 500, 0.1, spent=70.0) == 0


def test_measuring_never_takes_more_than_half_of_what_was_to_be_trained_in():
    """A detector that is slow to measure is trained all the same; the run then ends late."""
    limit = budget(100.0, at_the_end=10_000, looked_at=100)
    limit.seconds_per_image = 1.0
    assert limit.seconds_to_finish(0.0, per_step=1.0) == 50.0
    assert budget(None, at_the_end=100).seconds_to_finish(0.0, per_step=10.0) == pytest.approx(0.4 * 100)
    slow = Budget(None, batch=10, looks=1, looked_at=0, at_the_end=100, guess=3.0)
    assert slow.seconds_to_finish(0.0, per_step=10.0) == pytest.approx(3.0 * 100)
