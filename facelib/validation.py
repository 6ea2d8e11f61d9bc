"""The measures of a backbone on pairs while it is trained. Nothing is chosen by them."""

import copy
from pathlib import Path

import torch

from facelib.embedder import TorchEmbedder
from facelib.protocol import Protocol
from facelib.verification import find_crops, find_pairs, measures, score_pairs, stored_pairs


class Validation:
    """The pairs of an LFW folder or of a verification set `<name>.bin`, by the corrected protocol without flip-test.

    Raises ValueError or FileNotFoundError, naming what is wrong or missing.
    """

    def __init__(self, source: str, cache: str, device: str):
        self.device, protocol = device, Protocol()
        if Path(source).suffix == ".bin":
            self.crops = stored_pairs(source, protocol)
            self.pairs = self.crops.pairs
        else:
            images, self.pairs = find_pairs(source)
            self.crops = find_crops(images, self.pairs, protocol, 0, cache, device)

    def measure(self, backbone: torch.nn.Module, name: str) -> dict[str, float]:
        """facelib.verification.measures of a backbone, which stays as it is."""
        embedder = TorchEmbedder(name, copy.deepcopy(backbone), self.device)
        scores = score_pairs(embedder, self.crops, Protocol())
        return measures(scores, self.pairs.genuine, self.pairs.fold)
