"""Tracks: things keep their numbers while they are seen, and for some frames more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.serve import tracks
from residual.serve.tracks import OF_SEEING, SEEN, Track, Tracker


def box(across: float, down: float = 50, side: float = 20) -> list[float]:
    return [across - side / 2, down - side / 2, across + side / 2, down + side / 2]


def test_a_thing_gets_its_number_in_the_third_frame_and_keeps_it():
    tracker = Tracker()
    numbers = [tracker.update(np.array([box(10 + 4 * frame)]), [0]) for frame in range(50)]
    assert numbers == [[None], [None], *[[1]] * 48]


def test_things_of_a_kind_that_pass_each_other_keep_their_numbers():
    tracker = Tracker()
    for frame in range(60):  # they overlap for eight frames, and their boxes come in changing order
        boxes, order = np.array([box(20 + 3 * frame, 50), box(200 - 3 * frame, 58)]), [frame % 2, 1 - frame % 2]
        numbers = tracker.update(boxes[order], [0, 0])
    assert [numbers[place] for place in np.argsort(order)] == [1, 2]


@pytest.mark.parametrize("missed, number", [(1, 1), (10, 1), (11, None)])
def test_a_thing_that_is_missed_is_known_again_for_ten_frames(missed: int, number: int | None):
    tracker = Tracker()
    for frame in range(20):
        tracker.update(np.array([box(10 + 2 * frame)]), [0])
    for _ in range(missed):
        assert tracker.update(np.empty((0, 4)), []) == []
    assert tracker.update(np.array([box(10 + 2 * (20 + missed))]), [0]) == [number]


def test_a_flicker_gets_no_number():
    tracker = Tracker()
    for frame in range(30):
        seen = frame % 3 < 2  # twice in a row at most
        assert set(tracker.update(np.array([box(50)] * seen).reshape(-1, 4), [0] * seen)) <= {None}


def test_a_thing_never_becomes_another_class():
    tracker = Tracker()
    for _ in range(5):
        tracker.update(np.array([box(50)]), [0])
    assert tracker.update(np.array([box(50)]), [1]) == [None]
    assert tracker.update(np.array([box(50), box(50)]), [1, 0]) == [None, 1]


def test_pairs_are_those_of_the_greatest_sum_not_the_nearest_first():
    tracker = Tracker()
    for _ in range(9):
        tracker.update(np.array([box(50), box(60)]), [0, 0])
    # 58 overlaps the second most, but then the first would be left without 68
    assert tracker.update(np.array([box(58), box(68)]), [0, 0]) == [1, 2]


def test_the_filter_without_noise_of_motion_is_least_squares(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tracks, "OF_MOTION", np.zeros((7, 7)))
    rng = np.random.default_rng(0)
    seen = [np.array(box(30 + 3 * k, 40 + k, 30 + k / 4)) + rng.normal(0, 0.5, 4) for k in range(12)]
    measured = [tracks._measured(each) for each in seen]
    start = np.concatenate([measured[0], np.zeros(3)])
    track = Track(0, start.copy())
    for each in seen[1:]:
        track.predict()
        track.correct(each)
    # The state at the beginning that explains all best: a prior, then a measurement per frame.
    information = np.linalg.inv(tracks.AT_FIRST)
    told = information @ start
    for k, each in enumerate(measured[1:], start=1):
        model = SEEN @ np.linalg.matrix_power(tracks.MOVES, k)
        information = information + model.T @ np.linalg.inv(OF_SEEING) @ model
        told = told + model.T @ np.linalg.inv(OF_SEEING) @ each
    first = np.linalg.solve(information, told)
    np.testing.assert_allclose(track.state, np.linalg.matrix_power(tracks.MOVES, 11) @ first, rtol=1e-8, atol=1e-8)


def test_a_box_is_the_box_it_was_seen_as():
    seen = np.array([3.0, 7.0, 40.0, 19.0])
    np.testing.assert_allclose(Track(0, np.concatenate([tracks._measured(seen), np.zeros(3)])).box, seen)


boxes = st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 4, st.integers(0, 1)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(boxes, max_size=12))
def test_whatever_the_boxes_numbers_are_different_grow_and_repeat(frames):
    runs = []
    for _ in range(2):
        tracker, said, highest = Tracker(), [], 0
        for frame in frames:
            numbers = tracker.update(np.array([each[:4] for each in frame]), [each[4] for each in frame])
            assert len(numbers) == len(frame)
            given_out = [number for number in numbers if number is not None]
            assert len(set(given_out)) == len(given_out)
            new = [number for number in given_out if number > highest]
            assert new == list(range(highest + 1, highest + 1 + len(new)))
            highest += len(new)
            said.append(numbers)
        runs.append(said)
    assert runs[0] == runs[1]
