import errno
import json
import os
import signal

import pytest
import safetensors
import torch

from residual.records import CannotWrite
from residual.train.checkpoint import DTYPES, CheckpointError, Checkpoints, _seal, _unseal


def some_tensors(seed=0):
    torch.manual_seed(seed)
    return {"weight": torch.randn(4, 3), "count": torch.tensor(seed), "empty": torch.zeros(0, 2)}


def same(one, other):
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        for a, b in ((one[name], other[name]) for name in one)
    )


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "checkpoints", identity="this run")


def again(checkpoints, **changes):
    return Checkpoints(checkpoints.folder, **{"identity": "this run", **changes})


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def reseal(path, **changes):
    path.write_bytes(_seal({**_unseal(path.read_bytes()), **changes}))


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_is_loaded_is_what_was_saved(checkpoints):
    tensors, state = some_tensors(), {"epoch": 3, "rate": 0.1, "nested": {"a": [1, None]}}
    path = checkpoints.save(7, tensors, state)
    loaded = again(checkpoints).newest()
    assert (loaded.step, loaded.state, loaded.path) == (7, state, path)
    assert same(loaded.tensors, tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_and_memory_order_survives(checkpoints, dtype):
    value = torch.randn(2, 3, 4, 5).mul(3).to(dtype)
    last = value.to(memory_format=torch.channels_last)
    tensors = {"last": last, "slice": value[:, 1], "scalar": value[0, 0, 0, 0]}
    checkpoints.save(1, tensors, {})
    assert same(checkpoints.newest().tensors, tensors)


@pytest.mark.parametrize(
    "shape, memory_format", [((2, 3, 4, 5), torch.channels_last), ((2, 3, 4, 5, 6), torch.channels_last_3d)]
)
def test_a_tensor_comes_back_with_its_order_in_memory(checkpoints, shape, memory_format):
    value = torch.randn(shape).contiguous(memory_format=memory_format)
    checkpoints.save(1, {"weight": value}, {})
    loaded = checkpoints.newest().tensors["weight"]
    assert loaded.stride() == value.stride()
    assert torch.equal(loaded, value)


def test_the_file_is_one_the_safetensors_library_reads(checkpoints):
    tensors = some_tensors()
    checkpoints.save(1, tensors, {})
    with safetensors.safe_open(checkpoints.folder / "step-00000001.safetensors", "pt") as file:
        assert same({name: file.get_tensor(name) for name in file.keys()}, tensors)  # noqa: SIM118


def test_a_folder_that_never_had_a_checkpoint_has_no_newest(checkpoints):
    assert checkpoints.newest() is None
    assert checkpoints.best() is None
    assert checkpoints.notes == []


def test_the_two_newest_and_the_best_are_kept(checkpoints):
    for step in range(1, 7):
        checkpoints.save(step, some_tensors(step), {}, best=step in (1, 2))
    assert checkpoints.steps() == [2, 5, 6]
    assert len(names(checkpoints)) == 6
    assert again(checkpoints).best().step == 2
    assert again(checkpoints).newest().step == 6


def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, some_tensors(step), {})
    damage(checkpoints.folder / "step-00000002.safetensors")
    resumed = again(checkpoints)
    assert resumed.newest().step == 1
    reason = "step-00000002.safetensors is not what was written: its SHA-256 differs"
    assert resumed.notes == [f"checkpoint of step 2 is skipped: {reason}"]


def test_training_on_after_a_fall_back_replaces_the_damaged_one(checkpoints):
    for step in (1, 3):
        checkpoints.save(step, some_tensors(step), {})
    damage(checkpoints.folder / "step-00000003.json")
    resumed = again(checkpoints)
    assert resumed.newest().step == 1
    resumed.save(2, some_tensors(2), {})
    resumed.save(3, some_tensors(4), {})
    assert resumed.steps() == [2, 3]
    assert same(again(checkpoints).newest().tensors, some_tensors(4))
    assert len(names(checkpoints)) == 4


