"""T3: SIGTERM and SIGINT.  A checkpoint at the current step, then exit; nothing is done twice."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass

import pytest


@dataclass
class Toll:
    stops: int = 0
    wrong: int = 0  # exit codes
    different: int = 0
    redone: int = 0
    slowest: float = 0.0  # seconds from signal to exit

    def __str__(self):
        return (
            f"{self.stops} stops: {self.wrong} wrong exit codes, {self.different} differ, "
            f"{self.redone} steps redone, {self.slowest:.1f} s at most"
        )


def survey(trainer, plan, stops, twice):
    """Stop runs at random times, `twice` of them with a second signal during the save, and finish each."""
    expected = trainer.reference(plan)
    rng = random.Random(0)
    toll = Toll()
    while toll.stops < stops:
        run = trainer.folder / "run"
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
        child = trainer.start(run, plan)
        patience = 3 + rng.randrange(plan.recipe.iterations - 2)  # the first save, then a step
        heard = [child.hear() for _ in range(patience)]
        time.sleep(rng.random() * 0.03)
        began = time.monotonic()
        os.kill(child.pid, number)
        if toll.stops < twice:
            while (said := child.hear()) is not None and said[0] != "saving":
                heard.append(said)
            time.sleep(0.002 + rng.random() * 0.02)
            os.kill(child.pid, number)
        ended = child.wait(30)
        seconds = time.monotonic() - began
        if ended.code == 0:  # the signal came after the last step
            shutil.rmtree(run)
            continue
        last = max(n for what, n in heard + ended.said if what == "step")
        finished = trainer.start(run, plan).wait(300)
        first = next((n for what, n in finished.said if what == "step"), last + 1)
        toll.stops += 1
        toll.wrong += ended.code != 128 + number
        toll.slowest = max(toll.slowest, seconds)
        toll.redone += last - (first - 1)
        toll.different += finished.code != 0 or trainer.result(run) != expected
        shutil.rmtree(run)
    return toll


def judge(row, what, toll):
    passed = toll.wrong == toll.different == toll.redone == 0 and toll.slowest <= 30
    row("T3", what, str(toll), passed)


def test_a_stopped_run_saves_its_step_and_goes_on_from_it(trainer, row):
    judge(row, "sample: SIGTERM and SIGINT", survey(trainer, trainer.quick_plan(), 2, 1))


@pytest.mark.reliability
def test_fifty_stopped_runs_go_on_where_they_were(trainer, row):
    plan = trainer.plan(iterations=60, save_steps=1000)
    judge(row, "SIGTERM and SIGINT, 10 with a second one", survey(trainer, plan, 50, 10))
