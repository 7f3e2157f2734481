"""T1: SIGKILL at random times.  A resumed run ends as if it had never been cut off, bit for bit."""

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass

import pytest


@dataclass
class Toll:
    """What a series of kills cost."""

    kills: int = 0
    runs: int = 0
    different: int = 0
    lost: int = 0  # checkpoints that were acknowledged and not resumed from
    redone: int = 0  # steps, at most

    def count(self, parts):
        """parts: what each of the processes of one run said."""
        reached = saved = 0
        for said in parts:
            steps = [number for what, number in said if what == "step"]
            if steps:
                self.lost += steps[0] - 1 < saved
                self.redone = max(self.redone, reached - (steps[0] - 1))
            reached = max([reached, *steps])
            saved = max([saved, *(number for what, number in said if what == "saved")])

    def __str__(self):
        return (
            f"{self.kills} kills in {self.runs} runs: {self.different} differ, {self.lost} checkpoints lost, "
            f"{self.redone} steps redone at most"
        )


def torture(trainer, plan, kills, kills_per_run):
    expected = trainer.reference(plan)
    rng = random.Random(0)
    toll = Toll()
    while toll.kills < kills:
        run = trainer.folder / "run"
        parts = []
        for _ in range(kills_per_run):
            child = trainer.start(run, plan)
            patience = rng.choice([0, rng.randrange(1 + 2 * plan.recipe.iterations // kills_per_run)])
            heard = [child.hear() for _ in range(patience)]
            time.sleep(rng.random() * (0.05 if heard else 0.4))
            os.killpg(child.pid, signal.SIGKILL)
            ended = child.wait()
            parts.append([said for said in heard if said is not None] + ended.said)
            toll.kills += ended.code == -signal.SIGKILL
        ended = trainer.start(run, plan).wait(300)
        parts.append(ended.said)
        toll.count(parts)
        toll.runs += 1
        toll.different += ended.code != 0 or trainer.result(run) != expected
        shutil.rmtree(run)
    return toll


def test_a_run_killed_four_times_ends_as_if_undisturbed(trainer, row):
    plan = trainer.quick_plan()
    toll = torture(trainer, plan, 4, 4)
    passed = toll.different == toll.lost == 0 and toll.redone <= plan.save_steps
    row("T1", "sample: SIGKILL at random times", str(toll), passed)


@pytest.mark.reliability
def test_two_hundred_kills_change_nothing(trainer, row):
    plan = trainer.plan(iterations=60)
    toll = torture(trainer, plan, 200, 5)
    passed = toll.different == toll.lost == 0 and toll.redone <= plan.save_steps
    row("T1", "SIGKILL at random times", str(toll), passed)
