"""T8: NaN and infinity.  Caught before they are saved; the last checkpoint is gone back to, once."""

import random
import re
import shutil

import pytest
import safetensors.torch
import torch

from residual.data.batches import Order

POISONS = ("loss nan", "loss inf", "gradient nan", "gradient inf")


def poisoning(plan, step, poison, times):
    """In the child: spoil the loss or a gradient of one iteration, so many times."""

    def prepare(say):
        from residual.pipeline import classification

        original = classification.Classification.loss_of
        left = times

        def loss_of(self, model, batch):
            nonlocal left
            loss, measures = original(self, model, batch)
            if self.training.step == step and left:
                left -= 1
                say(["poisoned", step])
                value = float(poison.split()[1])
                if poison.startswith("loss"):
                    return loss * value, measures
                loss.register_hook(lambda gradient: gradient * value)
            return loss, measures

        classification.Classification.loss_of = loss_of

    return prepare


def non_finite_files(run):
    return sum(
        not all(value.isfinite().all() for value in safetensors.torch.load_file(path).values())
        for path in (run / "checkpoints").glob("*.safetensors")
    )


def transient(trainer, plan, cases):
    """Runs poisoned once: how many end as if undisturbed, and how many files hold bad values."""
    expected = trainer.reference(plan)
    rng = random.Random(0)
    same = bad = 0
    for case in range(cases):
        run = trainer.folder / "run"
        step = rng.randrange(plan.recipe.iterations)
        ended = trainer.start(run, plan, poisoning(plan, step, POISONS[case % 4], 1)).wait(300)
        poisoned = sum(what == "poisoned" for what, _ in ended.said)
        same += ended.code == 0 and poisoned == 1 and trainer.result(run) == expected
        bad += non_finite_files(run)
        shutil.rmtree(run)
    return same, bad


def permanent(trainer, plan, cases, capfd):
    """Runs with one bad batch: how many end with code 4 in at most 3 retries, naming its files; bad files."""
    rng = random.Random(1)
    right = bad = 0
    for case in range(cases):
        run = trainer.folder / "run"
        step = rng.randrange(plan.recipe.iterations)
        capfd.readouterr()
        ended = trainer.start(run, plan, poisoning(plan, step, POISONS[case % 4], 100)).wait(300)
        error = re.sub(r"\s+", " ", capfd.readouterr().err)
        size, train = plan.recipe.batch, trainer.pictures.train
        positions = torch.arange(step * size, (step + 1) * size)
        _, indices = Order(len(train), plan.seed).at(positions)
        named = all(train.names[index] in error for index in indices.tolist())
        tries = sum(what == "poisoned" for what, _ in ended.said)
        right += ended.code == 4 and 2 <= tries <= 4 and named
        bad += non_finite_files(run)
        shutil.rmtree(run)
    return right, bad


def test_one_bad_gradient_leaves_no_trace(trainer, row):
    same, bad = transient(trainer, trainer.quick_plan(), 1)
    row("T8", "sample: NaN once", f"{same}/1 ends as if undisturbed, {bad} bad files", same == 1 and bad == 0)


def test_a_bad_batch_ends_training_and_is_named(trainer, row, capfd):
    right, bad = permanent(trainer, trainer.quick_plan(), 1, capfd)
    row("T8", "sample: a bad batch", f"{right}/1 exits with 4, {bad} bad files", right == 1 and bad == 0)


@pytest.mark.reliability
def test_twenty_bad_gradients_leave_no_trace(trainer, row):
    same, bad = transient(trainer, trainer.plan(), 20)
    figures = f"{same}/20 end as if undisturbed, {bad} bad files"
    row("T8", "NaN or infinity once", figures, same == 20 and bad == 0)


@pytest.mark.reliability
def test_ten_bad_batches_are_named(trainer, row, capfd):
    right, bad = permanent(trainer, trainer.plan(), 10, capfd)
    figures = f"{right}/10 exit with 4 in <= 3 retries, naming the files; {bad} bad files"
    row("T8", "a bad batch", figures, right == 10 and bad == 0)