def test_saving_a_step_twice_never_passes_through_a_moment_without_it(checkpoints, monkeypatch):
    checkpoints.save(1, some_tensors(1), {"time": 1})
    for call in ("open", "write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
            with pytest.raises(CannotWrite):
                checkpoints.save(1, some_tensors(2), {"time": 2})
        assert again(checkpoints).newest().state == {"time": 1}
    checkpoints.save(1, some_tensors(2), {"time": 2})
    assert again(checkpoints).newest().state == {"time": 2}
    assert names(checkpoints) == ["step-00000001.2.safetensors", "step-00000001.json"]


def test_all_damaged_is_an_error_with_every_reason(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, some_tensors(step), {})
    damage(checkpoints.folder / "step-00000001.json")
    (checkpoints.folder / "step-00000002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step 2 is skipped.*cannot be read.*step 1.*SHA-256"):
        again(checkpoints).newest()


def test_a_first_save_cut_short_leaves_no_checkpoint(checkpoints):
    checkpoints.save(1, some_tensors(), {}).unlink()
    assert again(checkpoints).newest() is None
    checkpoints.save(1, some_tensors(), {})
    assert again(checkpoints).newest().step == 1


def test_tensors_whose_manifests_are_gone_are_neither_used_nor_removed(checkpoints):
    for path in [checkpoints.save(step, some_tensors(step), {}) for step in (1, 2)]:
        path.unlink()
    with pytest.raises(CheckpointError, match="no manifest"):
        again(checkpoints).newest()
    assert len(names(checkpoints)) == 2


def test_another_run_is_refused(checkpoints):
    checkpoints.save(1, some_tensors(), {})
    with pytest.raises(CheckpointError, match="another run"):
        again(checkpoints, identity="other").newest()


def test_a_newer_format_is_refused(checkpoints):
    path = checkpoints.save(1, some_tensors(), {})
    reseal(path, format=2)
    with pytest.raises(CheckpointError, match="format 2"):
        again(checkpoints).newest()


def test_a_manifest_under_the_name_of_another_step_is_not_believed(checkpoints):
    path = checkpoints.save(1, some_tensors(), {})
    path.rename(path.with_name("step-00000009.json"))
    with pytest.raises(CheckpointError, match="manifest of step 1"):
        again(checkpoints).newest()


def test_a_manifest_that_is_rewritten_by_hand_is_not_believed(checkpoints):
    path = checkpoints.save(1, some_tensors(), {"epoch": 1})
    path.write_text(json.dumps(json.loads(path.read_text())))
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        again(checkpoints).newest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite_are_never_saved(checkpoints, value, dtype):
    tensors = {"weight": torch.zeros(10, 10, dtype=dtype)}
    tensors["weight"][3, 3] = value
    with pytest.raises(CheckpointError, match="weight hold values that are not finite"):
        checkpoints.save(1, tensors, {})
    with pytest.raises(ValueError):
        checkpoints.save(1, {}, {"loss": value})
    assert names(checkpoints) == []


def test_a_step_before_the_newest_is_refused(checkpoints):
    checkpoints.save(5, some_tensors(), {})
    with pytest.raises(CheckpointError, match="later than step 4"):
        checkpoints.save(4, some_tensors(), {})
    assert checkpoints.steps() == [5]


@pytest.mark.parametrize("number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_during_a_save_waits_until_it_is_done(checkpoints, monkeypatch, number, error):
    def stop(received, frame):
        raise SystemExit(128 + received)

    previous = signal.signal(signal.SIGTERM, stop)
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background process begins without
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (signal.raise_signal(number), fsync(descriptor)))
    try:
        with pytest.raises(error):
            checkpoints.save(1, some_tensors(), {})
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, interrupt)
    assert checkpoints.newest().step == 1


def test_a_tensor_that_a_file_cannot_hold_is_refused(checkpoints):
    with pytest.raises(CheckpointError, match="complex64"):
        checkpoints.save(1, {"z": torch.zeros(1, dtype=torch.complex64)}, {})
    assert names(checkpoints) == []


def test_a_start_removes_what_an_interrupted_save_left_and_nothing_else(checkpoints):
    checkpoints.save(1, some_tensors(), {})
    for name in (".step-00000002.safetensors.9.tmp", "step-00000002.safetensors", "notes.txt"):
        (checkpoints.folder / name).write_bytes(b"half")
    again(checkpoints)
    assert names(checkpoints) == ["notes.txt", "step-00000001.json", "step-00000001.safetensors"]


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "no")))
    monkeypatch.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "no")))
    with pytest.raises(CannotWrite, match=r"Read-only file system.*--out"):
        Checkpoints(tmp_path / "checkpoints", identity="this run")


def test_a_checkpoint_that_cannot_be_removed_does_not_fail_the_save(checkpoints, monkeypatch):
    for step in (1, 2):
        checkpoints.save(step, some_tensors(step), {})
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
        checkpoints.save(3, some_tensors(3), {})
    checkpoints.save(4, some_tensors(4), {})
    assert checkpoints.steps() == [3, 4]
    assert len(names(checkpoints)) == 4
