"""What the losses with a margin have in common: cosines, a scale, and a margin for the true identity's cosine."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from facelib.devices import gather
from facelib.losses.head import Head, at_least_float32


class MarginLoss(Head):
    """Softmax cross entropy of s cos(t_j), in which with_margin() replaces the cosine of the true identity.

    L = -1/N sum_i log( e^{s f(cos t_yi)} / ( e^{s f(cos t_yi)} + sum_{j != yi} e^{s cos t_j} ) )

    where t_j is the angle between the embedding x_i and the identity's row W_j, s the scale, and f with_margin().
    Angles and logits are computed in float32 at least, under autocast too: a bf16 cosine resolves only 0.004.
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
        """`sample_rate` and `seed` as facelib.losses.Head has them."""
        super().__init__(embedding_size, num_classes, sample_rate, seed)
        self.scale, self.margin = scale, margin

    def with_margin(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """f: the targets' cosines (N,) of a whole batch -> what replaces them (N,), each by its own.

        `norm` (N,) are the embeddings' lengths, through which no gradient flows.
        """
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
        """As Softmax.forward."""
        with torch.autocast(embeddings.device.type, enabled=False):
            x = at_least_float32(embeddings)
            norm = gather(x.detach().norm(dim=1), total or len(x))
            return self.mean_loss(F.normalize(x), labels, total, self.scale, partial(self.with_margin, norm=norm))
