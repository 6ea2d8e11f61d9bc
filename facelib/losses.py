"""The two losses of the report: softmax, equation (1), and ArcFace, equation (2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.identity_cross_entropy import identity_cross_entropy
from facelib.processes import share


class Head(nn.Module):
    """What both losses have: a row W_j for each identity, of several processes (torch.distributed) each its share.

    `weight` is (identities of this process, embedding_size), those numbered from `first` on. One seed of PyTorch's
    gives the same rows whatever the number of processes.
    """

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        mine = share(num_classes)
        self.first = mine.start
        rows = torch.empty(num_classes, embedding_size)
        nn.init.normal_(rows, std=0.01)
        self.weight = nn.Parameter(rows[mine].clone())


class Softmax(Head):
    """Softmax cross entropy over identities, equation (1) of the report and of Deng et al. 2019 (bias fixed at 0).

    L = -1/N sum_i log( exp(W_yi . x_i) / sum_j exp(W_j . x_i) )
    """

    def forward(self, embeddings: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
        """embeddings (N, embedding_size) float, labels (N,) int64 in [0, num_classes) -> mean loss, a scalar.

        Of several processes each gives its share of a batch of `total` images.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            x = at_least_float32(embeddings)
            return identity_cross_entropy(x, self.weight.to(x.dtype), labels, total or len(x), self.first)


class ArcFace(Head):
    """Additive angular margin loss, equation (2) of the report, equation (3) of Deng et al. 2019.

    L = -1/N sum_i log( e^{s cos(t_yi + m)} / ( e^{s cos(t_yi + m)} + sum_{j != yi} e^{s cos t_j} ) )

    where t_j is the angle between the embedding x_i and the identity's row W_j, s the scale and m the margin in
    radians. Where t + m > pi, cos(t) - m sin(m) takes the place of cos(t + m), which would rise again
    (facelib.identity_cross_entropy.add_angular_margin). Angles and logits are computed in float32 at least, under
    autocast too: a bf16 cosine resolves only 0.004.
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float = 64.0, margin: float = 0.5):
        super().__init__(embedding_size, num_classes)
        self.scale = scale
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
        """As Softmax.forward."""
        with torch.autocast(embeddings.device.type, enabled=False):
            x = F.normalize(at_least_float32(embeddings))
            weight = self.weight.to(x.dtype)
            return identity_cross_entropy(x, weight, labels, total or len(x), self.first, self.scale, self.margin)


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
