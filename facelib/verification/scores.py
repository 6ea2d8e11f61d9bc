"""Scores: the cosine of a pair's two embeddings, in [-1, 1]."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from facelib.data.bin import BinImages
from facelib.data.loader import Loader
from facelib.data.pairs import PairImages
from facelib.faces import light
from facelib.models.embedder import Embedder
from facelib.verification import published
from facelib.verification.protocol import Protocol


def embed_images(
    embedder: Embedder, dataset: PairImages | BinImages, flip: bool = False, transform=None, embed=Embedder.embed
) -> Tensor:
    """Embeddings (N, D) float32 of unit length, each distinct image embedded once.

    `flip` adds the mirrored image's embedding before normalising (the flip-test). `transform` maps the uint8 crops
    (N, 3, 112, 112) to what the model sees, still uint8, before the embedder normalises them. `embed` is how the
    embedder is used: facelib.verification.published has another.
    """
    parts = []
    for images, _ in tqdm(Loader(dataset, 64), desc=f"embed with {embedder.name}", mininterval=5):
        images = images if transform is None else transform(images)
        embeddings = embed(embedder, images)
        if flip:
            embeddings = embeddings + embed(embedder, images.flip(-1))
        parts.append(F.normalize(embeddings))
    return torch.cat(parts)


def pair_scores(embeddings: Tensor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine (P,) float64 of the pairs of unit-length embeddings (N, D) with indices first and second (P,)."""
    embeddings = embeddings.numpy()
    parts = [slice(start, start + 512) for start in range(0, len(first), 512)]  # a part stays in a processor's cache
    products = [np.einsum("pd,pd->p", embeddings[first[p]], embeddings[second[p]], dtype=np.float64) for p in parts]
    return np.concatenate(products)


def light_of(protocol: Protocol) -> dict:
    """embed_images' arguments for the protocol's light and order."""
    if protocol.light == "low" and protocol.normalise == "first":
        return {"embed": published.embed}
    return {"transform": light.published if protocol.light == "low" else None}


def score_pairs(embedder: Embedder, dataset: PairImages | BinImages, protocol: Protocol) -> np.ndarray:
    """Cosines (P,) float64 of the data set's pairs by the protocol, whose crops it has."""
    embeddings = embed_images(embedder, dataset, protocol.flip, **light_of(protocol))
    return pair_scores(embeddings, dataset.first, dataset.second)
