"""The loop.  It knows neither images nor boxes, and what happens between two steps is the caller's `for`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from residual.train.average import WeightAverage
from residual.train.precision import Precision

Batch = TypeVar("Batch")

CHECK_EVERY = 50  # iterations between looks for bad numbers on a GPU: each look waits for the device


class NonFinite(ArithmeticError):
    """The loss or a gradient is NaN or infinite; `step` is the iteration (counted from 1) at which that was seen."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss or a gradient of iteration {step} is not finite")
        self.step = step


@dataclass(frozen=True)
class Step:
    """One iteration done.  Reading `loss` or a measure waits for the device."""

    number: int  # counted from 1
    rate: float
    loss: Tensor  # scalar, detached
    measures: dict[str, Tensor]  # what `loss_of` measured beside it, scalars, detached


class Training:
    """Everything that an iteration changes, and so everything that a checkpoint must hold.

    There is no random state in it: the loop reseeds from (seed, step) before every iteration.
    optimizer: one whose state stands from the beginning (train/optimizer.py).
    shared: the model as several processes train it together (train/distributed.py); alone, the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        average: WeightAverage | None = None,
        *,
        shared: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.shared = model if shared is None else shared
        self.optimizer = optimizer
        self.average = average
        self.step = 0  # iterations done
        self.bad: Tensor | None = None  # whether the loss or a gradient was not finite; on the device

    def is_finite(self) -> bool:
        """Whether every iteration until now had a finite loss and finite gradients.  Waits for the device."""
        return self.bad is None or not bool(self.bad)

    def refuse_non_finite(self) -> None:
        """Raise NonFinite if not `is_finite`."""
        if not self.is_finite():
            raise NonFinite(self.step)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, batch-norm statistics, momentum and weight average, by name.  They alias the live ones."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        if self.average is not None:
            named |= {f"average.{name}": value for name, value in self.average.model.state_dict().items()}
        return named

    def result(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that such a training ends with, of its tensors: the average where there is one."""
        part = "model." if self.average is None else "average."
        return {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}

    def state(self) -> dict[str, Any]:
        """The numbers beside the tensors."""
        groups = [
            {name: value for name, value in group.items() if name != "lr"}  # the schedule sets the rate
            for group in self.optimizer.state_dict()["param_groups"]
        ]
        return {
            "step": self.step,
            "groups": groups,
            "average_updates": None if self.average is None else self.average.updates,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Become what was saved.  Refuses anything missing, added or of another shape before changing anything."""
        mine = self.tensors()
        self._refuse_strangers(mine, tensors, state)
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(tensors[name])
        if self.average is not None:
            self.average.updates = state["average_updates"]
        self.step, self.bad = state["step"], None

    def _refuse_strangers(self, mine: dict[str, Tensor], theirs: dict[str, Tensor], state: dict[str, Any]) -> None:
        now = self.state()
        if state.keys() != now.keys():
            raise ValueError(f"the training state lacks or adds {sorted(state.keys() ^ now.keys())}")
        if (state["average_updates"] is None) != (self.average is None):
            raise ValueError("one of the saved training and this one has an average of the weights, the other has none")
        if odd := sorted(mine.keys() ^ theirs.keys()):
            raise ValueError(f"the saved training and this one differ by {len(odd)} tensors, first {odd[0]!r}")
        for name, value in mine.items():
            if value.shape != theirs[name].shape:
                shapes = f"of shape {tuple(theirs[name].shape)}, this one of {tuple(value.shape)}"
                raise ValueError(f"the saved training has {name!r} {shapes}")
        if state["groups"] != now["groups"]:
            raise ValueError(f"the optimizer was saved with {state['groups']}, this one has {now['groups']}")


def fit(
    training: Training,
    batches: Iterable[Batch],
    loss_of: Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]],
    rate_at: Callable[[int], float],
    *,
    seed_at: Callable[[int], int],
    precision: Precision,
    parts_of: Callable[[Batch], Sequence[Batch]] = lambda batch: [batch],
    clip: float | None = None,
    check_every: int | None = None,
) -> Iterator[Step]:
    """Train in place and yield after every iteration, as long as there are batches.

    batches: begin at iteration `training.step`.  loss_of: the loss and what else is to be measured.
    rate_at, seed_at: the learning rate and the random seed of an iteration (counted from 0).
    Evaluate, record, save or stop between steps; training mode is set again before each one.

    parts_of: a batch in equal parts that go through the network one after another, so that one part has to fit into
        memory; the step is that of the mean of their losses.  Measures are added up.
    clip: all gradients together are shortened to this length where they are longer (Pascanu et al. 2013).
    check_every: iterations between looks for bad numbers; None: 1 on the CPU, CHECK_EVERY on a GPU, where each
        look waits for the device.

    Raises NonFinite.  With a look at every iteration that is before a weight has changed (batch norm's moving
    averages have); otherwise up to `check_every` iterations late.  The caller goes back to a checkpoint.
    """
    model, optimizer = training.shared, training.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if check_every is None:
        check_every = 1 if precision.device.type == "cpu" else CHECK_EVERY
    bad = training.bad = torch.zeros((), dtype=torch.bool, device=precision.device)
    for batch in batches:
        torch.manual_seed(seed_at(training.step))  # dropout and stochastic depth
        rate = rate_at(training.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss, measures = _gradients(model, parts_of(batch), loss_of, precision)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        bad |= ~(norms.sum() + loss).isfinite()
        if (training.step + 1) % check_every == 0 and bad:
            raise NonFinite(training.step + 1)
        if clip is not None:
            torch._foreach_mul_(gradients, (clip / torch.linalg.vector_norm(norms)).clamp(max=1.0))
        optimizer.step()
        if training.average is not None:
            training.average.saw(training.model, training.step + 1)
        training.step += 1
        yield Step(training.step, rate, loss, measures)


def _gradients(
    model: nn.Module,
    parts: Sequence[Batch],
    loss_of: Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]],
    precision: Precision,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradients of the mean loss of `parts`, in the parameters; that loss, and what was measured in all of them."""
    whole: tuple[Tensor, dict[str, Tensor]] | None = None
    for number, part in enumerate(parts, start=1):
        with _unshared(model) if number < len(parts) else nullcontext():
            with precision.autocast():
                loss, measures = loss_of(model, part)
            loss = loss / len(parts) if len(parts) > 1 else loss
            loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if whole is not None:
            loss = whole[0] + loss
            measures = {name: whole[1][name] + value for name, value in measures.items()}
        whole = loss, measures
    assert whole is not None, "a batch of no parts"
    return whole


def _unshared(model: nn.Module) -> AbstractContextManager[None]:
    """Where gradients stay in this process: they are exchanged once, with the last part."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
