"""T4: I/O errors and full disks.  A failed save never harms older checkpoints, and says what to do."""

import ctypes
import errno
import os
import resource
import signal

import pytest
import torch

from residual.records import CannotWrite
from residual.train.checkpoint import Checkpoints

CALLS = ("open", "write", "fsync", "close", "replace")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def unharmed(folder, some_tensors, steps):
    """The newest checkpoint is of one of these steps and whole, nothing is left over, and saving goes on."""
    started = Checkpoints(folder, identity="run")
    newest = started.newest()
    whole = newest.step in steps and equal(newest.tensors, some_tensors(newest.step))
    clean = not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    started.save(9, some_tensors(9), {})
    return whole and clean and equal(started.newest().tensors, some_tensors(9))


def sweep(folder, some_tensors, before_each_call, monkeypatch, errors, tensors):
    """Fail the n-th call of every kind in every way; returns injections, harmed, wrongly told."""
    injections = harmed = untold = 0
    for call in CALLS:
        for error in errors:
            for number in range(1, 1000):
                here = folder / f"{call}-{error}-{number}"
                checkpoints = Checkpoints(here, identity="run")
                checkpoints.save(1, some_tensors(1), {})
                fired = False

                def action(name, count, number=number, error=error):
                    def fail():
                        nonlocal fired
                        fired = True
                        raise OSError(error, os.strerror(error))

                    if count != number:
                        return None
                    return fail if name == "close" else fail()  # the kernel closes even where it complains

                message = None
                with monkeypatch.context() as patch:
                    before_each_call((call,), action, patch)
                    try:
                        checkpoints.save(2, some_tensors(2, tensors), {})
                    except CannotWrite as complaint:
                        message = str(complaint)
                if not fired:
                    break
                injections += 1
                untold += message is None or str(here) not in message or "bytes free" not in message
                newest = Checkpoints(here, identity="run").newest()
                expected = some_tensors(1) if newest.step == 1 else some_tensors(2, tensors)
                harmed += not equal(newest.tensors, expected) or not unharmed_after(here, some_tensors)
    return injections, harmed, untold


def unharmed_after(folder, some_tensors):
    clean = not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    started = Checkpoints(folder, identity="run")
    started.save(9, some_tensors(9), {})
    return clean and equal(started.newest().tensors, some_tensors(9))


def test_the_first_failing_call_of_each_kind_harms_nothing(tmp_path, some_tensors, before_each_call, monkeypatch, row):
    injections, harmed, untold = sweep(
        tmp_path, some_tensors, before_each_call, monkeypatch, (errno.ENOSPC,), tensors=2
    )
    figures = f"{injections} injections: {harmed} harmed, {untold} without path and free bytes"
    row("T4", "sample: every call of a save fails", figures, harmed == untold == 0 and injections >= 15)


@pytest.mark.reliability
def test_no_failing_call_harms_anything(tmp_path, some_tensors, before_each_call, monkeypatch, row):
    injections, harmed, untold = sweep(tmp_path, some_tensors, before_each_call, monkeypatch, ERRORS, tensors=40)
    figures = f"{injections} injections: {harmed} harmed, {untold} without path and free bytes"
    enough = injections >= 150
    row("T4", "every call of a save fails, in three ways", figures, harmed == untold == 0 and enough)


def save_until_it_fails(folder, some_tensors, tensors):
    """Steps acknowledged before a save failed, and its message."""
    checkpoints = Checkpoints(folder, identity="run", keep=3)
    for step in range(1, 100):
        try:
            checkpoints.save(step, some_tensors(step, tensors), {})
        except CannotWrite as complaint:
            return step - 1, str(complaint)
    raise AssertionError("nothing failed")


def test_a_limit_on_file_size_harms_nothing(tmp_path, some_tensors, fork, row):
    def work(say):
        Checkpoints(tmp_path, identity="run").save(1, some_tensors(1), {})
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            Checkpoints(tmp_path, identity="run").save(2, some_tensors(2, 100), {})
        except CannotWrite as complaint:
            return str(complaint)

    ended = fork(work).wait()
    told = bool(ended.said) and "ulimit" in ended.said[0] and str(tmp_path) in ended.said[0]
    whole = unharmed(tmp_path, some_tensors, (1,))
    row("T4", "limit on file size (RLIMIT_FSIZE)", f"told {told}, unharmed {whole}", told and whole)


