"""T2: SIGKILL at every system call of a save.  The newest or the previous checkpoint loads, always."""

import collections
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from residual.train.checkpoint import Checkpoints

CALLS = ("open", "write", "fsync", "close", "replace", "unlink", "mkdir")


@pytest.fixture
def saved(tmp_path, some_tensors):
    """A folder with two checkpoints, and a third to be saved; `verdict` judges what a kill left."""

    class Saved:
        def __init__(self):
            self.count = 0

        def fresh(self):
            pristine = tmp_path / "pristine"
            if self.count == 0:
                for step in (1, 2):
                    checkpoints = Checkpoints(pristine, identity="run")
                    checkpoints.save(step, some_tensors(step), {"step": step}, best=step == 1)
            self.count += 1
            return Path(shutil.copytree(pristine, tmp_path / str(self.count)))

        def save_third(self, folder):
            Checkpoints(folder, identity="run").save(3, some_tensors(3), {"step": 3}, best=True)

        def verdict(self, folder, acknowledged):
            newest = Checkpoints(folder, identity="run").newest()
            expected = some_tensors(newest.step)
            whole = newest.tensors.keys() == expected.keys() and all(
                torch.equal(newest.tensors[name], value) for name, value in expected.items()
            )
            clean = not [path for path in folder.iterdir() if path.suffix == ".tmp"]
            shutil.rmtree(folder)
            return whole and clean and newest.step in ((3,) if acknowledged else (2, 3))

    return Saved()


def test_a_kill_at_every_call_of_a_save_leaves_a_checkpoint(saved, fork, before_each_call, monkeypatch, row):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill loses nothing written: be quick
    points = good = 0
    for before in (True, False):
        for number in range(1, 1000):
            folder = saved.fresh()

            def work(say, folder=folder, number=number, before=before):
                def kill():
                    os.kill(os.getpid(), signal.SIGKILL)

                def action(name, count):
                    if count != number:
                        return None
                    return kill() if before else kill

                before_each_call(CALLS, action)
                saved.save_third(folder)
                say("acknowledged")

            ended = fork(work).wait()
            if ended.code == 0:
                assert saved.verdict(folder, acknowledged=True)
                break
            assert ended.code == -signal.SIGKILL
            points += 1
            good += saved.verdict(folder, acknowledged=bool(ended.said))
    row("T2", "SIGKILL around every call of a save", f"{good}/{points} points load", good == points >= 60)


def can_trace():
    if not shutil.which("strace"):
        return False
    probe = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=fsync:signal=KILL:when=9", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def traced(saved, fork, folder, options):
    """Save the third checkpoint in a forked process under strace; returns how it ended."""
    go_read, go = os.pipe()

    def work(say):
        os.close(go)
        os.read(go_read, 1)
        saved.save_third(folder)
        say("acknowledged")

    child = fork(work)
    os.close(go_read)
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-p", str(child.pid), *options], stderr=subprocess.PIPE)
    status = Path(f"/proc/{child.pid}/status")
    until = time.monotonic() + 10
    while "TracerPid:\t0\n" in status.read_text() and time.monotonic() < until:
        time.sleep(0.002)
    os.write(go, b"x")
    os.close(go)
    ended = child.wait()
    tracer.communicate(timeout=10)
    return ended


def system_calls(saved, fork, tmp_path):
    """How often each system call happens in a save."""
    log = tmp_path / "calls"
    assert traced(saved, fork, saved.fresh(), ["-o", str(log)]).code == 0
    words = (line.split(maxsplit=1)[1] for line in log.read_text().splitlines())
    calls = collections.Counter(word.partition("(")[0] for word in words if "(" in word and word[0].isalpha())
    calls.pop("exit_group", None)
    return calls


@pytest.mark.reliability
def test_a_kill_at_every_system_call_of_a_save_leaves_a_checkpoint(saved, fork, tmp_path, row):
    if not can_trace():
        row("T2", "SIGKILL at every system call (strace)", "not run: strace absent or not allowed", True)
        pytest.skip("strace is absent or not allowed here")
    points = good = 0
    calls = system_calls(saved, fork, tmp_path)
    for call in calls:
        for number in range(1, 1000):
            folder = saved.fresh()
            kill = ["-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={number}"]
            ended = traced(saved, fork, folder, kill)
            ok = saved.verdict(folder, acknowledged=bool(ended.said))
            if ended.code == 0:
                assert ok
                break
            points += 1
            good += ok
    figures = f"{good}/{points} points load ({len(calls)} system calls)"
    row("T2", "SIGKILL at every system call (strace)", figures, good == points >= 60)
