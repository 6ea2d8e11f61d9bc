"""Softmax cross entropy over identities, in a small buffer of logits, and over several processes.

The straightforward way (normalise, multiply, put the margin in, scale, cross entropy) keeps a copy of the logits
(N, identities) for each of its steps, and one more for each gradient. Here a buffer for ROWS of the batch is filled
with cosines, which become logits, probabilities and at last the gradient in place: loss and gradients come out of one
pass, and nothing of the logits lives on until the backward pass.

Of several processes (torch.distributed) each owns a slice of the identities, as Partial FC (An et al. 2022, section 3):
all embeddings are gathered by each, which computes the logits of its own identities; the rows' largest logits, sums of
exponentials and targets are reduced over the processes. So no process ever holds another one's rows or logits.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from facelib.devices import gather, reduce, share

ROWS = 128  # of the batch whose logits exist at a time


def identity_cross_entropy(
    embeddings: Tensor, weight: Tensor, labels: Tensor, total: int, first: int = 0, scale: float = 1.0,
    margin: float | None = None,
) -> Tensor:  # fmt: skip
    """The mean loss of a batch, a scalar, the same on each process.

    `embeddings` (n, D) float32 or float64 and `labels` (n,) are this process's share (facelib.devices) of a batch of
    `total` images. `weight` (K, D) are the rows of its identities, the numbers from `first` on. Without a `margin` the
    logits are embeddings @ weight.T. With one, in radians, the embeddings must have unit length; the logits are `scale`
    times the cosines to the rows, and the target's angle is enlarged: add_angular_margin.

    Of the gradients the embeddings' is of this process's share, the weight's of its rows; both of the whole batch's
    loss. Each process must call it.
    """
    return IdentityCrossEntropy.apply(embeddings, weight, labels, total, first, scale, margin)


class IdentityCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings, weight, labels, total, first, scale, margin):
        x, labels = gather(embeddings, total), gather(labels, total)
        lengths = None if margin is None else weight.norm(dim=1).clamp_min(torch.finfo(weight.dtype).tiny)
        asked = any(ctx.needs_input_grad[:2])
        by_x, by_weight = (torch.empty_like(x), torch.zeros_like(weight)) if asked else (None, None)
        losses = []
        for start in range(0, total, ROWS):
            part = slice(start, start + ROWS)
            loss, logits = loss_and_gradient(x[part], weight, labels[part], first, scale, margin, lengths)
            losses.append(loss)
            if asked:
                logits /= total
                torch.mm(logits, weight, out=by_x[part])
                by_weight.addmm_(logits.T, x[part])
            del logits  # before the next one
        if asked:
            reduce(by_x)
            if margin is not None:  # what is at a right angle to each row, whose length does not matter, is left
                along = torch.einsum("kd,kd->k", by_weight, weight) / lengths**2
                by_weight.addcmul_(weight, along[:, None], value=-1)
            ctx.save_for_backward(by_x[share(total)], by_weight)
        return torch.cat(losses).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss):
        by_x, by_weight = ctx.saved_tensors
        return by_loss * by_x, by_loss * by_weight, *[None] * 5


def loss_and_gradient(
    x: Tensor, weight: Tensor, labels: Tensor, first: int, scale: float, margin: float | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Of embeddings (n, D) the losses (n,) and each one's gradient by x @ weight.T, (n, K), in one buffer.

    Nothing in it waits for a GPU.
    """
    logits = x @ weight.T
    here = ((labels >= first) & (labels < first + len(weight)))[:, None]  # whether the target is this process's
    column = (labels - first).clamp(0, max(0, len(weight) - 1))[:, None]
    if len(weight) == 0:  # more processes than identities
        logits, column = x.new_full((len(x), 1), -torch.inf), torch.zeros_like(column)
    slope = None
    if margin is not None and len(weight):
        logits /= lengths  # cosines
        own = logits.gather(1, column)
        enlarged, slope = add_angular_margin(own, margin)
        logits.scatter_(1, column, torch.where(here, enlarged, own))
        logits *= scale
    target = torch.where(here, logits.gather(1, column), 0).flatten()
    reduce(target)
    highest = logits.amax(1)
    reduce(highest, dist.ReduceOp.MAX)
    sums = logits.sub_(highest[:, None]).exp_().sum(1)
    reduce(sums)
    losses = sums.log() + highest - target
    if len(weight) == 0:
        return losses, logits[:, :0]
    logits /= sums[:, None]  # probabilities, and the gradient by the logits once the target's is one less
    by_target = logits.gather(1, column) - here.to(logits.dtype)
    if slope is not None:
        by_target *= torch.where(here, slope, 1)
    logits.scatter_(1, column, by_target)
    if margin is not None:
        logits *= scale / lengths
    return losses, logits


def add_angular_margin(cosine: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """cos(t + margin) from cos(t), continued as cos(t) - margin sin(margin) where t + margin > pi; and its slope.

    Where t + m > pi, cos(t + m) would rise again; by the continuation, as in the ArcFace authors' code, the target's
    logit falls monotonically with t over the whole of [0, pi]. The slope d cos(t + m) / d cos(t) = sin(t + m) / sin(t)
    has no finite value at t = 0 and t = pi, so cos(t) is kept one rounding step inside (-1, 1) there.
    """
    limit = 1 - torch.finfo(cosine.dtype).eps
    inside = cosine.clamp(-limit, limit)
    sine = (1 - inside * inside).sqrt()
    shifted = inside * math.cos(margin) - sine * math.sin(margin)
    slope = math.cos(margin) + inside / sine * math.sin(margin)
    slope = torch.where(cosine.abs() <= limit, slope, 0)
    before_pi = cosine > math.cos(math.pi - margin)
    continued = cosine - margin * math.sin(margin)
    return torch.where(before_pi, shifted, continued), torch.where(before_pi, slope, 1)
