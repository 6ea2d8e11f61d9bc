"""What every loss has: a weight for each identity, shared among processes, of which a step may see a sample."""

import math

import torch
from torch import Tensor, nn

from facelib import devices
from facelib.losses.cross_entropy import identity_cross_entropy


class Head(nn.Module):
    """A row W_j for each identity, of several processes (torch.distributed) each its share. A loss says what it is of
    these rows in forward(), by mean_loss().

    `weight` is (identities of this process, embedding_size), those numbered from `first` on. One seed of PyTorch's
    gives the same rows whatever the number of processes. What a loss remembers from step to step is a buffer, so that
    state_dict() is all of it; `per_identity` names those that have a row for each identity of this process.

    With a `sample_rate` below 1 a step's loss sees only this share of the identities: Partial FC (An et al. 2022),
    those of the batch and others drawn by `seed` and the step. draw() must be called before each step and step(), which
    is SGD for the rows that were seen, after it.
    """

    per_identity = ("weight", "velocity")

    def __init__(self, embedding_size: int, num_classes: int, sample_rate: float = 1.0, seed: int = 0):
        """Raises ValueError if there are more processes than identities."""
        super().__init__()
        if num_classes < devices.count():
            raise ValueError(f"{devices.count()} processes, but {num_classes} identities: start fewer processes")
        self.num_classes, self.sample_rate, self.seed = num_classes, sample_rate, seed
        mine = devices.share(num_classes)
        self.first = mine.start
        rows = torch.empty(num_classes, embedding_size)
        nn.init.normal_(rows, std=0.01)
        self.weight = nn.Parameter(rows[mine].clone())
        if sample_rate < 1:
            self.register_buffer("velocity", torch.zeros_like(self.weight))
        self.drawn: Tensor | None = None  # the numbers of the identities that are seen, of all processes, rising

    def mean_loss(
        self, embeddings: Tensor, labels: Tensor, total: int | None, scale: float = 1.0, margin=None
    ) -> Tensor:
        """identity_cross_entropy over the rows that this step sees. Of mixed precision: in float32 at least."""
        weight, first = self.weight, self.first
        if self.drawn is not None:
            weight, first = self.seen, self.begin
            labels = torch.searchsorted(self.drawn, labels)
        weight = weight.to(embeddings.dtype)
        return identity_cross_entropy(embeddings, weight, labels, total or len(labels), first, scale, margin)

    def draw(self, labels: Tensor, step: int) -> None:
        """Draw the identities that step number `step` sees, all `labels` of its batch among them."""
        # By all processes alike, so that the identities do not depend on their number.
        generator = torch.Generator(labels.device).manual_seed(self.seed + 1_000_003 * step)
        chance = torch.rand(self.num_classes, generator=generator, device=labels.device)
        chance[labels] = 2
        for mine in devices.slices(self.num_classes) if devices.count() > 1 else []:  # no process is left without one
            chance[mine.start + chance[mine].argmax()] = 2
        wanted = max(int((chance == 2).sum()), math.ceil(self.sample_rate * self.num_classes))
        self.drawn = chance.topk(wanted).indices.sort().values
        begin, end = torch.searchsorted(
            self.drawn, torch.tensor([self.first, self.first + len(self.weight)], device=labels.device)
        ).tolist()
        self.begin, self.mine = begin, self.drawn[begin:end] - self.first
        self.seen = self.weight.detach()[self.mine].requires_grad_()

    def step(self, rate: float, momentum: float, weight_decay: float, scale: float = 1.0) -> None:
        """SGD's step of the rows that were seen, whose gradients are `scale` times too large. Others stay."""
        with torch.no_grad():
            gradient = self.seen.grad / scale + weight_decay * self.seen
            velocity = momentum * self.velocity[self.mine] + gradient
            self.velocity[self.mine] = velocity
            self.weight[self.mine] = self.seen - rate * velocity

    def gathered_state(self) -> dict[str, Tensor]:
        """state_dict() with the rows of all processes' identities. Each process must call it."""
        state = self.state_dict()
        for name in state.keys() & {*self.per_identity}:
            state[name] = devices.gather(state[name], self.num_classes)
        return state

    def load_gathered_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of gathered_state(), by any number of processes."""
        mine = devices.share(self.num_classes)
        self.load_state_dict({name: x[mine] if name in self.per_identity else x for name, x in state.items()})


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
