"""T5: power loss.  Every acknowledged save survives every crash that a file system may legally leave.

The calls of a saver are recorded; then each moment at which the power may fail is replayed.  Bytes not yet
fsynced may be there, missing, torn or zeros; names not yet fsynced may stop at any of them, in order.
"""

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from residual import records
from residual.train.checkpoint import CheckpointError, Checkpoints


@dataclass
class Recorder:
    """The operations of a saver on one folder, in order."""

    folder: Path
    log: list = field(default_factory=list)  # (operation, arguments)

    @contextmanager
    def watching(self, monkeypatch):
        files: dict[int, object] = {}  # descriptor -> file identity, or None for the folder
        count = 0
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "close", "replace", "unlink")}

        def opened(path, flags, mode=0o777, **named):
            nonlocal count
            descriptor = real["open"](path, flags, mode, **named)
            if Path(path) == self.folder:
                files[descriptor] = None
            elif Path(path).parent == self.folder and flags & os.O_CREAT:
                count += 1
                files[descriptor] = count
                self.log.append(("name", Path(path).name, count))
            return descriptor

        def write(descriptor, data):
            written = real["write"](descriptor, data)
            if descriptor in files:
                self.log.append(("write", files[descriptor], bytes(memoryview(data)[:written])))
            return written

        def fsync(descriptor):
            real["fsync"](descriptor)
            if descriptor in files:
                kept = files[descriptor]
                self.log.append(("sync names",) if kept is None else ("sync", kept))

        def close(descriptor):
            files.pop(descriptor, None)
            real["close"](descriptor)

        def replace(source, target, **named):
            real["replace"](source, target, **named)
            self.log.append(("rename", Path(source).name, Path(target).name))

        def unlink(path, **named):
            real["unlink"](path, **named)
            if Path(path).parent == self.folder:
                self.log.append(("unlink", Path(path).name))

        with monkeypatch.context() as patch:
            for name, instead in zip(real, (opened, write, fsync, close, replace, unlink), strict=True):
                patch.setattr(os, name, instead)
            yield self


def after_a_crash(log):
    """Every state that the folder may be in: ({name: bytes}, last acknowledged step)."""
    seen = set()
    for moment in range(len(log) + 1):
        done = log[:moment]
        acknowledged = max((entry[1] for entry in done if entry[0] == "acknowledged"), default=0)
        synced: dict[int, bytes] = {}
        written: dict[int, bytes] = {}
        changes, durable = [], 0  # names: those before `durable` are on the disk
        for operation, *arguments in done:
            match operation:
                case "write":
                    written[arguments[0]] = written.get(arguments[0], b"") + arguments[1]
                case "sync":
                    synced[arguments[0]] = written.get(arguments[0], b"")
                case "name" | "rename" | "unlink":
                    changes.append((operation, *arguments))
                case "sync names":
                    durable = len(changes)
        for reached in range(durable, len(changes) + 1):
            names: dict[str, int] = {}
            for operation, *arguments in changes[:reached]:
                match operation:
                    case "name":
                        names[arguments[0]] = arguments[1]
                    case "rename":
                        names[arguments[1]] = names.pop(arguments[0])
                    case "unlink":
                        names.pop(arguments[0])
            for loss in ("none", "all", "quarter", "half", "last byte", "zeros", "half, then zeros"):
                state = {name: content(file, synced, written, loss) for name, file in names.items()}
                key = (acknowledged, tuple(sorted(state.items())))
                if key not in seen:
                    seen.add(key)
                    yield state, acknowledged


def content(file, synced, written, loss):
    safe, whole = synced.get(file, b""), written.get(file, b"")
    rest, half = whole[len(safe) :], (len(whole) - len(safe)) // 2
    return (
        safe
        + {
            "none": b"",
            "all": rest,
            "quarter": rest[: half // 2],
            "half": rest[:half],
            "last byte": rest[:-1],
            "zeros": bytes(len(rest)),
            "half, then zeros": rest[:half] + bytes(len(rest) - half),
        }[loss]
    )


def lost(state, acknowledged, folder, some_tensors):
    """Whether recovery from a crash lost an acknowledged save, or believed in a damaged one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in state.items():
        (folder / name).write_bytes(data)
    try:
        newest = Checkpoints(folder, identity="run").newest()
    except CheckpointError:
        return acknowledged > 0
    if newest is None:
        return acknowledged > 0
    expected = some_tensors(newest.step, 2)
    whole = all(torch.equal(newest.tensors[name], value) for name, value in expected.items())
    return newest.step < acknowledged or not whole or newest.state != {"step": newest.step}


def record(plant, folder, some_tensors, monkeypatch, saves):
    """The log of a saver; `plant` spoils it first."""
    recorder = Recorder(folder)
    folder.mkdir()
    with recorder.watching(monkeypatch), monkeypatch.context() as patch:
        saver = plant(patch) if plant else Checkpoints
        checkpoints = saver(folder, identity="run", keep=1 if plant else 2)
        for step in range(1, saves + 1):
            checkpoints.save(step, some_tensors(step, 2), {"step": step}, best=step % 3 == 1)
            if step == saves // 2:
                checkpoints.save(step, some_tensors(step, 2), {"step": step})  # the same step once more
            recorder.log.append(("acknowledged", step))
    return recorder.log


def survey(plant, tmp_path, some_tensors, monkeypatch, saves):
    """How many states a crash may leave, and how many of them lose a save."""
    log = record(plant, tmp_path / "recorded", some_tensors, monkeypatch, saves)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)  # recovery is judged by what it reads: be quick
        judged = [
            lost(state, acknowledged, tmp_path / "after", some_tensors) for state, acknowledged in after_a_crash(log)
        ]
    return len(judged), sum(judged)


def without_file_sync(monkeypatch):
    """A planted bad saver: the tensors are renamed before they are on the disk."""
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 (a link to an open folder)
            real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return Checkpoints


def without_folder_sync(monkeypatch):
    """A planted bad saver: names never reach the disk."""
    monkeypatch.setattr(records, "sync_folder", lambda folder: None)
    return Checkpoints


def removing_first(monkeypatch):
    """A planted bad saver: it makes room before the new checkpoint is safe."""

    class RemovingFirst(Checkpoints):
        def save(self, step, tensors, state, *, best=False):
            for old in self.steps():
                (self.folder / f"step-{old:08}.json").unlink()
            return super().save(step, tensors, state, best=best)

    return RemovingFirst


PLANTED = (without_file_sync, without_folder_sync, removing_first)


def test_power_loss_during_three_saves_loses_nothing(tmp_path, some_tensors, monkeypatch, row):
    states, losses = survey(None, tmp_path, some_tensors, monkeypatch, saves=3)
    row("T5", "sample: power loss during 3 saves", f"{losses} of {states} states lose a save", losses == 0)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bad_saver_is_caught(tmp_path, some_tensors, monkeypatch, row, plant):
    states, losses = survey(plant, tmp_path, some_tensors, monkeypatch, saves=2)
    what = f"planted: {plant.__name__.replace('_', ' ')}"
    row("T5", what, f"caught in {losses} of {states} states", losses > 0)


@pytest.mark.reliability
def test_power_loss_at_any_moment_loses_no_acknowledged_save(tmp_path, some_tensors, monkeypatch, row):
    states, losses = survey(None, tmp_path, some_tensors, monkeypatch, saves=60)
    figures = f"{losses} of {states} states lose a save"
    row("T5", "power loss during 60 saves", figures, losses == 0 and states >= 2000)
