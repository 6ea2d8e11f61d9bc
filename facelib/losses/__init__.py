"""The losses that train a backbone to tell identities apart, a file with its formula each.

A loss holds a row for each identity (head) and maps embeddings and labels to one number; those with a margin say what
it does to a cosine (margin). cross_entropy computes them in little memory and by several processes. A new loss is a
file like arcface.py and a line in LOSSES.
"""

from facelib.losses.arcface import ArcFace
from facelib.losses.head import Head
from facelib.losses.margin import MarginLoss
from facelib.losses.softmax import Softmax

LOSSES: dict[str, type[Head]] = {"softmax": Softmax, "arcface": ArcFace}  # as training knows them


def create_head(
    name: str, embedding_size: int, num_classes: int, scale: float, margin: float, sample_rate: float, seed: int
) -> Head:
    """The loss of this name. Softmax has neither scale nor margin."""
    kind = LOSSES[name]
    of_margin = {"scale": scale, "margin": margin} if issubclass(kind, MarginLoss) else {}
    return kind(embedding_size, num_classes, sample_rate=sample_rate, seed=seed, **of_margin)
