"""What a user of the explore notebook asks about one model: its errors at a threshold, its identities, a pair's light.

Every image is embedded once. A threshold is then a comparison of numbers, a light the embedding of two crops.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.decomposition
import sklearn.manifold
import torch
from torch import Tensor

from facelib.data.layout import hidden
from facelib.data.pairs import PairImages, Pairs
from facelib.devices import choose_device
from facelib.faces import light
from facelib.models import MODELS, NOT_EMBEDDERS
from facelib.models.embedder import Embedder
from facelib.models.pretrained import load_embedder
from facelib.studies.low_light import noise_generator
from facelib.training.machine import FILES
from facelib.verification.measures import best_threshold, protocol_measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import embed_images, light_of, pair_scores
from facelib.verification.testset import open_test

COMPONENTS = 50  # to which scikit-learn's manual advises to reduce embeddings before t-SNE
PERPLEXITY = 30  # neighbours that count in t-SNE: its authors' choice (van der Maaten and Hinton 2008)


class Unusable(ValueError):
    """What the user gave can't be explored. A notebook shows the message alone, not where it was raised."""

    def _render_traceback_(self) -> list[str]:  # what IPython asks for instead of a traceback
        return [str(self)]


@dataclass(frozen=True)
class Scored:
    """One model's embeddings and scores of the P pairs of a protocol, which have N distinct crops."""

    embedder: Embedder
    protocol: Protocol
    pairs: Pairs
    dataset: PairImages  # the N crops that the model saw; for light low, before the light was changed
    embeddings: Tensor  # (N, D) float32 of unit length
    score: np.ndarray  # (P,) float64, cosine
    measures: dict[str, float]  # facelib.verification.verify's, by the protocol's threshold rule
    threshold: float  # of highest accuracy on all these pairs

    def names(self, pair: int) -> tuple[str, str]:
        """The two images' names, `<identity>/<identity>_<nnnn>`."""
        return self.pairs.first[pair], self.pairs.second[pair]

    def crops(self, pair: int) -> Tensor:
        """The pair's two crops (2, 3, 112, 112) uint8 RGB."""
        return torch.stack([self.dataset[i][0] for i in (self.dataset.first[pair], self.dataset.second[pair])])


def find_models(build: str | Path, weights: Iterable[str | Path]) -> list[str]:
    """Paths of the finished runs in `build`, whatever their profile, then of the released models in the `weights`."""
    runs = sorted(path for path in Path(build).glob("*/train/*") if all((path / name).exists() for name in FILES))
    released = [path for folder in dict.fromkeys(map(Path, weights)) for path in sorted(folder.glob("*"))]
    released = [path for path in released if path.suffix.lower() in MODELS and not hidden(path.name)]
    return [str(path) for path in [*runs, *(path for path in released if not path.name.startswith(NOT_EMBEDDERS))]]


def score_model(
    model: str,
    lfw: str,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    cache: str = "build/landmarks",
    device: str = "auto",
) -> Scored:
    """The same scores as facelib.verify's, with the embeddings that they come from; nothing is written.

    Raises Unusable, saying what is wrong or missing and which parameters it comes from.
    """
    try:
        protocol.check()
        device = choose_device(device)
        embedder = load_embedder(model, device)
        test = open_test(lfw, protocol, seed, cache, device)
        dataset, pairs = test.crops, test.pairs
        embeddings = embed_images(embedder, dataset, protocol.flip, **light_of(protocol))
        score = pair_scores(embeddings, dataset.first, dataset.second)
        measures = protocol_measures(score, pairs, protocol)
    except (OSError, ValueError) as error:
        raise Unusable(f"{error}\nThe parameters were model={str(model)!r}, lfw={str(lfw)!r}, {protocol}.") from error
    threshold = best_threshold(score, pairs.genuine)
    return Scored(embedder, protocol, pairs, dataset, embeddings, score, measures, threshold)


