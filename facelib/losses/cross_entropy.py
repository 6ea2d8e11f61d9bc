"""Softmax cross entropy over identities, in a small buffer of logits, and over several processes.

The straightforward way (normalise, multiply, put the margin in, scale, cross entropy) keeps a copy of the logits
(N, identities) for each of its steps, and one more for each gradient. Here a buffer for ROWS of the batch is filled
with cosines, which become logits, probabilities and at last the gradient in place: loss and gradients come out of one
pass, and nothing of the logits lives on until the backward pass.

Of several processes (torch.distributed) each owns a slice of the identities, as Partial FC (An et al. 2022, section 3):
all embeddings are gathered by each, which computes the logits of its own identities; the targets, and the rows' largest
logits and sums of exponentials are reduced over the processes. So no process ever holds another one's rows or logits.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from facelib.devices import gather, reduce, share

ROWS = 128  # of the batch whose logits exist at a time


def identity_cross_entropy(
    embeddings: Tensor, weight: Tensor, labels: Tensor, total: int, first: int = 0, scale: float = 1.0,
    margin: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The mean loss of a batch, a scalar, the same on each process. Each process must call it.

    `embeddings` (n, D) float32 or float64 and `labels` (n,) are this process's share (facelib.devices) of a batch of
    N = `total` images. `weight` (K, D), K >= 1, are the rows of its identities, the numbers from `first` on. Without a
    `margin` the logits are `scale` times embeddings @ weight.T. With one the embeddings must have unit length, and the
    logits are `scale` times the cosines to the rows, in which `margin` replaces the targets' cosines.

    `margin` maps the target cosines (N,) of the whole batch, the same on each process, to what replaces them (N,), each
    by its own cosine and whatever else the margin knows of that image. Autograd differentiates it on these N numbers.

    The embeddings' gradient is of this process's share, the weight's of its rows; both of the whole batch's loss.
    """
    return IdentityCrossEntropy.apply(embeddings, weight, labels, total, first, scale, margin)


class IdentityCrossEntropy(torch.autograd.Function):
    """Nothing in it waits for a GPU."""

    @staticmethod
    def forward(ctx, embeddings, weight, labels, total, first, scale, margin):
        x, labels = gather(embeddings, total), gather(labels, total)  # (N, D), (N,)
        lengths = None if margin is None else weight.norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)  # (K,)
        own = (labels >= first) & (labels < first + len(weight))  # (N,), whether the target's row is this process's
        column = (labels - first).clamp(0, len(weight) - 1)  # (N,), that row where it is

        # The targets are computed before the rest, all together: a margin may look at the whole batch.
        target = (x * weight[column]).sum(1)  # (N,)
        if lengths is not None:
            target /= lengths[column]
        target = torch.where(own, target, 0)
        reduce(target)
        target, slope = (target, None) if margin is None else value_and_slope(margin, target)

        differentiated = any(ctx.needs_input_grad[:2])
        by_x, by_weight = (torch.empty_like(x), torch.zeros_like(weight)) if differentiated else (None, None)
        losses = []
        for start in range(0, total, ROWS):
            part = slice(start, start + ROWS)  # n rows of the batch
            here, rows = own[part, None], column[part, None]
            logits = x[part] @ weight.T  # (n, K)
            if lengths is not None:
                logits /= lengths
            logits.scatter_(1, rows, torch.where(here, target[part, None], logits.gather(1, rows)))
            logits *= scale
            highest = logits.amax(1)
            reduce(highest, dist.ReduceOp.MAX)
            sums = logits.sub_(highest[:, None]).exp_().sum(1)
            reduce(sums)
            losses.append(sums.log() + highest - scale * target[part])  # (n,)
            if differentiated:
                logits /= sums[:, None]  # probabilities, and the gradient by the logits once the target's is one less
                by_target = logits.gather(1, rows) - here.to(logits.dtype)
                if slope is not None:
                    by_target *= torch.where(here, slope[part, None], 1)
                logits.scatter_(1, rows, by_target)
                logits *= scale / total if lengths is None else scale / total / lengths
                torch.mm(logits, weight, out=by_x[part])
                by_weight.addmm_(logits.T, x[part])
            del logits  # before the next one
        if differentiated:
            reduce(by_x)
            if lengths is not None:  # what is at a right angle to each row, whose length does not matter, is left
                along = torch.einsum("kd,kd->k", by_weight, weight) / lengths**2
                by_weight.addcmul_(weight, along[:, None], value=-1)
            ctx.save_for_backward(by_x[share(total)], by_weight)
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss):
        by_x, by_weight = ctx.saved_tensors
        return by_loss * by_x, by_loss * by_weight, *[None] * 5


def value_and_slope(margin: Callable[[Tensor], Tensor], cosine: Tensor) -> tuple[Tensor, Tensor]:
    """What the margin makes of each cosine, and its derivative there, both (N,)."""
    with torch.enable_grad():
        cosine = cosine.detach().requires_grad_()
        enlarged = margin(cosine)
        (slope,) = torch.autograd.grad(enlarged.sum(), cosine)
    return enlarged.detach(), slope
