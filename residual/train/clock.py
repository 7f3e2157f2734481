"""How long an iteration takes, without what is done between iterations."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Measures seconds per iteration since `restart`, without what is done between iterations."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        self._step, self._began = step, time.monotonic()

    def steps(self, step: int) -> int:
        return step - self._step

    def seconds(self) -> float:
        return time.monotonic() - self._began

    def seconds_per_step(self, step: int) -> float:
        return self.seconds() / max(1, self.steps(step))

    @contextmanager
    def stopped(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began
