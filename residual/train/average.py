"""Averages taken over training: of the weights (EMA), and of the batch-norm statistics (exact, at the end)."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

BATCH_NORMS = nn.modules.batchnorm._BatchNorm  # one, two and three dimensions, and the synchronised one


class WeightAverage:
    """An exponential moving average of a network's parameters and buffers (Polyak; Tarvainen & Valpola 2017).

    The first updates use a shorter memory, (1 + n) / (10 + n), so that the random start is soon forgotten.
    every: iterations between updates; more than one saves time, and `decay` is then for as many.
    """

    def __init__(self, model: nn.Module, decay: float, *, every: int = 1) -> None:
        self.decay, self.every = decay, every
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def saw(self, model: nn.Module, step: int) -> None:
        """Iteration `step` (counted from 1) is done: update where it is due."""
        if step % self.every == 0:
            self.update(model)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`; integer buffers are copied."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])


@torch.no_grad()
def set_exact_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace every batch norm's running mean and variance by the plain average over `batches`.

    Of batches of one size, that is the mean of all images, and the mean of the batches' unbiased variances.

    The released ResNets did this after training instead of keeping moving averages (the authors' release
    notes; "precise BN" elsewhere).  batches: normalised images (B, C, *), large ones, at least one.
    All but batch norm works as in evaluation: nothing is dropped.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    was_training = model.training
    seen = 0
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's way to say "plain average"
        norm.train()
    for images in batches:
        model(images)
        seen += 1
    assert seen, "statistics of no images"
    model.train(was_training)
    for norm, momentum, count in zip(norms, momenta, counts, strict=True):
        norm.momentum = momentum
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.copy_(count)