def mount_small(folder, size):
    """Mount a tmpfs of `size` bytes in a mount namespace of this process alone; False where not allowed."""
    new_mounts, new_users, private = 0x00020000, 0x10000000, 1 << 18 | 1 << 14
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_mounts if os.geteuid() == 0 else new_mounts | new_users):
        return False
    libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None)
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()) == 0


@pytest.mark.parametrize("size", [1 << 16, 1 << 18, 1 << 20])
def test_a_full_disk_harms_nothing(tmp_path, some_tensors, fork, row, size):
    def work(say):
        if not mount_small(tmp_path, size):
            return "not allowed"
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(size // 3))
        folder = tmp_path / "checkpoints"
        acknowledged, message = save_until_it_fails(folder, some_tensors, size // 2000)
        newest = Checkpoints.__new__(Checkpoints)  # a full disk refuses a new start: look without one
        newest.__dict__.update(folder=folder, identity="run", notes=[], _damaged=set())
        found = newest.newest() if acknowledged else None
        whole = found is None or equal(found.tensors, some_tensors(found.step, size // 2000))
        kept = (found.step if found else 0) == acknowledged
        ballast.unlink()
        on = Checkpoints(folder, identity="run", keep=1)
        on.save(50, some_tensors(50), {})
        return [acknowledged, message, whole and kept and on.newest().step == 50]

    ended = fork(work).wait()
    if ended.said == ["not allowed"]:
        row("T4", f"tmpfs of {size // 1024} KiB", "not run: mounting is not allowed here", True)
        pytest.skip("mounting is not allowed here")
    acknowledged, message, unharmed = ended.said[-1]
    told = str(tmp_path) in message and "bytes free" in message and "No space left" in message
    figures = f"full after {acknowledged} saves, told {told}, unharmed {unharmed}"
    row("T4", f"tmpfs of {size // 1024} KiB", figures, told and unharmed)


def full_at(step, stop=False):
    """In the child: the disk is full during the save of one step, which is one that was asked for."""

    def prepare(say):
        from residual.pipeline import classification
        from residual.pipeline import run as run_chapters

        save = run_chapters.Checkpoints.save

        def failing_save(self, number, *arguments, **named):
            if number != step:
                return save(self, number, *arguments, **named)
            fsync = os.fsync

            def fail(descriptor):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            os.fsync = fail
            try:
                return save(self, number, *arguments, **named)
            finally:
                os.fsync = fsync

        run_chapters.Checkpoints.save = failing_save
        if stop:
            fit = classification.fit

            def stopping_fit(*arguments, **named):
                for one in fit(*arguments, **named):
                    if one.number == step:
                        os.kill(os.getpid(), signal.SIGTERM)
                    yield one

            classification.fit = stopping_fit

    return prepare


def test_training_goes_on_where_a_save_on_the_way_fails(trainer, capfd, row):
    plan, run = trainer.quick_plan(), trainer.folder / "run"
    expected = trainer.reference(plan)
    ended = trainer.start(run, plan, full_at(6)).wait()
    out = " ".join(capfd.readouterr().out.split())
    told = "No space left on device" in out and "bytes free" in out and "training goes on" in out
    same = ended.code == 0 and trainer.result(run) == expected and ["saved", 6] not in ended.said
    row("T4", "full disk while training", f"told {told}, ends as if undisturbed {same}", told and same)


def test_a_stop_that_cannot_be_saved_says_so_and_loses_only_the_last_steps(trainer, capfd, row):
    plan, run = trainer.quick_plan(), trainer.folder / "run"
    expected = trainer.reference(plan)
    ended = trainer.start(run, plan, full_at(8, stop=True)).wait()
    error = " ".join(capfd.readouterr().err.split())
    told = ended.code == 1 and "No space left on device" in error and "bytes free" in error
    resumed = trainer.start(run, plan).wait()
    first = next(number for what, number in resumed.said if what == "step")
    same = resumed.code == 0 and first == 7 and trainer.result(run) == expected
    row("T4", "full disk at a stop", f"told {told}, goes on from the save before {same}", told and same)
