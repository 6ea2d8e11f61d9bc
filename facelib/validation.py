"""The measures of a backbone on pairs while it is trained. Nothing is chosen by them."""

import copy
from collections.abc import Callable

import torch

from facelib.embedder import TorchEmbedder, choose_device
from facelib.protocol import Protocol
from facelib.testset import open_test
from facelib.training.config import Config
from facelib.verification import measures, score_pairs


class Validation:
    """A test set (facelib.testset), by the corrected protocol without flip-test.

    Raises ValueError or FileNotFoundError, naming what is wrong or missing.
    """

    def __init__(self, source: str, cache: str, device: str):
        self.device, self.test = device, open_test(source, cache=cache, device=device)
        len(self.test.crops)  # landmarks are found now

    def measure(self, backbone: torch.nn.Module, name: str) -> dict[str, float]:
        """facelib.verification.measures of a backbone, which stays as it is."""
        embedder = TorchEmbedder(name, copy.deepcopy(backbone), self.device)
        scores = score_pairs(embedder, self.test.crops, Protocol())
        return measures(scores, self.test.pairs.genuine, self.test.pairs.fold)


def measures_of(config: Config) -> Callable[[torch.nn.Module, str], dict[str, float]] | None:
    """What facelib.training.train is to do after each epoch of this config, or None. Raises as Validation."""
    if not config.validate:
        return None
    return Validation(config.validate, config.cache, choose_device(config.device)).measure
