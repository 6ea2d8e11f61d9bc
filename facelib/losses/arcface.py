"""ArcFace: softmax cross entropy of angles, with a margin added to that of the true identity."""

import math

import torch
from torch import Tensor

from facelib.losses.margin import MarginLoss


class ArcFace(MarginLoss):
    """Additive angular margin loss, equation (2) of the report, equation (3) of Deng et al. 2019.

    L = -1/N sum_i log( e^{s cos(t_yi + m)} / ( e^{s cos(t_yi + m)} + sum_{j != yi} e^{s cos t_j} ) )

    with the margin m in radians. Where t + m > pi, cos(t + m) would rise again; by its continuation there, cos(t) -
    m sin(m) as in the ArcFace authors' code, the target's logit falls with t over the whole of [0, pi].

    >>> head = facelib.ArcFace(512, num_classes=10, scale=64.0, margin=0.5)
    >>> head(torch.randn(4, 512), torch.tensor([0, 1, 2, 3])).shape
    torch.Size([])
    """

    def with_margin(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """cos(t) -> cos(t + m) = cos(t) cos(m) - sin(t) sin(m)."""
        limit = 1 - torch.finfo(cosine.dtype).eps  # the slope sin(t + m) / sin(t) has no value at t = 0 and t = pi
        inside = cosine.clamp(-limit, limit)
        shifted = inside * math.cos(self.margin) - (1 - inside * inside).sqrt() * math.sin(self.margin)
        continued = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, continued)
