"""T6: bit rot and truncation.  Damage is found before use, and the checkpoint before is taken."""

import os
import random
import shutil
import signal

import pytest
import torch

from residual.train.checkpoint import Checkpoints


def files(folder, place):
    """Manifest and tensors of the newest (-1) or the one before (-2)."""
    manifest = sorted(folder.glob("step-*.json"))[place]
    return manifest, manifest.with_suffix(".safetensors")


def flip(folder, rng):
    path = rng.choice(files(folder, -1))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(folder, rng):
    path = rng.choice(files(folder, -1))
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def zero(folder, rng):
    path = rng.choice(files(folder, -1))
    data = bytearray(path.read_bytes())
    begin = rng.choice([0, rng.randrange(len(data) // 2)])
    data[begin:] = bytes(len(data) - begin)
    path.write_bytes(data)


def swap(folder, rng):
    (new_manifest, new), (old_manifest, old) = files(folder, -1), files(folder, -2)
    match rng.randrange(3):
        case 0:
            new.write_bytes(old.read_bytes())
        case 1:
            new_manifest.write_bytes(old_manifest.read_bytes())
        case 2:
            data = bytearray(new.read_bytes())
            third = len(data) // 3
            data[:third], data[-third:] = data[-third:], data[:third]
            new.write_bytes(data)


def survey(tmp_path, some_tensors, flips, truncations, zeros, swaps):
    """Cases, and how many were told and left behind for the checkpoint before."""
    pristine = tmp_path / "pristine"
    for step in (1, 2):
        Checkpoints(pristine, identity="run").save(step, some_tensors(step), {"step": step})
    expected = some_tensors(1)
    rng = random.Random(0)
    detected = 0
    plan = [(flip, flips), (truncate, truncations), (zero, zeros), (swap, swaps)]
    cases = [spoil for spoil, count in plan for _ in range(count)]
    for spoil in cases:
        folder = tmp_path / "spoilt"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pristine, folder)
        spoil(folder, rng)
        checkpoints = Checkpoints(folder, identity="run")
        found = checkpoints.newest()
        same = all(torch.equal(found.tensors[name], value) for name, value in expected.items())
        told = len(checkpoints.notes) == 1 and "step 2 is skipped" in checkpoints.notes[0]
        detected += found.step == 1 and found.state == {"step": 1} and same and told
    return len(cases), detected


def test_damage_of_each_kind_is_detected(tmp_path, some_tensors, row):
    cases, detected = survey(tmp_path, some_tensors, 40, 40, 5, 5)
    row("T6", "sample: bit rot, truncation, zeros, swaps", f"{detected}/{cases} detected", detected == cases)


@pytest.mark.reliability
def test_640_damaged_checkpoints_are_detected(tmp_path, some_tensors, row):
    cases, detected = survey(tmp_path, some_tensors, 300, 300, 20, 20)
    figures = f"{detected}/{cases} detected, continued from the one before"
    row("T6", "bit rot, truncation, zeros, swaps", figures, detected == cases == 640)


@pytest.mark.reliability
def test_twenty_runs_with_a_damaged_checkpoint_end_as_if_undisturbed(trainer, capfd, row):
    plan = trainer.plan(iterations=20)
    expected = trainer.reference(plan)
    stopped = trainer.folder / "stopped"
    child = trainer.start(stopped, plan)
    while child.hear() != ["saved", 10]:
        pass
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    rng = random.Random(0)
    same = 0
    for case in range(20):
        run = trainer.folder / "run"
        shutil.copytree(stopped, run)
        (flip, truncate, zero, swap)[case % 4](run / "checkpoints", rng)
        capfd.readouterr()
        ended = trainer.start(run, plan).wait(300)
        told = "is skipped" in capfd.readouterr().out
        first = next(number for what, number in ended.said if what == "step")
        same += ended.code == 0 and told and first == 6 and trainer.result(run) == expected
        shutil.rmtree(run)
    row("T6", "runs on from the checkpoint before", f"{same}/20 end as if undisturbed", same == 20)
