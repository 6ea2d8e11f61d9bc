"""Softmax cross-entropy over the identities: the loss without a margin."""

import torch
from torch import Tensor

from facelib.losses.head import Head, at_least_float32


class Softmax(Head):
    """Softmax cross entropy over identities, equation (1) of the report and of Deng et al. 2019 (bias fixed at 0).

    L = -1/N sum_i log( exp(W_yi . x_i) / sum_j exp(W_j . x_i) )

    An embedding of zeros is as near to each of n identities, so that the loss is log n:

    >>> loss = facelib.Softmax(512, num_classes=10)(torch.zeros(4, 512), torch.arange(4))
    >>> round(loss.exp().item(), 3)
    10.0
    """

    def forward(self, embeddings: Tensor, labels: Tensor, total: int | None = None) -> Tensor:
        """embeddings (N, embedding_size) float, labels (N,) int64 in [0, num_classes) -> mean loss, a scalar.

        Of several processes each gives its share of a batch of `total` images.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.mean_loss(at_least_float32(embeddings), labels, total)
