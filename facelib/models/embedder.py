"""What embeds faces with a trained backbone: it takes aligned uint8 crops and owns their normalisation and colours.

facelib.models.pretrained loads them.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.faces.align import SIZE
from facelib.models.inputs import Input


class Embedder:
    """A trained model: `embed` takes aligned uint8 RGB crops (N, 3, 112, 112) and returns (N, D) float32 on the CPU."""

    # The activations of 16 images stay in a processor's cache: 1.25 (iresnet50) to 1.6 times (MobileFaceNet) the speed
    # of 64 at a time on an Intel Xeon. A GPU wants more.
    batch_size = 16

    device = "cpu"  # where the values lie that the model is given

    def __init__(self, name: str, device: str = "cpu", takes: Input = Input(), file: Path | None = None):
        """`takes` is what the model wants in the place of the crops, `file` holds its weights."""
        self.name, self.takes, self.file = name, takes, file
        # Where a user may declare the order of colours; None: it is known, as of facelib's own runs.
        self.declaration: str | None = None
        if device == "cuda":
            self.batch_size = 128

    def embed(self, images: Tensor | np.ndarray) -> Tensor:
        """(N, 3, 112, 112) uint8 RGB, aligned, any N -> (N, D) float32, not normalised. Raises ValueError otherwise."""
        if isinstance(images, np.ndarray):
            images = np.ascontiguousarray(images)  # PyTorch takes no negative strides, as a flipped view has
        images = torch.as_tensor(images)
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"images must be (N, 3, {SIZE}, {SIZE}) uint8 RGB, found {found}")
        return torch.cat([self._embed(self.prepare(batch)) for batch in images.split(self.batch_size)])

    def embed_values(self, values: Tensor) -> Tensor:
        """Embeddings (N, D) of numbers (N, 3, 112, 112) that stand where normalised images should: in [-1, 1].

        For facelib.verification.published alone, whose normalisation comes at the wrong time.
        """
        return torch.cat([self._embed(self.rescale(batch)) for batch in values.split(self.batch_size)])

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 RGB -> float32 of the size, the colour order and the scale that the model takes."""
        mean, std = self.scale()
        return self.arrange(images).to(self.device).float().sub_(mean).div_(std)

    def rescale(self, values: Tensor) -> Tensor:
        """float32 RGB normalised to [-1, 1] -> float32 of the size, the colour order and the scale it takes."""
        mean, std = self.scale()
        return self.arrange(values).to(self.device) * (127.5 / std) + (127.5 - mean) / std

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel, (3, 1, 1) float32 in [0, 255]."""
        given = torch.tensor([self.takes.mean, self.takes.std], device=self.device)
        return given[0, :, None, None], given[1, :, None, None]

    def arrange(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) RGB of any numbers -> (N, 3, height, width) of the same in the model's order of colours."""
        if self.takes.colours == "BGR":
            images = images.flip(1)
        if self.takes.size == (SIZE, SIZE):
            return images
        # On uint8 this is Pillow's resize, which timm's own preprocessing uses, to a level or two.
        return F.interpolate(images.cpu(), self.takes.size, mode=self.takes.interpolation, antialias=True)

    def _embed(self, values: Tensor) -> Tensor:
        raise NotImplementedError


class TorchEmbedder(Embedder):
    """A network in PyTorch with trained weights."""

    def __init__(
        self, name: str, model: nn.Module, device: str = "cpu", takes: Input = Input(), file: Path | None = None
    ):
        super().__init__(name, device, takes, file)
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # the faster layout for inference
        self.device = device

    @torch.inference_mode()
    def _embed(self, values: Tensor) -> Tensor:
        return self.model(values.to(self.device, memory_format=torch.channels_last)).float().cpu()
