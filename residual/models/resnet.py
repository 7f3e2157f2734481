"""The residual network: one class for every net of the papers, told by one `Description`.

Shapes: N images, C channels, * one to three spatial axes.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from residual.models.blocks import Gate, as_tensor, convolution, make_block, norm, relu
from residual.models.description import PRE_ACTIVATION, Description, units


class ResNet(nn.Module):
    """A deep residual network, or its plain twin (`shortcut="none"`).

    (N, channels, *) -> (N, classes) logits, before the softmax.
    He-initialised; the random numbers come from torch's seed.
    """

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description
        self.stem = Stem(description)
        stages: list[list[nn.Module]] = [[] for _ in description.depths]
        for unit in units(description):
            stages[unit.stage].append(make_block(description, unit))
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        width = description.outputs[-1]
        self.norm = norm(width, dims=description.dims) if description.order == "full" else None
        self.classifier = nn.Linear(width, description.classes)
        initialize(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images)[-1])

    def features(self, images: Tensor) -> list[Tensor]:
        """What every stage hands on, first to last, in one pass: (N, outputs[stage], *) each.

        In a pre-activation net these are the bare sums; `classify` begins with the final activation.
        """
        self._refuse_other_shapes(images)
        forget = self.description.checkpoint and torch.is_grad_enabled()
        x = self.stem(images)
        outputs = []
        for stage in self.stages:
            if forget:
                for block in stage.children():
                    x = recomputed(block, x, draws=self.description.draws)
            else:
                x = stage(x)
            outputs.append(x)
        return outputs

    def classify(self, x: Tensor) -> Tensor:
        """Logits (N, classes) from the last stage's output: final activation if any, average, linear."""
        if self.norm is not None:
            x = relu(self.norm(x))
        elif self.description.order in PRE_ACTIVATION:
            x = torch.relu(x)
        return as_tensor(self.classifier(x.mean(dim=tuple(range(2, x.ndim)))))

    def _refuse_other_shapes(self, images: Tensor) -> None:
        dims, channels = self.description.dims, self.description.channels
        if images.ndim != dims + 2 or images.shape[1] != channels:
            raise ValueError(
                f"images have shape {tuple(images.shape)}, but this network expects (N, {channels}, "
                f"{', '.join(['side'] * dims)}): N images of {channels} channels and {dims} spatial axes; "
                "permute or convert them, or describe the network with other `channels` or `dims`"
            )


class Stem(nn.Module):
    """From pixels to the first stage: 7x7 stride 2 and 3x3 max-pooling for photographs, one 3x3 for CIFAR.

    (N, channels, *) -> (N, stem_width, *); each spatial axis becomes a quarter, rounded up, or stays.  Caffe's
    pooling has no border and lets its last window reach over the edge: the second halving rounds down.
    A pre-activation net's first unit finds its activation done here, before its paths split.
    """

    def __init__(self, description: Description) -> None:
        super().__init__()
        dims, width, large = description.dims, description.stem_width, description.stem == "imagenet"
        kernel, stride = (7, 2) if large else (3, 1)
        self.conv = convolution(description.channels, width, kernel, stride, dims=dims, bias=description.stem_bias)
        self.norm = norm(width, dims=dims)
        pools = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
        over_the_edge = description.stem_pool == "ceil"
        pool = pools[dims](3, stride=2, padding=0 if over_the_edge else 1, ceil_mode=over_the_edge)
        self.pool = pool if large else None

    def forward(self, images: Tensor) -> Tensor:
        x = relu(self.norm(self.conv(images)))
        return x if self.pool is None else as_tensor(self.pool(x))


def initialize(net: nn.Module) -> None:
    """He initialisation (He et al. 2015): normal, fan out as in the authors' later code.

    Biases are 0, a gate's is what its description says; BN is left at the identity.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, Gate) and module.conv.bias is not None:
            nn.init.constant_(module.conv.bias, module.first_bias)


def recomputed(block: nn.Module, x: Tensor, *, draws: bool) -> Tensor:
    """The block's output; its inner activations are forgotten and computed again in the backward pass.

    draws: whether the block draws random numbers, which must then be the same ones.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), spare_statistics(block)

    return as_tensor(checkpoint(block, x, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts))


@contextmanager
def spare_statistics(block: nn.Module) -> Iterator[None]:
    """Run on copies of BN's running statistics, so that the second forward pass leaves no trace in them."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(n.running_mean, n.running_var, n.num_batches_tracked) for n in norms]
    try:
        for n in norms:
            for name, statistic in list(n.named_buffers(recurse=False)):
                setattr(n, name, statistic.clone())
        yield
    finally:
        for n, (mean, variance, batches) in zip(norms, kept, strict=True):
            n.running_mean, n.running_var, n.num_batches_tracked = mean, variance, batches
