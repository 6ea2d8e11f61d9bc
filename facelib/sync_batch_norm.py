"""Batch normalisation by the statistics of all processes' images (torch.nn.SyncBatchNorm), on a CPU too.

So a run of several processes is the run of one: PyTorch's own works on GPUs alone.
"""

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(model: nn.Module, device: str) -> nn.Module:
    """The model with all its batch norms synchronised while they train. On a CPU they are changed in place."""
    if device != "cpu":
        return convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = type(f"Sync{type(module).__name__}", (SyncOnCPU, type(module)), {})
    return model


class SyncOnCPU:
    """What takes the place of a batch norm's forward: algorithm 1 of Ioffe and Szegedy 2015, step by step."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        over = [0, *range(2, x.ndim)]
        shape = [1, -1, *[1] * (x.ndim - 2)]
        values = x if x.dtype == torch.float64 else x.float()
        size = values.new_tensor([x.numel() // x.shape[1]])
        dist.all_reduce(size)
        mean = Summed.apply(values.sum(over)) / size
        off = values - mean.view(shape)
        variance = Summed.apply((off * off).sum(over)) / size
        y = off * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * size / (size - 1), self.momentum)
        y = y.to(x.dtype)
        return self.act(self.drop(y)) if hasattr(self, "act") else y  # timm's BatchNormAct2d


class Summed(torch.autograd.Function):
    """The sum over all processes. Each one's values are part of all sums, so the gradients add up too."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, by_total: Tensor) -> Tensor:
        by_values = by_total.clone()
        dist.all_reduce(by_values)
        return by_values
