"""The loop.  It knows neither images nor boxes, and what happens between two steps is the caller's `for`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from residual.train.average import WeightAverage
from residual.train.precision import Precision

Batch = TypeVar("Batch")

CHECK_EVERY = 50  # iterations between looks at a GPU's loss: each look waits for the device


class NonFinite(ArithmeticError):
    """The loss or a gradient is NaN or infinite; `step` is the iteration (counted from 1) that must not count."""

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

    def tensors(self) -> dict[str, Tensor]:
        """Weights, batch-norm statistics, momentum and weight average, by name.  They alias the live ones."""
        named = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            named |= {
                f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None
            }
        if self.average is not None:
            named |= {f"average.{name}": value for name, value in self.average.model.state_dict().items()}
        return named

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
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        self._refuse_strangers(parts, state)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            index, _, rest = name.partition(".")
            moments.setdefault(int(index), {})[rest] = value
        groups = [
            dict(group, lr=mine["lr"])
            for group, mine in zip(state["groups"], self.optimizer.param_groups, strict=True)
        ]
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        if self.average is not None:
            self.average.model.load_state_dict(parts["average"])
            self.average.updates = state["average_updates"]
        self.step = state["step"]

    def _refuse_strangers(self, parts: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        if state.keys() != self.state().keys():
            raise ValueError(f"the training state lacks or adds {sorted(state.keys() ^ self.state().keys())}")
        expected = {"model": self.model.state_dict(), "average": {}}
        if self.average is not None:
            expected["average"] = self.average.model.state_dict()
        for part, mine in expected.items():
            theirs = parts[part]
            if odd := sorted(mine.keys() ^ theirs.keys()):
                raise ValueError(f"the saved {part} and this one differ by {len(odd)} tensors, first {odd[0]!r}")
            for name, value in mine.items():
                if value.shape != theirs[name].shape:
                    raise ValueError(
                        f"the saved {part} has {name!r} of shape {tuple(theirs[name].shape)}, "
                        f"this one {tuple(value.shape)}"
                    )
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        moments = {f"{index}.momentum_buffer" for index in range(len(parameters))}
        if state["step"] and parts["optimizer"].keys() != moments:
            odd = sorted(parts["optimizer"].keys() ^ moments)
            raise ValueError(f"the saved momentum and this one differ by {len(odd)} tensors, first {odd[0]!r}")
        mine_groups = self.state()["groups"]
        if state["groups"] != mine_groups:
            raise ValueError(f"the optimizer was saved with {state['groups']}, this one has {mine_groups}")


def fit(
    training: Training,
    batches: Iterable[Batch],
    loss_of: Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]],
    rate_at: Callable[[int], float],
    *,
    seed_at: Callable[[int], int],
    precision: Precision,
) -> Iterator[Step]:
    """Train in place and yield after every iteration, as long as there are batches.

    batches: begin at iteration `training.step`.  loss_of: the loss and what else is to be measured.
    rate_at, seed_at: the learning rate and the random seed of an iteration (counted from 0).
    Evaluate, record, save or stop between steps; training mode is set again before each one.

    Raises NonFinite.  On the CPU that is before the iteration changed anything; on a GPU, where looking
    costs a wait, at most CHECK_EVERY iterations later: the caller goes back to a checkpoint in both cases.
    """
    model, optimizer = training.shared, training.optimizer
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    look_always = precision.device.type == "cpu"
    bad = torch.zeros((), dtype=torch.bool, device=precision.device)
    for batch in batches:
        torch.manual_seed(seed_at(training.step))  # dropout and stochastic depth
        rate = rate_at(training.step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss, measures = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        bad |= ~(torch.stack(norms).sum() + loss).isfinite()
        if (look_always or (training.step + 1) % CHECK_EVERY == 0) and bad:
            raise NonFinite(training.step + 1)
        optimizer.step()
        if training.average is not None:
            training.average.update(training.model)
        training.step += 1
        yield Step(training.step, rate, loss, measures)
