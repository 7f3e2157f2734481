"""Ending within a time: how many iterations still fit, beside all else that a run has to do."""

from residual.train import distributed
from residual.train.clock import Clock
from residual.train.distributed import World
from residual.train.schedule import Pace


class Budget:
    """The time a run may take, and how it is spent.  Without a limit it only tells what is left.

    seconds: that the whole command may take; None: as long as the pace was made for.
    batch: images per iteration.  looks: how often held-out images are looked at while training.
    looked_at: images in each look.  at_the_end: images that are scored or averaged over after the last iteration.
    guess: how long looking at an image takes, in times of training on it, before one was measured.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        batch: int,
        looks: int,
        looked_at: int,
        at_the_end: int,
        guess: float = 0.4,
    ) -> None:
        self.guess = guess
        self.seconds = seconds
        self.batch, self.looks, self.looked_at, self.at_the_end = batch, looks, looked_at, at_the_end
        self.seconds_per_image = 0.0  # of a look; 0 until one was measured
        self._doubted = False  # whether the last measurement of speed was too slow to be believed at once

    def looks_fit(self, per_image: float | None = None) -> bool:
        """Whether all looks together take less than a tenth of the time.  per_image: seconds, as measured if None."""
        per_image = self.seconds_per_image if per_image is None else per_image
        return self.seconds is None or self.looks * self.looked_at * per_image < 0.1 * self.seconds

    def seconds_to_finish(self, progress: float, per_step: float) -> float:
        """What remains to do besides training: the looks, the exact statistics, the evaluations, the files.

        At most half of the time: where measuring takes longer than that, the run ends late rather than untrained.
        """
        per_image = self.seconds_per_image or self.guess * per_step / self.batch
        looked_at = self.looked_at if self.looks_fit(per_image) else 0
        found = per_image * (self.looks * (1 - progress) * looked_at + self.at_the_end)
        return found if self.seconds is None else min(found, 0.5 * self.seconds)

    def seconds_left(self, pace: Pace, step: int, per_step: float, spent: float) -> float:
        """Until the run is complete: what the pace takes, or what is left of the time that the pace is made for."""
        if self.seconds is not None:
            return max(0.0, self.seconds - spent)
        return (pace.iterations - step) * per_step + self.seconds_to_finish(pace.progress(step), per_step)

    def replan(self, pace: Pace, clock: Clock, step: int, spent: float, world: World) -> bool:
        """From time to time, make the pace for as many iterations as still fit; whether that has changed it.

        spent: seconds since the run began.  Every process must call this after the same iterations.
        """
        if self.seconds is None or not distributed.may_ask(step, world):
            return False
        per_step = clock.seconds_per_step(step)
        reserve = min(4.0, 0.1 * self.seconds)  # starting Python, writing files, a guess that was too low
        left = self.seconds - reserve - spent - self.seconds_to_finish(pace.progress(step), per_step)
        # The first plans are soon replaced.  The last stretch keeps its plan: the rate then falls to zero, rather than
        # being cut off by a late surprise.
        soon = clock.steps(step) >= max(8, step - clock.steps(step))
        remaining = pace.iterations - step
        last = max(left, remaining * per_step) < 0.05 * self.seconds
        due = not last and (soon or clock.seconds() > 0.015 * self.seconds) and clock.steps(step) >= 2
        over = spent > self.seconds  # the last stretch may use the reserve, so that it ends annealed
        fits = int(distributed.agree(step + (1 if over else max(1, left / per_step)) if due or over else 0, world))
        if not fits:
            return False
        # Half the speed or less may be a moment's stutter: it is believed when a second measurement says so too.
        self._doubted = not self._doubted and 1 < fits - step < remaining / 2
        changed = not self._doubted and abs(fits - pace.iterations) > 0.003 * pace.iterations
        if changed:
            pace.replan(step, fits)
        clock.restart(step)
        return changed
