import pytest
import torch
from torch import nn

from residual.train.precision import Precision, keep_freed_memory, pick_device, pick_precision

CPU = torch.device("cpu")


def test_the_cpu_is_always_there():
    assert pick_device("cpu") == CPU


def test_auto_takes_what_is_fastest(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device().type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device().type == "cuda"


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps", "gpu", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"use --device auto, or one of: cpu$"):
        pick_device(name)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="no device 'cuda:2'"):
        pick_device("cuda:2")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_the_format_asked_for_is_taken(wanted):
    assert pick_precision(wanted, CPU).bfloat16 == (wanted == "bfloat16")


def test_in_bfloat16_the_convolutions_are_short_and_weights_and_gradients_are_not():
    model = nn.Conv2d(3, 4, 3)
    with Precision(CPU, bfloat16=True).autocast():
        out = model(torch.randn(2, 3, 5, 5))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert model.weight.dtype == model.weight.grad.dtype == torch.float32


def test_in_float32_nothing_is_short():
    with Precision(CPU, bfloat16=False).autocast():
        assert nn.Conv2d(3, 4, 3)(torch.randn(2, 3, 5, 5)).dtype == torch.float32


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_placing_changes_the_memory_and_no_value(dims):
    kind = [nn.Conv1d, nn.Conv2d, nn.Conv3d][dims - 1]
    model = nn.Sequential(kind(3, 4, 3), nn.ReLU())
    weights = model[0].weight.detach().clone()
    Precision(CPU, bfloat16=False).place(model)
    assert torch.equal(model[0].weight, weights)
    if dims == 2:
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_freed_memory_may_be_kept_anywhere():
    keep_freed_memory()
    keep_freed_memory()
