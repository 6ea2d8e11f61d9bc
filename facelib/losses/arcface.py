"""ArcFace: softmax cross entropy of angles, with a margin added to that of the true identity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facelib.losses.cross_entropy import identity_cross_entropy
from facelib.losses.head import Head, at_least_float32


class ArcFace(Head):
    """Additive angular margin loss, equation (2) of the report, equation (3) of Deng et al. 2019.

    L = -1/N sum_i log( e^{s cos(t_yi + m)} / ( e^{s cos(t_yi + m)} + sum_{j != yi} e^{s cos t_j} ) )

    where t_j is the angle between the embedding x_i and the identity's row W_j, s the scale and m the margin in
    radians. Where t + m > pi, cos(t) - m sin(m) takes the place of cos(t + m), which would rise again
    (facelib.losses.cross_entropy.add_angular_margin). Angles and logits are computed in float32 at least, under
    autocast too: a bf16 cosine resolves only 0.004.

    >>> head = facelib.ArcFace(512, num_classes=10, scale=64.0, margin=0.5)
    >>> head(torch.randn(4, 512), torch.tensor([0, 1, 2, 3])).shape
    torch.Size([])
    """

    def __init__(
        self,
        embedding_size: int,
        num_classes: int,
        scale: float = 64.0,
        margin: float = 0.5,
        sample_rate: float = 1.0,
        seed: int = 0,
    ):
        """With a `sample_rate` below 1 a step's loss sees only this share of the identities: Partial FC (An et al.
        2022), those of the batch and others drawn by `seed` and the step. draw() must be called before each step and
        step(), which is SGD for the rows that were seen, after it.
        """
        super().__init__(embedding_size, num_classes)
        self.scale, self.margin, self.sample_rate, self.seed = scale, margin, sample_rate, seed
        self.drawn: Tensor | None = None  # the numbers of the identities that are seen, of all processes, rising
        if sample_rate < 1:
            self.register_buffer("velocity", torch.zeros_like(self.weight), persistent=False)

    def rows(self) -> dict[str, Tensor]:
        return super().rows() | ({"velocity": self.velocity} if self.sample_rate < 1 else {})

    def draw(self, labels: Tensor, step: int) -> None:
        """Draw the identities that step number `step` sees, all `labels` of its batch among them."""
        # By all processes alike, so that the identities do not depend on their number.
        generator = torch.Generator(labels.device).manual_seed(self.seed + 1_000_003 * step)
        chance = torch.rand(self.num_classes, generator=generator, device=labels.device)
        chance[labels] = 2
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

    def forward(self, embeddings: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
        """As Softmax.forward."""
        weight, first = self.weight, self.first
        if self.drawn is not None:
            weight, first = self.seen, self.begin
            labels = torch.searchsorted(self.drawn, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            x = F.normalize(at_least_float32(embeddings))
            total = total or len(x)
            return identity_cross_entropy(x, weight.to(x.dtype), labels, total, first, self.scale, self.margin)
