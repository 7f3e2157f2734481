"""Whole iterations as one CUDA graph: the batch, both passes and the optimizer, launched by a single call.

A batch of 128 images of 32 pixels keeps a large GPU busy for a few microseconds per operation, less than it takes to
launch one.  Captured once and replayed, an iteration costs the host one call, and several networks can train side by
side, each from a thread with a stream of its own.  `fit_resident` is `fit` for batches that are drawn on the device.
On other devices than CUDA the same iteration runs uncaptured, so what is captured is what is tested without a GPU.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from residual.train.loop import CHECK_EVERY, NonFinite, Step, Training
from residual.train.precision import Precision

Batch = TypeVar("Batch")
Drawn = TypeVar("Drawn", covariant=True)
Outcome = tuple[Tensor, dict[str, Tensor]]  # the loss, and what was measured beside it

EAGER = 3  # iterations before the capture: they choose algorithms and allocate what the graph then finds in place
ALONE = threading.Lock()  # for captures, and for drawing first weights: all threads share torch's generator


class Resident(Protocol[Drawn]):
    """A stream whose batches are made on the device: `at(step)` on the host, then `draw()`."""

    def at(self, step: int) -> None:
        """Be ready for iteration `step`, counted from 0."""

    def draw(self) -> Drawn:
        """The next batch, by operations of the device alone."""


class Iteration:
    """A function of the device, run as it is at first and replayed as a graph from then on where there is CUDA.

    What it returns is overwritten by the next call.  It is captured on the caller's stream, or where that is the
    default one, which cannot capture, on a stream of its own.  PyTorch has only 32 streams to give and then gives the
    first again, so whoever trains many networks side by side gives each thread one stream and keeps it.
    """

    def __init__(self, function: Callable[[], Outcome], device: torch.device) -> None:
        self.function, self.device = function, device
        self.stream = _stream(device) if device.type == "cuda" else None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0
        self.outcome: Outcome

    def __call__(self) -> Outcome:
        self.calls += 1
        if self.stream is None:
            return self.function()
        if self.calls <= EAGER:
            around = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(around)
            with torch.cuda.stream(self.stream):  # the stream that captures must have seen the first backward passes
                self.outcome = self.function()
            around.wait_stream(self.stream)
            return self.outcome
        if self.graph is None:
            graph = torch.cuda.CUDAGraph()
            with ALONE, torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.outcome = self.function()
            self.graph = graph
        self.graph.replay()
        return self.outcome


def _stream(device: torch.device) -> torch.cuda.Stream:
    around = torch.cuda.current_stream(device)
    if around != torch.cuda.default_stream(device):
        return around
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def fit_resident(
    training: Training,
    batches: Resident[Batch],
    loss_of: Callable[[nn.Module, Batch], Outcome],
    rate_at: Callable[[int], float],
    *,
    precision: Precision,
    check_every: int | None = None,
) -> Iterator[Step]:
    """Train in place and yield after every iteration, without end: `fit`, for a network that draws no random numbers.

    batches: begin at iteration `training.step`.  The other arguments are those of `fit`.
    The loss and the measures of a Step are overwritten by the next one.  The rate is read from a tensor on the device.

    Raises NonFinite up to `check_every` iterations late, after weights changed: the caller goes back to a checkpoint.
    """
    model, optimizer, device = training.shared, training.optimizer, precision.device
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if check_every is None:
        check_every = 1 if device.type == "cpu" else CHECK_EVERY
    bad = training.bad = torch.zeros((), dtype=torch.bool, device=device)
    rate, told = torch.zeros((), device=device), -1.0
    for group in optimizer.param_groups:
        group["lr"] = rate

    def body() -> Outcome:
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            loss, measures = loss_of(model, batches.draw())
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        bad.logical_or_(~(torch.stack(norms).sum() + loss).isfinite())
        optimizer.step()
        return loss, measures

    iteration = Iteration(body, device)
    while True:
        batches.at(training.step)
        now = rate_at(training.step)
        if now != told:
            rate.fill_(now)
            told = now
        model.train()
        loss, measures = iteration()
        if (training.step + 1) % check_every == 0 and bad:
            raise NonFinite(training.step + 1)
        if training.average is not None:
            training.average.saw(training.model, training.step + 1)
        training.step += 1
        yield Step(training.step, now, loss, measures)
