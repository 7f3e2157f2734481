import pytest

from residual.train import clock


@pytest.fixture
def now(monkeypatch):
    """now[0]: what the time is."""
    time = [100.0]
    monkeypatch.setattr(clock.time, "monotonic", lambda: time[0])
    return time


def test_seconds_per_step_are_counted_since_the_restart(now):
    measured = clock.Clock(10)
    now[0] += 6
    assert measured.steps(13) == 3
    assert measured.seconds_per_step(13) == 2
    measured.restart(13)
    now[0] += 1
    assert measured.seconds_per_step(14) == 1


def test_what_happens_while_it_is_stopped_does_not_count(now):
    measured = clock.Clock(0)
    now[0] += 1
    with measured.stopped():
        now[0] += 50
    now[0] += 1
    assert measured.seconds() == 2


def test_before_the_first_step_the_time_until_now_is_one_step(now):
    measured = clock.Clock(5)
    now[0] += 3
    assert measured.seconds_per_step(5) == 3


def test_just_after_a_restart_the_measurement_before_it_stands(now):
    measured = clock.Clock(0)
    now[0] += 8
    measured.restart(4)
    assert measured.seconds_per_step(4) == 2
    now[0] += 1
    measured.restart(4)
    assert measured.seconds_per_step(4) == 2
    now[0] += 5
    assert measured.seconds_per_step(5) == 5
