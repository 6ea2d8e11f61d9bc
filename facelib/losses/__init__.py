"""The losses that train a backbone to tell identities apart, a file each.

A head holds a weight for each identity and maps embeddings and labels to the loss.
"""

from facelib.losses.arcface import ArcFace
from facelib.losses.head import Head
from facelib.losses.softmax import Softmax

__all__ = ["ArcFace", "Head", "Softmax"]
