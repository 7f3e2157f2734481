"""Things on a video keep their numbers: SORT (Bewley et al. 2016, "Simple online and realtime tracking").

Each track predicts its box by a Kalman filter of constant velocity; predictions and the frame's boxes are paired so
that their overlaps sum to the most (the Hungarian method); only equal classes pair, and only from an overlap of 0.3
on.  A track gets its number when it has been seen in three frames in a row, and ends when it has been missed in too
many; one without a number ends when it is missed once.  The paper ends every track at its first miss.

Shapes: M boxes of a frame, (M, 4) corners in pixels; T tracks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from residual.detect.detections import overlap

Floats = NDArray[np.float64]

# A box as centre across, centre down, area and width over height; of the first three also how they change per frame.
MOVES = np.eye(7)
MOVES[[0, 1, 2], [4, 5, 6]] = 1
SEEN = np.eye(4, 7)
# Variances, as in the authors' program: what is not known of a new track, of its motion and of what a detector says.
AT_FIRST = np.diag([10.0, 10, 10, 10, 1e4, 1e4, 1e4])
OF_MOTION = np.diag([1.0, 1, 1, 1, 1e-2, 1e-2, 1e-4])
OF_SEEING = np.diag([1.0, 1, 10, 10])


@dataclass(eq=False)
class Track:
    """One thing: what is known of its box, and how often it was seen."""

    label: int
    state: Floats  # (7,)
    spread: Floats = field(default_factory=AT_FIRST.copy)  # (7, 7), covariance
    number: int | None = None
    hits: int = 1
    misses: int = 0  # since it was last seen

    def predict(self) -> None:
        """On to the next frame."""
        if self.state[2] + self.state[6] <= 0:  # no box has a negative area
            self.state[6] = 0
        self.state = MOVES @ self.state
        self.spread = MOVES @ self.spread @ MOVES.T + OF_MOTION

    def correct(self, box: Floats) -> None:
        """It was seen here."""
        gain = self.spread @ SEEN.T @ np.linalg.inv(SEEN @ self.spread @ SEEN.T + OF_SEEING)
        self.state = self.state + gain @ (_measured(box) - SEEN @ self.state)
        self.spread = (np.eye(7) - gain @ SEEN) @ self.spread

    @property
    def box(self) -> Floats:
        """(4,) corners, where it is thought to be."""
        across, down, area, ratio = self.state[:4]
        width = np.sqrt(max(area, 1e-6) * max(ratio, 1e-6))
        height = max(area, 1e-6) / width
        return np.array([across - width / 2, down - height / 2, across + width / 2, down + height / 2])


class Tracker:
    """The tracks of one video.  Frames must come in order; the same frames give the same numbers."""

    def __init__(self, *, least: float = 0.3, hits: int = 3, misses: int = 10) -> None:
        """least: overlap from which a box can belong to a track.  hits, misses: frames, as told above."""
        self.least, self.hits, self.misses = least, hits, misses
        self.tracks: list[Track] = []
        self.numbered = 0

    def update(self, boxes: Floats, labels: Sequence[int]) -> list[int | None]:
        """The numbers, from 1 on, of the boxes of the next frame; None where a box has no number yet."""
        from scipy.optimize import linear_sum_assignment

        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        for track in self.tracks:
            track.predict()
        predicted = np.array([track.box for track in self.tracks]).reshape(-1, 4)
        overlaps = overlap(predicted, boxes)  # (T, M)
        same = np.array([track.label for track in self.tracks])[:, None] == np.asarray(labels)[None, :]
        overlaps = np.where(same & (overlaps >= self.least), overlaps, 0)
        holders: list[Track | None] = [None] * len(boxes)
        for row, column in zip(*linear_sum_assignment(overlaps, maximize=True), strict=True):
            if overlaps[row, column] > 0:
                holders[column] = self.tracks[row]
        seen = {id(track) for track in holders if track is not None}
        for track in self.tracks:
            track.misses = 0 if id(track) in seen else track.misses + 1
        self.tracks = [track for track in self.tracks if self._lives(track)]
        numbers: list[int | None] = []
        for box, label, holder in zip(boxes, labels, holders, strict=True):
            if holder is None:
                holder = Track(int(label), np.concatenate([_measured(box), np.zeros(3)]))
                self.tracks.append(holder)
            else:
                holder.correct(box)
                holder.hits += 1
            if holder.number is None and holder.hits >= self.hits:
                self.numbered += 1
                holder.number = self.numbered
            numbers.append(holder.number)
        return numbers

    def _lives(self, track: Track) -> bool:
        return track.misses <= (0 if track.number is None else self.misses)


def _measured(box: Floats) -> Floats:
    """A box as the filter sees it: (4,)."""
    left, top, right, bottom = box
    width, height = max(right - left, 1e-3), max(bottom - top, 1e-3)
    return np.array([(left + right) / 2, (top + bottom) / 2, width * height, width / height])
