"""The measures of a backbone on pairs while it is trained. Nothing is chosen by them."""

import copy
from collections.abc import Callable

import torch

from facelib.devices import choose_device
from facelib.models.embedder import TorchEmbedder
from facelib.verification.measures import measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import score_pairs
from facelib.verification.testset import open_test


class Validation:
    """A test set (facelib.verification.testset), by the corrected protocol without flip-test.

    Raises ValueError or FileNotFoundError, naming what is wrong or missing.
    """

    def __init__(self, source: str, cache: str, device: str):
        self.device, self.test = device, open_test(source, cache=cache, device=device)
        len(self.test.crops)  # landmarks are found now

    def measure(self, backbone: torch.nn.Module, name: str) -> dict[str, float]:
        """facelib.verification.measures.measures of a backbone, which stays as it is."""
        embedder = TorchEmbedder(name, copy.deepcopy(backbone), self.device)
        scores = score_pairs(embedder, self.test.crops, Protocol())
        return measures(scores, self.test.pairs.genuine, self.test.pairs.fold)


def measures_of(source: str, cache: str, device: str) -> Callable[[torch.nn.Module, str], dict[str, float]] | None:
    """What training is to do after each epoch: nothing, None, without a source. Raises as Validation."""
    return Validation(source, cache, choose_device(device)).measure if source else None
