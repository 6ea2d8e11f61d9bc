"""What makes an embedding of the last map of a timm backbone, by the word behind the + in a backbone's name.

Without one it is the published network's own end: the map's mean, then a linear layer. All maps here are
(N, channels, height, width) float, all embeddings (N, embedding_size) float, not normalised.
"""

from torch import nn


def bn(channels: int, side: int, embedding_size: int) -> nn.Module:
    """The published end, then a batch norm: what ArcFace calls option D without its dropout."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, embedding_size), nn.BatchNorm1d(embedding_size)
    )


def flat(channels: int, side: int, embedding_size: int) -> nn.Module:
    """BN, the flattened map, a linear layer and BN: ArcFace's option E (Deng et al. 2019, section 3.1), no dropout."""
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.Flatten(),
        nn.Linear(channels * side * side, embedding_size), nn.BatchNorm1d(embedding_size),
    )  # fmt: skip


def gdc(channels: int, side: int, embedding_size: int) -> nn.Module:
    """A global depthwise convolution, a weight for each place of each channel (MobileFaceNet, Chen et al. 2018)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, side, groups=channels, bias=False), nn.BatchNorm2d(channels), nn.Flatten(),
        nn.Linear(channels, embedding_size, bias=False), nn.BatchNorm1d(embedding_size),
    )  # fmt: skip


HEADS = {"bn": bn, "flat": flat, "gdc": gdc}
