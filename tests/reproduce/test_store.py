from dataclasses import replace

import pytest

from residual.recipes.detection import voc
from residual.records import write_json
from residual.reproduce.experiment import DetectionSetting
from residual.reproduce.store import Run, Store, iterations, shortened, training_images


@pytest.fixture
def store(tmp_path):
    (tmp_path / "runs").mkdir()
    return Store(tmp_path)


def begin(store: Store, run: Run) -> None:
    store.path(run).mkdir()
    write_json(store.path(run) / "run.json", {"environment": {"cpu": "a core", "gpu": None}})


def test_a_run_is_absent_then_unfinished_then_done(store, setting):
    run = Run(setting=setting(), seed=3)
    assert store.state(run) == "absent"
    assert store.done(run) == 0
    begin(store, run)
    (store.path(run) / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n')
    assert store.state(run) == "unfinished"
    assert store.done(run) == 20
    store.set_finished(run, seconds=2.5)
    assert store.state(run) == "done"
    assert store.done(run) == iterations(run.setting) == 30
    assert store.finish(run).hardware == "a core"


def test_one_training_under_two_names_of_its_network_is_one_run(store, setting):
    deep = replace(setting("resnet20"), changes={"depths": (1, 1, 1)})
    deeper = replace(setting("resnet56"), changes={"depths": (1, 1, 1)})
    assert deep.key == deeper.key
    begin(store, Run(setting=deep, seed=0))
    assert store.path(Run(setting=deeper, seed=0)) == store.path(Run(setting=deep, seed=0))
    assert store.state(Run(setting=deeper, seed=1)) == "absent"


def test_a_folder_that_holds_another_training_is_refused(store, setting):
    run = Run(setting=setting(), seed=0)
    begin(store, run)
    store.set_finished(run, seconds=1)
    moved = Run(setting=setting(), seed=1)
    store.path(run).rename(store.out / "runs" / moved.name)
    with pytest.raises(ValueError, match="move it away"):
        store.state(moved)


def test_what_decides_the_numbers_decides_the_key(setting):
    one = setting()
    others = [
        setting("plain14"),
        setting(iterations=31),
        replace(one, data="shapes"),
        replace(one, size=16),
        replace(one, changes={"shortcut": "C"}),
        replace(one, recipe=replace(one.recipe, batch=32)),
        shortened(one, 10),
    ]
    assert len({one.key, *(other.key for other in others)}) == 8
    assert setting().key == one.key


def test_what_decides_a_detectors_numbers_decides_its_key():
    one = DetectionSetting(model="faster_rcnn_resnet18_c4", recipe=voc(), data="voc07", trunk="resnet18-tiny-imagenet")
    others = [
        replace(one, model="faster_rcnn_resnet34_c4"),
        replace(one, data="voc07+12"),
        replace(one, trunk=None),
        replace(one, member=1),
        replace(one, recipe=replace(voc(), batch=4)),
        shortened(one, 10),
    ]
    assert len({one.key, *(other.key for other in others)}) == 7
    assert replace(one).key == one.key
    assert (iterations(others[-1]), training_images(one)) == (10, 2_501)


def test_images_that_are_held_out_are_not_learned_from(setting):
    held = replace(setting(), recipe=replace(setting().recipe, validation=0.1, iterations=None, epochs=2.0))
    assert training_images(held) == round(1_437 * 0.9)
    assert iterations(held) == round(2 * 1_293 / 64)
