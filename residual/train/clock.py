"""How long an iteration takes, without what is done between iterations."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures seconds per iteration since `restart`, without what is done between iterations."""

    def __init__(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()
        self._before: float | None = None  # seconds per iteration when it was last restarted

    def restart(self, step: int) -> None:
        """Measure from iteration `step` on; until there is one more, the old measurement stands."""
        if self.steps(step):
            self._before = self.seconds_per_step(step)
        self._step, self._began = step, time.monotonic()

    def steps(self, step: int) -> int:
        return step - self._step

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def seconds_per_step(self, step: int) -> float:
        """Just after a restart, as measured before it; before any iteration, the time since the beginning."""
        if not self.steps(step):
            return self.seconds() if self._before is None else self._before
        return self.seconds() / self.steps(step)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began
