"""The iteration that a GPU replays is that of `fit`; what needs a GPU says so."""

from itertools import islice

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from residual.train.graph import fit_resident
from residual.train.loop import NonFinite, Training, fit
from residual.train.optimizer import Sgd, make_optimizer
from residual.train.precision import Precision

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]


class Stream:
    """Batches of random numbers that depend on the iteration alone, made on the device."""

    def __init__(self, device: str, spoiled: int | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        self.all = torch.randn(40, 16, 3, 8, 8, generator=generator).to(device)
        if spoiled is not None:
            self.all[spoiled] = float("nan")
        self.step = torch.zeros((), dtype=torch.int64, device=device)

    def at(self, step: int) -> None:
        self.step.fill_(step)

    def draw(self) -> tuple[Tensor, Tensor]:
        images = self.all.index_select(0, self.step.view(1))[0]
        return images, (images.mean((1, 2, 3)) > 0).long()


def network(device: str) -> Training:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).to(device)
    return Training(model, make_optimizer(model, Sgd()))


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1]), {"wrong": (logits.argmax(1) != batch[1]).sum()}


def rate(step: int) -> float:
    return 0.1 if step < 20 else 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_thirty_iterations_train_as_fit_does(device: str):
    precision, stream = Precision(torch.device(device), bfloat16=False), Stream(device)

    def batches():
        for step in range(30):
            stream.at(step)
            yield stream.draw()

    one, other = network(device), network(device)
    plain = [
        (step.loss.item(), step.rate) for step in fit(one, batches(), loss_of, rate, seed_at=hash, precision=precision)
    ]
    steps = islice(fit_resident(other, Stream(device), loss_of, rate, precision=precision), 30)
    resident = [(step.loss.item(), step.rate) for step in steps]
    assert resident == pytest.approx(plain) if device == "cuda" else resident == plain
    for name, value in one.tensors().items():
        assert torch.allclose(value, other.tensors()[name], rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("device", DEVICES)
def test_bad_numbers_are_seen(device: str):
    precision = Precision(torch.device(device), bfloat16=False)
    steps = fit_resident(network(device), Stream(device, spoiled=9), loss_of, rate, precision=precision, check_every=1)
    with pytest.raises(NonFinite, match="iteration 10 is not finite"):
        list(islice(steps, 20))
