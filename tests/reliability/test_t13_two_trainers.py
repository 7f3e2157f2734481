"""T13: two trainers, one folder.  The second is refused; a killed one does not keep the folder locked."""

import os
import signal

import pytest

from residual.records import AlreadyRunning, RunFolder


def race(folder, fork):
    """Two processes want the folder; the holder, with a forked worker, is killed.  Whether all went well."""
    RunFolder.create(folder, {})
    ready, go = os.pipe()

    def work(say):
        os.close(go)
        os.read(ready, 1)  # both start when the pipe is closed
        try:
            with RunFolder.open(folder).lock():
                worker = os.fork()
                if worker == 0:
                    say(["holds", os.getpid()])
                    signal.pause()
                signal.pause()
        except AlreadyRunning as refusal:
            say(["refused", str(refusal)])

    children = {child.pid: child for child in (fork(work), fork(work))}
    os.close(ready)
    os.close(go)
    holder = refused = worker = None
    for pid, child in children.items():
        said = child.hear()
        if said[0] == "holds":
            holder, worker = pid, said[1]
        else:
            refused = said[1]
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    try:
        with RunFolder.open(folder).lock():
            free = True
    except AlreadyRunning:
        free = False
    os.kill(worker, signal.SIGKILL)
    return refused is not None and f"process {holder}" in refused and free


def survey(tmp_path, fork, races):
    return sum(race(tmp_path / str(number), fork) for number in range(races))


def test_the_second_of_two_trainers_is_refused(tmp_path, fork, row):
    good = survey(tmp_path, fork, 3)
    row("T13", "sample: two trainers, one folder", f"{good}/3 races", good == 3)


@pytest.mark.reliability
def test_twenty_races_for_one_folder(tmp_path, fork, row):
    good = survey(tmp_path, fork, 20)
    row("T13", "two trainers, one folder, holder killed", f"{good}/20 races", good == 20)


def trained_race(trainer, plan, run):
    """Two `train` commands on one new folder at once; whether one ends well and the other is refused."""
    ready, go = os.pipe()

    def prepare(say):
        os.close(go)
        os.read(ready, 1)

    children = [trainer.start(run, plan, prepare) for _ in range(2)]
    os.close(ready)
    os.close(go)
    codes = sorted(child.wait(300).code for child in children)
    return codes == [0, 2] and trainer.result(run) == trainer.reference(plan)


def test_of_two_train_commands_one_trains(trainer, row):
    good = trained_race(trainer, trainer.quick_plan(), trainer.folder / "run")
    row("T13", "sample: two train commands at once", f"{int(good)}/1 races", good)


@pytest.mark.reliability
def test_twenty_races_of_two_train_commands(trainer, row):
    plan = trainer.quick_plan()
    good = sum(trained_race(trainer, plan, trainer.folder / f"run{number}") for number in range(20))
    row("T13", "two train commands at once", f"{good}/20 races", good == 20)
