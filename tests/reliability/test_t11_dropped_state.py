"""T11: every item of the state matters.  Without any of them a resumed run is refused or ends differently."""

import hashlib
import os
import shutil
import signal

import pytest
import safetensors.torch
import torch

from residual.train.checkpoint import _seal, _unseal

# name -> which tensors
TENSORS = {
    "a weight": lambda name: name == "model.classifier.weight",
    "weights": lambda name: name.startswith("model.") and name.endswith(("weight", "bias")),
    "running mean": lambda name: name.startswith("model.") and name.endswith("running_mean"),
    "running variance": lambda name: name.startswith("model.") and name.endswith("running_var"),
    "batches seen": lambda name: name.startswith("model.") and name.endswith("num_batches_tracked"),
    "momentum": lambda name: name.startswith("optimizer."),
    "one momentum": lambda name: name == "optimizer.0.momentum_buffer",
    "averaged weights": lambda name: name.startswith("average.") and name.endswith(("weight", "bias")),
    "averaged statistics": lambda name: name.startswith("average.") and "running" in name,
}
STATE = (  # keys on the way to the item
    ("training",),
    ("training", "step"),
    ("training", "groups"),
    ("training", "average_updates"),
    ("pace",),
    ("pace", "iterations"),
    ("pace", "planned_at"),
    ("pace", "progress_then"),
    ("pace", "warming"),
    ("pace", "error"),
    ("pace", "schedule"),
    ("totals",),
    ("best_error",),
    ("seconds",),
)
RESET = {("training", "step"): 0, ("training", "average_updates"): 0, ("totals",): [0.0, 0.0, 0.0]}


def stopped_run(trainer, plan):
    """A run stopped between two of its lines in metrics.jsonl, so that its totals are not empty."""

    def prepare(say):
        from residual.pipeline import classification

        fit = classification.fit

        def stopping_fit(*arguments, **named):
            for step in fit(*arguments, **named):
                if step.number == 5:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield step

        classification.fit = stopping_fit

    run = trainer.folder / "stopped"
    assert trainer.start(run, plan, prepare).wait(300).code == 143
    return run


def change(run, change_tensors=None, change_state=None):
    """Rewrite the newest checkpoint with correct digests and other content; the older ones go."""
    *older, path = sorted((run / "checkpoints").glob("step-*.json"))
    for old in older:
        old.unlink()
    content = _unseal(path.read_bytes())
    data = path.with_name(content["file"])
    tensors = safetensors.torch.load(data.read_bytes())
    if change_tensors:
        tensors = change_tensors(tensors)
        data.write_bytes(safetensors.torch.save(tensors))
        content |= {"bytes": data.stat().st_size, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
        content["axes"] = {name: axes for name, axes in content["axes"].items() if name in tensors}
    if change_state:
        change_state(content["state"])
    path.write_bytes(_seal(content))


def dropping_tensors(chosen):
    return lambda tensors: {name: value for name, value in tensors.items() if not chosen(name)}


def resetting_tensors(chosen):
    return lambda tensors: {name: torch.zeros_like(value) if chosen(name) else value for name, value in tensors.items()}


def editing(keys, edit):
    def change_state(state):
        for key in keys[:-1]:
            state = state[key]
        edit(state, keys[-1])

    return change_state


def dropped(keys):
    return editing(keys, lambda state, key: state.pop(key))


def replaced(keys, value):
    return editing(keys, lambda state, key: state.__setitem__(key, value))


def cases():
    for name, chosen in TENSORS.items():
        yield f"without {name}", {"change_tensors": dropping_tensors(chosen)}
        yield f"{name} zero", {"change_tensors": resetting_tensors(chosen)}
    for keys in STATE:
        yield f"without {'.'.join(keys)}", {"change_state": dropped(keys)}
    for keys, value in RESET.items():
        yield f"{'.'.join(keys)} reset", {"change_state": replaced(keys, value)}


def survey(trainer, plan, chosen):
    """Names of the items without which a run ended as if nothing were lost."""
    expected = trainer.reference(plan)
    stopped = stopped_run(trainer, plan)
    unnoticed = []
    for name, changes in chosen:
        run = trainer.folder / "run"
        shutil.copytree(stopped, run)
        change(run, **changes)
        ended = trainer.start(run, plan).wait(300)
        refused = ended.code in (1, 2)
        if not refused and trainer.result(run) == expected:
            unnoticed.append(name)
        shutil.rmtree(run)
    return unnoticed


def plan_of(trainer):
    return trainer.plan(iterations=14, save_steps=3, batch=12)  # a line in metrics.jsonl every 4 steps


def test_an_unchanged_copy_ends_as_if_undisturbed(trainer):
    """The guard of this row: what is changed below is changed by nothing else."""
    assert survey(trainer, plan_of(trainer), [("nothing", {})]) == ["nothing"]


def test_a_lost_momentum_is_noticed(trainer, row):
    chosen = [case for case in cases() if case[0] in ("without momentum", "without pace.planned_at")]
    unnoticed = survey(trainer, plan_of(trainer), chosen)
    row("T11", "sample: lost items of the state", f"{2 - len(unnoticed)}/2 noticed", not unnoticed)


@pytest.mark.reliability
def test_every_lost_item_of_the_state_is_noticed(trainer, row):
    chosen = list(cases())
    unnoticed = survey(trainer, plan_of(trainer), chosen)
    figures = f"{len(chosen) - len(unnoticed)}/{len(chosen)} noticed {'; '.join(unnoticed)}".strip()
    row("T11", "each item of the state lost or reset", figures, not unnoticed and len(chosen) >= 20)
