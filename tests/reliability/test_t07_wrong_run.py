"""T7: nothing usable, or another run's.  Refused with a reason; never started silently from step 0."""

import ctypes
import os
import re
import shutil
from dataclasses import replace

import pytest

from residual.records import read_json, write_json
from residual.train.checkpoint import _seal, _unseal


def change_plan(run, **changes):
    description = read_json(run / "run.json", dict)
    for key, value in changes.items():
        place = description["plan"]
        *way, last = key.split("__")
        for step in way:
            place = place[step]
        assert last in place
        place[last] = value
    write_json(run / "run.json", description)


def other_depth(run, trainer):
    change_plan(run, model="resnet14")


def other_rate(run, trainer):
    change_plan(run, recipe__schedule__rate=0.1)


def other_seed(run, trainer):
    change_plan(run, seed=1)


def other_batch(run, trainer):
    change_plan(run, recipe__batch=16)


def other_images(run, trainer):
    train = trainer.pictures.train
    pixels = train.pixels.clone()
    pixels[0, 0, 0, 0] ^= 1
    trainer.pictures = replace(trainer.pictures, train=replace(train, pixels=pixels))


def other_labels(run, trainer):
    train = trainer.pictures.train
    trainer.pictures = replace(trainer.pictures, train=replace(train, labels=train.labels.roll(1)))


def newer_format(run, trainer):
    for path in (run / "checkpoints").glob("*.json"):
        path.write_bytes(_seal({**_unseal(path.read_bytes()), "format": 2}))


def all_rotten(run, trainer):
    for path in (run / "checkpoints").glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


def all_cut_short(run, trainer):
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:100])


def no_manifests(run, trainer):
    for path in (run / "checkpoints").glob("*.json"):
        path.unlink()


def no_tensors(run, trainer):
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.unlink()


def empty_folder(run, trainer):
    for path in (run / "checkpoints").iterdir():
        path.unlink()


def read_only(run, trainer):
    """As root, permissions do not count: a read-only mount of the process alone."""

    def prepare(say):
        if os.geteuid() != 0:
            (run / "checkpoints").chmod(0o555)
            return
        libc = ctypes.CDLL(None, use_errno=True)
        new_mounts, private, bind = 0x00020000, 1 << 18 | 1 << 14, 4096
        read_only_again = bind | 32 | 1
        place = os.fsencode(run / "checkpoints")
        failed = libc.unshare(new_mounts) or libc.mount(b"none", b"/", None, ctypes.c_ulong(private), None)
        failed = failed or libc.mount(place, place, None, ctypes.c_ulong(bind), None)
        failed = failed or libc.mount(place, place, None, ctypes.c_ulong(read_only_again), None)
        if failed:
            say(["not allowed", 0])
            os._exit(0)

    return prepare


CASES = {
    other_depth: "another run",
    other_rate: "another run",
    other_seed: "another run",
    other_batch: "another run",
    other_images: "train images",
    other_labels: "train images",
    newer_format: "format 2",
    all_rotten: "SHA-256",
    all_cut_short: "damaged",
    no_manifests: "no manifest",
    no_tensors: "cannot be read",
    empty_folder: "checkpoint",
    read_only: "Read-only",
}


def survey(trainer, capfd, chosen):
    """Names of the cases that were not refused with exit code 2 and their reason, before the first step."""
    plan = trainer.quick_plan()
    whole = trainer.folder / "whole"
    assert trainer.start(whole, plan).wait(300).code == 0
    pictures = trainer.pictures
    accepted = []
    for spoil in chosen:
        run = trainer.folder / "run"
        shutil.copytree(whole, run)
        trainer.pictures = pictures
        prepare = spoil(run, trainer)
        capfd.readouterr()
        ended = trainer.start(run, plan, prepare).wait(300)
        error = re.sub(r"\s+", " ", capfd.readouterr().err)
        if ended.said == [["not allowed", 0]]:
            continue
        if ended.code != 2 or CASES[spoil] not in error or any(what == "step" for what, _ in ended.said):
            accepted.append(f"{spoil.__name__} (exit code {ended.code}: {error[:200]})")
        shutil.rmtree(run)
    return accepted


def judge(row, what, chosen, accepted):
    figures = f"{len(chosen) - len(accepted)}/{len(chosen)} refused with the reason {'; '.join(accepted)}"
    row("T7", what, figures.strip(), not accepted)


def test_another_run_and_ruined_checkpoints_are_refused(trainer, capfd, row):
    chosen = [other_rate, other_images, all_rotten, empty_folder]
    judge(row, "sample: wrong or ruined checkpoints", chosen, survey(trainer, capfd, chosen))


@pytest.mark.reliability
def test_whatever_is_wrong_with_the_checkpoints_is_refused(trainer, capfd, row):
    judge(row, "wrong or ruined checkpoints", CASES, survey(trainer, capfd, list(CASES)))
