"""T10 and T12: decoding processes.  Their number changes nothing, and one that dies or hangs is replaced."""

import os
import random
import shutil
import signal
import time

import pytest
from PIL import Image

CLASSES = 4


@pytest.fixture
def folder(tmp_path):
    """64 pictures of noise in folders of classes, streamed from disk."""
    rng = random.Random(0)
    for split, count in (("train", 64), ("test", 16)):
        for number in range(count):
            path = tmp_path / "pictures" / split / f"class{number % CLASSES}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("RGB", (32, 32), rng.randbytes(32 * 32 * 3)).save(path)
    return tmp_path / "pictures"


def streaming(trainer, *, workers, depth=2, silence=20.0, announce=False):
    """In the child: read the folder with so many processes, so many batches ahead."""

    def prepare(say):
        from dataclasses import replace

        from residual import pipeline
        from residual.data import assemble, images, loader
        from residual.pipeline import classification

        ahead, planned, hire = images.ahead, pipeline.planned, loader.Process
        assemble.MEMORY = 0
        classification.open_dataset = trainer.open_dataset
        pipeline.planned = lambda run: replace(planned(run), workers=workers)
        images.ahead = lambda source, **_: ahead(source, depth=depth)
        loader.Pool.__init__.__kwdefaults__["silence"] = silence

        def telling_hire(**named):
            process = hire(**named)
            say(["worker", process.pid])
            return process

        if announce:
            loader.Process = telling_hire

    return prepare


def plan_of(trainer, folder, iterations):
    return trainer.plan(iterations=iterations, batch=12, data=str(folder), workers=2)


def combinations(trainer, folder, plan, pairs):
    """How many (workers, depth) to resume with give the same end."""
    expected = trainer.reference(plan, streaming(trainer, workers=2))
    same = 0
    for workers, depth in pairs:
        run = trainer.folder / "run"
        child = trainer.start(run, plan, streaming(trainer, workers=2))
        while (said := child.hear()) is not None and said != ["saved", 5]:
            pass
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        ended = trainer.start(run, plan, streaming(trainer, workers=workers, depth=depth)).wait(120)
        same += ended.code == 0 and trainer.result(run) == expected
        shutil.rmtree(run)
    return same


def test_other_workers_give_the_same_weights(trainer, folder, row):
    same = combinations(trainer, folder, plan_of(trainer, folder, 9), [(1, 4)])
    row("T10", "sample: resumed with other workers", f"{same}/1 bit-identical", same == 1)


@pytest.mark.reliability
def test_any_workers_and_any_depth_give_the_same_weights(trainer, folder, row):
    pairs = [(workers, depth) for workers in (0, 1, 2) for depth in (1, 2, 3, 4)]
    same = combinations(trainer, folder, plan_of(trainer, folder, 20), pairs)
    row("T10", "resumed with 0-2 workers, 1-4 batches ahead", f"{same}/12 bit-identical", same == 12)


def wounded(trainer, plan, number, rng):
    """Kill or stop a decoding process while it is needed; seconds until the run ended, and whether well."""
    run = trainer.folder / "run"
    child = trainer.start(run, plan, streaming(trainer, workers=2, silence=3.0, announce=True))
    workers: list[int] = []  # those that decode training images: the last two before the first step
    wanted = 1 + rng.randrange(plan.recipe.iterations // 2)
    stepping = False
    while (said := child.hear()) is not None and said != ["step", wanted]:
        stepping = stepping or said[0] == "step"
        if said[0] == "worker" and not stepping:
            workers = [*workers, said[1]][-2:]
    began = time.monotonic()
    os.kill(rng.choice(workers), number)
    ended = child.wait(120)
    seconds = time.monotonic() - began
    well = ended.code == 0 and trainer.result(run) == trainer.reference(plan, streaming(trainer, workers=2))
    shutil.rmtree(run)
    return seconds, well


def casualties(trainer, plan, signals):
    rng = random.Random(0)
    results = [wounded(trainer, plan, number, rng) for number in signals]
    return sum(well for _, well in results), max(seconds for seconds, _ in results)


def test_a_killed_worker_changes_nothing(trainer, folder, row):
    well, seconds = casualties(trainer, plan_of(trainer, folder, 9), [signal.SIGKILL])
    figures = f"{well}/1 exact, ended in {seconds:.1f} s"
    row("T12", "sample: a worker is killed", figures, well == 1 and seconds <= 30)


@pytest.mark.reliability
def test_killed_and_hanging_workers_change_nothing(trainer, folder, row):
    signals = [signal.SIGKILL, signal.SIGSTOP] * 10
    well, seconds = casualties(trainer, plan_of(trainer, folder, 60), signals)
    figures = f"{well}/20 exact, ended in {seconds:.1f} s at most (hanging counts after 3 s)"
    row("T12", "a worker is killed or hangs", figures, well == 20 and seconds <= 30)
