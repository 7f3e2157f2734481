"""T9: the position in an epoch.  Wherever a run stops, no image is missed and none comes twice."""

import hashlib
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch


def telling_batches(stop_at):
    """In the child: say the digest of every batch; stop after the step `stop_at`."""

    def prepare(say):
        from residual.pipeline import classification

        batches, fit = classification.training_batches, classification.fit

        def training_batches(*arguments, **named):
            for batch in batches(*arguments, **named):
                digest = hashlib.sha256(batch.images.contiguous().numpy().data)
                digest.update(batch.labels.numpy().data)
                say(["batch", digest.hexdigest()])
                yield batch

        def stopping_fit(*arguments, **named):
            for step in fit(*arguments, **named):
                if step.number == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield step

        classification.training_batches, classification.fit = training_batches, stopping_fit

    return prepare


def batches(ended):
    return [digest for what, digest in ended.said if what == "batch"]


def survey(trainer, plan, stops):
    """At how many of the stops the batches before and after are those of a run without it."""
    run = trainer.folder / "run"
    expected = batches(trainer.start(run, plan, telling_batches(None)).wait(300))
    assert len(expected) == plan.recipe.iterations
    shutil.rmtree(run)
    same = 0
    for stop in stops:
        stopped = trainer.start(run, plan, telling_batches(stop)).wait(300)
        resumed = trainer.start(run, plan, telling_batches(None)).wait(300)
        same += stopped.code == 143 and batches(stopped) + batches(resumed) == expected
        shutil.rmtree(run)
    return same


def test_a_stop_at_the_end_of_an_epoch_changes_no_batch(trainer, row):
    few = trainer.pictures.train.select(torch.arange(40))  # 2 1/2 batches of 16
    trainer.pictures = replace(trainer.pictures, train=few)
    same = survey(trainer, trainer.plan(iterations=6, save_steps=1000, batch=16), (2, 3, 5))
    row("T9", "sample: position in an epoch", f"{same}/3 stops give the same batches", same == 3)


@pytest.mark.reliability
def test_a_stop_at_any_of_forty_steps_changes_no_batch(trainer, row):
    plan = trainer.plan(iterations=44, save_steps=1000)  # epochs end at 21 1/3 and 42 2/3 batches
    same = survey(trainer, plan, range(1, 41))
    row("T9", "position in an epoch", f"{same}/40 stops give the same batches", same == 40)