def error_rates(score: np.ndarray, genuine: np.ndarray, threshold: float) -> dict[str, float]:
    """FAR and FRR, the shares of impostor pairs accepted and of genuine ones rejected, and accuracy, of all pairs."""
    accepted = score >= threshold
    rates = {"FAR": accepted[~genuine].mean(), "FRR": (~accepted[genuine]).mean()}
    return {name: float(rate) for name, rate in (rates | {"accuracy": (accepted == genuine).mean()}).items()}


def wrong_pairs(score: np.ndarray, genuine: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all false accepts and of all false rejects, each with the furthest from the threshold first."""
    rising = np.argsort(score, kind="stable")
    accepted = score[rising] >= threshold
    return rising[accepted & ~genuine[rising]][::-1], rising[~accepted & genuine[rising]]


def typical_pair(score: np.ndarray, genuine: np.ndarray) -> int:
    """Index of the genuine pair whose score is the median of the genuine ones', the lower of two."""
    rising = np.argsort(score, kind="stable")
    rising = rising[genuine[rising]]
    return int(rising[(len(rising) - 1) // 2])


def pair_in_light(scored: Scored, pair: int, stops: int, seed: int) -> tuple[Tensor, float]:
    """The pair's crops (2, 3, 112, 112) uint8 with `stops` stops less light, and their score in that light.

    A sensor's noise is there at 0 stops too: facelib.faces.light.darken. The protocol's own light and flip-test follow.
    """
    dark = light.darken(scored.crops(pair), stops, noise_generator(seed, stops))
    with contextlib.redirect_stderr(io.StringIO()):  # two images need no progress bar
        embeddings = embed_images(
            scored.embedder, [(crop, 0) for crop in dark], scored.protocol.flip, **light_of(scored.protocol)
        )
    return dark, float(pair_scores(embeddings, np.array([0]), np.array([1]))[0])


def largest_identities(images: list[str], count: int) -> list[str]:
    """The `count` identities with the most of the images `<identity>/<file>`; of equals the first by name."""
    sizes = Counter(image.split("/")[0] for image in images)
    return sorted(sizes, key=lambda identity: (-sizes[identity], identity))[:count]


def identity_map(scored: Scored, count: int, seed: int) -> tuple[pd.DataFrame, float]:
    """The largest identities' crops on a plane, with columns x, y and identity, and their same_neighbours().

    t-SNE after PCA: a few hundred dimensions in which every identity has its own direction don't fit into PCA's two,
    which would lay identities over each other that the model tells apart. t-SNE keeps who is near whom, and that is
    what a threshold decides about. Its distances across the plane, and the sizes of its clouds, mean nothing.
    """
    identity = np.array([image.split("/")[0] for image in scored.dataset.images])
    chosen = [np.flatnonzero(identity == name) for name in largest_identities(scored.dataset.images, count)]
    chosen = np.concatenate(chosen)
    embeddings = scored.embeddings[chosen].numpy()
    frame = pd.DataFrame(plane(embeddings, seed), columns=["x", "y"])
    return frame.assign(identity=identity[chosen]), same_neighbours(embeddings, identity[chosen])


def plane(embeddings: np.ndarray, seed: int) -> np.ndarray:
    """Coordinates (N, 2) of N > 1 embeddings (N, D) by PCA to COMPONENTS and t-SNE."""
    reduced = sklearn.decomposition.PCA(min(COMPONENTS, *embeddings.shape), random_state=seed).fit_transform(embeddings)
    perplexity = min(PERPLEXITY, (len(embeddings) - 1) / 3)  # of few images not all are neighbours
    return sklearn.manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced)


def same_neighbours(embeddings: np.ndarray, identity: np.ndarray) -> float:
    """Share of the embeddings (N, D), of unit length, whose nearest other one by cosine is of the same identity."""
    cosine = embeddings @ embeddings.T
    np.fill_diagonal(cosine, -np.inf)
    return float((identity[cosine.argmax(1)] == identity).mean())
