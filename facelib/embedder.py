"""Backbones by name, and what embeds faces with a trained one. facelib.pretrained loads those.

A backbone maps (N, 3, 112, 112) float RGB in [-1, 1] to (N, embedding_size) float embeddings, not normalised.
An embedder wraps a trained backbone: it takes aligned uint8 crops and owns their normalisation and colour order.
"""

import difflib
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.embedding_heads import HEADS
from facelib.iresnet import VARIANTS, IResNet
from facelib.model_input import Input

SIZE = 112


def create_model(name: str, embedding_size: int = 512, image_size: int = SIZE) -> nn.Module:
    """An untrained backbone: (N, 3, image_size, image_size) float RGB in [-1, 1] -> (N, embedding_size) float.

    `name` is iresnet18, iresnet34, iresnet50, iresnet100 (ArcFace's improved ResNet), iresnet18_025 (a quarter of its
    width) or any timm model's name, whose classifier is then a linear layer to the embedding, or with +bn, +flat or
    +gdc behind it that of facelib.embedding_heads. Raises ValueError for an unknown name, with near matches, and for a
    timm model that doesn't take images of this size: one is tried.
    """
    if name in VARIANTS:
        return IResNet(*VARIANTS[name], embedding_size, image_size)
    import timm  # here, because it takes seconds to import and the other backbones don't need it

    name, plus, head = str(name).partition("+")
    try:
        if plus and head not in HEADS:
            raise ValueError(f"backbone {name}+{head}: behind the + must be one of {', '.join(HEADS)}")
        if not timm.is_model(name):
            raise RuntimeError
        config = timm.get_pretrained_cfg(name)  # raises RuntimeError for an unknown tag, as in efficientnet_b3.tag
    except RuntimeError:
        known = [*VARIANTS, *timm.list_models(), *timm.list_pretrained()]
        near = difflib.get_close_matches(name.lower(), known, n=5)
        hint = f"Near matches: {', '.join(near)}." if near else f"Choose {', '.join(VARIANTS)} or a name of timm's."
        raise ValueError(f"backbone {name!r} is unknown. {hint}") from None
    # Some models of fixed input size want to know the size, others take any.
    sizes = [{"img_size": image_size}, {}] if config is not None and config.fixed_input_size else [{}]
    for size in sizes:
        try:
            model = timm.create_model(name, num_classes=embedding_size, **size)
            if head:
                model.reset_classifier(0, "")  # its output is the last map now
                with torch.no_grad():
                    _, channels, _, side = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
                model = nn.Sequential(OrderedDict(features=model, head=HEADS[head](channels, side, embedding_size)))
            with torch.no_grad():
                found = model.eval()(torch.zeros(1, 3, image_size, image_size)).shape
            if found == (1, embedding_size):
                return model.train()
            reason = f"its output is {tuple(found)}"
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = first_line(error)
    raise ValueError(f"backbone {name} can't be built for {image_size}x{image_size} images ({reason})")


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def normalise(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [-1, 1], of any shape, in the same layout."""
    if images.device.type != "cpu" or images.numel() == 0:
        return images.float().sub_(127.5).div_(127.5)
    # OpenCV's table of 256 values takes a quarter of the time, and PyTorch's threads, which wait by spinning, would
    # take theirs from the processes that decode.
    side_by_side = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    values = (images.permute(0, 2, 3, 1) if side_by_side else images).contiguous()
    table = (np.arange(256, dtype=np.float32) - 127.5) / 127.5
    found = torch.from_numpy(cv2.LUT(values.numpy().reshape(1, -1), table)).view(values.shape)
    return found.permute(0, 3, 1, 2) if side_by_side else found


def choose_device(device: str) -> str:
    """auto, cpu or cuda -> cpu or cuda. Raises ValueError if there is no CUDA GPU, or for another name."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no CUDA GPU here. Set device to cpu or auto.")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, found {device!r}")
    return device


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

        For facelib.published alone, whose normalisation comes at the wrong time.
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
