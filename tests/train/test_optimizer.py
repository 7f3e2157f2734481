import pytest
import torch
from torch import nn

from residual.train.optimizer import Lamb, Sgd, make_optimizer


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def test_the_paper_decays_everything():
    model = network()
    (group,) = make_optimizer(model, Sgd()).param_groups
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 1e-4, False)
    assert group["params"] == list(model.parameters())


def test_scales_shifts_and_biases_can_be_spared():
    model = network()
    decayed, spared = make_optimizer(model, Sgd(decay=5e-4, decay_all=False)).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (5e-4, 0)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1]
    assert len(decayed["params"] + spared["params"]) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out():
    model = network()
    model[0].requires_grad_(False)
    assert len(make_optimizer(model, Sgd()).param_groups[0]["params"]) == 4


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_is_the_formula(nesterov):
    """v <- m v + g + decay w;  w <- w - rate v, or with Nesterov's look ahead w <- w - rate (g + decay w + m v)."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False)
    w, v = model.weight.detach().double().clone(), torch.zeros(2, 3, dtype=torch.float64)
    optimizer = make_optimizer(model, Sgd(momentum=0.8, decay=0.01, nesterov=nesterov))
    for step in range(6):
        rate = 0.1 / (step + 1)
        gradient = torch.randn(2, 3)
        model.weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        g = gradient.double() + 0.01 * w
        v = 0.8 * v + g
        w = w - rate * (g + 0.8 * v if nesterov else v)
        torch.testing.assert_close(model.weight.detach().double(), w, rtol=1e-6, atol=1e-6)  # float32 beside float64


def test_weights_in_channels_last_memory_take_the_same_steps():
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, 3)
    last = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    last.load_state_dict(plain.state_dict())
    optimizers = [make_optimizer(model, Sgd()) for model in (plain, last)]
    for _ in range(5):
        images = torch.randn(4, 8, 6, 6)
        for model, optimizer in zip((plain, last), optimizers, strict=True):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.param_groups[0]["lr"] = 1e-3
            optimizer.step()
    torch.testing.assert_close(plain.weight, last.weight.contiguous(), rtol=1e-5, atol=1e-6)


def test_a_parameter_may_get_its_first_gradient_later():
    model = network()
    optimizer = make_optimizer(model, Sgd(decay=0.0))
    optimizer.param_groups[0]["lr"] = 1.0
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for reached in (2, 6):
        for number, parameter in enumerate(model.parameters()):
            parameter.grad = torch.ones_like(parameter) if number < reached else None
        optimizer.step()
    moved = [float((old - new.detach()).mean()) for old, new in zip(before, model.parameters(), strict=True)]
    assert moved == pytest.approx([1 + 1.9] * 2 + [1] * 4, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"momentum": 0.0, "nesterov": True}, {"decay": -1e-4}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sgd(**wrong)


# --- LAMB ---


def steps(optimizer: torch.optim.Optimizer, model: nn.Module, count: int = 8) -> None:
    """Steps along gradients that depend on the step alone, at falling rates."""
    generator = torch.Generator().manual_seed(1)
    for step in range(count):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / (1 + step)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step)
        optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_a_step_of_lamb_is_the_formula(decay):
    torch.manual_seed(0)
    model = nn.Linear(3, 2, bias=False).double()
    w = model.weight.detach().clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    optimizer = make_optimizer(model, Lamb(mean=0.8, square=0.95, epsilon=1e-4, decay=decay))
    steps(optimizer, model)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, 9):
        g = torch.randn(2, 3, generator=generator).double() / t
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
        u = (m / (1 - 0.8**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-4) + decay * w
        ratio = w.norm() / u.norm() if decay else 1.0  # without decay a step of Adam
        w = w - 0.1 / t * ratio * u
    torch.testing.assert_close(model.weight.detach(), w, rtol=1e-6, atol=1e-7)  # the powers are float32


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_lamb_takes_timm_s_steps(decay):
    timm = pytest.importorskip("timm.optim.lamb")
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in theirs.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    steps(make_optimizer(ours, Lamb(decay=decay)), ours)
    steps(timm.Lamb(groups, lr=0.1, eps=1e-6, max_grad_norm=None), theirs)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # of float32, after 8 steps of up to 0.1


def test_lamb_s_step_is_as_long_as_the_weights_whatever_the_gradient_s_scale():
    torch.manual_seed(0)
    moved = []
    for scale in (1e-3, 1.0, 1e3):
        model = nn.Linear(3, 2, bias=False)
        nn.init.constant_(model.weight, 2.0)
        optimizer = make_optimizer(model, Lamb(epsilon=1e-12, decay=1e-9))
        model.weight.grad = scale * torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        moved.append(float((model.weight.detach() - 2.0).norm()))
    assert moved == pytest.approx([0.1 * 2 * 6**0.5] * 3, rel=1e-4)


def test_lamb_spares_scales_shifts_and_biases_and_keeps_what_got_no_gradient():
    model = network()
    optimizer = make_optimizer(model, Lamb(decay=0.02))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert changed == [True] + [False] * 5


@pytest.mark.parametrize("wrong", [{"mean": 1.0}, {"square": -0.1}, {"decay": 1.0}, {"epsilon": 0.0}])
def test_settings_of_lamb_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Lamb(**wrong)
