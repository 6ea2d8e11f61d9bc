"""What the published report's code does to a test image: the one place where normalisation is not the embedder's.

The low-light transform should come first, x -> 2 sqrt(x) on 8-bit values, and normalisation last. The published code
normalises to [-1, 1] first. The root of a negative number is then not a number, so that every pixel darker than
mid-grey is lost; the cast to 8 bit makes 0 of the rest but for pure white, which becomes 1; doubled, that is what the
network sees in the place of an image.
"""

import torch
from torch import Tensor

from facelib.data.augmentation import normalise
from facelib.models.embedder import Embedder


def low_light_after_normalisation(images: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float32, 0 or 2: 2 where the value is 255, and 0 elsewhere.

    What a cast makes of "not a number" is not defined; here it is 0, as on x86 processors.
    """
    roots = normalise(images).sqrt()
    return 2 * torch.nan_to_num(roots).to(torch.uint8).float()


def embed(embedder: Embedder, images: Tensor) -> Tensor:
    """Embeddings (N, D) float32, not normalised, of crops (N, 3, 112, 112) uint8 in the published order."""
    return embedder.embed_values(low_light_after_normalisation(images))
