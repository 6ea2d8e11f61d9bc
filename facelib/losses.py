"""The two losses of the report: softmax, equation (1), and ArcFace, equation (2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Softmax(nn.Module):
    """Softmax cross entropy over identities, equation (1) of the report and of Deng et al. 2019 (bias fixed at 0).

    L = -1/N sum_i log( exp(W_yi . x_i) / sum_j exp(W_j . x_i) )

    `weight` is (num_classes, embedding_size): one row W_j an identity.
    """

    def __init__(self, embedding_size: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (N, embedding_size) float, labels (N,) int64 in [0, num_classes) -> mean loss, a scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            return F.cross_entropy(F.linear(embeddings, self.weight.to(embeddings.dtype)), labels)


class ArcFace(nn.Module):
    """Additive angular margin loss, equation (2) of the report, equation (3) of Deng et al. 2019.

    L = -1/N sum_i log( e^{s cos(t_yi + m)} / ( e^{s cos(t_yi + m)} + sum_{j != yi} e^{s cos t_j} ) )

    where t_j is the angle between the embedding x_i and the identity's row W_j, s the scale and m the margin in
    radians. Where t + m > pi, cos(t + m) would rise again; there cos(t) - m sin(m) takes its place, as in the
    ArcFace authors' code, so that the target logit falls monotonically with t over the whole of [0, pi].
    Angles and logits are computed in float32 at least, under autocast too: a bf16 cosine resolves only 0.004.

    `weight` is (num_classes, embedding_size): one row W_j an identity.
    """

    def __init__(self, embedding_size: int, num_classes: int, scale: float = 64.0, margin: float = 0.5):
        super().__init__()
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(num_classes, embedding_size))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (N, embedding_size) float, labels (N,) int64 in [0, num_classes) -> mean loss, a scalar."""
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = at_least_float32(embeddings)
            weight = self.weight.to(embeddings.dtype)
            cosine = F.linear(F.normalize(embeddings), F.normalize(weight))
            rows = labels[:, None]
            target = add_angular_margin(cosine.gather(1, rows), self.margin)
            return F.cross_entropy(self.scale * cosine.scatter(1, rows, target), labels)


def add_angular_margin(cosine: Tensor, margin: float) -> Tensor:
    """cos(t + margin) from cos(t), continued as cos(t) - margin sin(margin) where t + margin > pi.

    The gradient goes through the angle. d cos(t + m) / d cos(t) = sin(t + m) / sin(t) has no finite value at
    t = 0 and t = pi, so cos(t) is kept one rounding step inside (-1, 1) there.
    """
    limit = 1 - torch.finfo(cosine.dtype).eps
    inside = cosine.clamp(-limit, limit)
    sine = (1 - inside * inside).sqrt()
    shifted = inside * math.cos(margin) - sine * math.sin(margin)
    continued = cosine - margin * math.sin(margin)
    return torch.where(cosine > math.cos(math.pi - margin), shifted, continued)


def at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
