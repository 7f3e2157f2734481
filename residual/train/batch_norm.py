"""Over which images batch norm takes its statistics, whatever the number of processes."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from residual.train.average import BATCH_NORMS
from residual.train.distributed import World, share_of


def set_batch_norms(model: nn.Module, group: int | None, images: int, world: World) -> nn.Module:
    """Let the batch norms in `model` take their statistics over `group` images, whatever the number of processes.

    group: None for all images of an iteration.  images: those that one process passes through the network at once.
    Refuses groups that are larger than that.
    """
    if group is None:
        return sync_batch_norms(model) if world.size > 1 else model
    if images % group:
        raise ValueError(
            f"batch norm over {group} images needs a multiple of them at a time, and each of {world.size} processes "
            f"passes {images} through the network at once: start another number of processes, or change the recipe's "
            "batch, accumulate or batch_norm_group"
        )
    return group_batch_norms(model, images // group)


class _Gathered(torch.autograd.Function):
    """One row from each process: (F,) -> (processes, F)."""

    @staticmethod
    def forward(context: Any, row: Tensor) -> Tensor:
        rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, row.contiguous())
        return torch.stack(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes, on any device (`torch.nn.SyncBatchNorm` needs a GPU)."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> the same shape, normalised by the statistics of all processes' (B, *)."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        channels = x.shape[1]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        here = wide.new_full((1,), x.numel() // channels)
        rows = _Gathered.apply(torch.cat([*torch.var_mean(wide, axes, correction=0), here]))
        variances, means, counts = rows.split([channels, channels, 1], dim=1)
        count = counts.sum()
        # of deviations, not of squares: the difference of two large numbers would leave little
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean, weight)
            self.running_var.lerp_(variance * count / (count - 1), weight)
        shape = [1, channels] + [1] * (x.ndim - 2)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul((self.bias - mean * scale).view(shape), wide, scale.view(shape)).to(x.dtype)


class GroupedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over groups of the images in a batch ("ghost" batch norm, Hoffer et al. 2017).

    What several devices do that do not synchronise, on one: the groups are their shares of the batch, and the moving
    averages follow the first.
    """

    groups: int

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *) -> the same shape; each of the groups, as `share_of` makes them, by its own statistics."""
        if not self.training or self.groups == 1:
            return super().forward(x)
        first, *others = (share_of(x, number, self.groups) for number in range(self.groups))
        weight, bias = self.weight, self.bias
        done = [super().forward(first)]
        done += [functional.batch_norm(each, None, None, weight, bias, training=True, eps=self.eps) for each in others]
        half = len(first) // 2
        return torch.cat([group[:half] for group in done] + [group[half:] for group in reversed(done)])


def sync_batch_norms(model: nn.Module) -> nn.Module:
    """Let every batch norm in `model` see the images of all processes.  Names and parameters stay."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.__class__ = SyncedBatchNorm  # the same parameters and buffers, another forward
    return model


def group_batch_norms(model: nn.Module, groups: int) -> nn.Module:
    """Let every batch norm in `model` take each of so many groups of a batch on its own.  Names and parameters stay."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            module.__class__ = GroupedBatchNorm
            module.groups = groups  # type: ignore[assignment]
    return model
