"""The improved ResNet of ArcFace (Deng et al. 2019, section 3.2.1): the backbone called ResNet-50 in the report.

It differs from the ImageNet ResNet (He et al. 2016) in three ways. The stem is a 3x3 convolution of stride 1
without pooling, so a 112x112 crop keeps its resolution until the first stage. A block is BN-Conv-BN-PReLU-Conv-BN
with the stride in its second convolution (Han et al. 2017). The head is BN-FC-BN: ArcFace's
option E, whose dropout the released models set to 0.
Module names are those of the checkpoints that insightface releases, so that they load with `strict=True`.
"""

import math

import torch
from torch import Tensor, nn

# Blocks in each of the four stages, and the channels of the stem and the first stage, doubled from stage to stage.
VARIANTS = {
    "iresnet18": ((2, 2, 2, 2), 64),
    "iresnet34": ((3, 4, 6, 3), 64),
    "iresnet50": ((3, 4, 14, 3), 64),
    "iresnet100": ((3, 13, 30, 3), 64),
    "iresnet18_025": ((2, 2, 2, 2), 16),  # a quarter of the width: no published model, for two cores and no GPU
}
EPS = 1e-5


class Block(nn.Module):
    """Residual block (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels, eps=EPS)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels, eps=EPS)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels, eps=EPS),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """(N, 3, image_size, image_size) float RGB in [-1, 1] -> (N, embedding_size) float, not normalised."""

    def __init__(
        self, blocks: tuple[int, int, int, int], width: int = 64, embedding_size: int = 512, image_size: int = 112
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps=EPS)
        self.prelu = nn.PReLU(width)
        in_channels = width
        for stage, count in enumerate(blocks):
            channels = width * 2**stage
            layer = [Block(in_channels, channels, stride=2), *(Block(channels, channels, 1) for _ in range(count - 1))]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
            in_channels = channels
        self.bn2 = nn.BatchNorm2d(in_channels, eps=EPS)
        side = math.ceil(image_size / 16)  # four stages halve it, rounding up
        self.fc = nn.Linear(in_channels * side * side, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size, eps=EPS)
        # The scale of the last BN and ArcFace's own scale s would be one degree of freedom too many.
        nn.init.constant_(self.features.weight, 1.0)
        self.features.weight.requires_grad = False
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))
