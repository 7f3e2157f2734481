import sys

import pytest

from residual.train.tensorboard import TensorBoard


def test_a_machine_without_tensorboard_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'residual\[logging\]'"):
        TensorBoard(tmp_path / "events")


def test_nothing_is_written_before_the_first_measurement(tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    TensorBoard(tmp_path / "events")
    assert not (tmp_path / "events").exists()


def test_every_number_of_a_measurement_is_found_again_at_its_step(tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path / "events")
    board.write({"step": 10, "loss": 2.5, "train_error": 80, "weights": "last", "final": True})
    board.write({"step": 20, "loss": 1.25, "plan": None})
    found = EventAccumulator(str(tmp_path / "events"))  # what is written can be read while the training goes on
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "train_error"}
    assert [(one.step, one.value) for one in found.Scalars("loss")] == [(10, 2.5), (20, 1.25)]
    assert [(one.step, one.value) for one in found.Scalars("train_error")] == [(10, 80.0)]
