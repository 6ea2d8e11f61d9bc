"""How much light a model needs: the pairs verified under ever less of it, unrepaired and repaired.

One model's study leaves one folder:

    scores.npz         score/<condition>, and genuine, fold and the two images' names of each pair
    metrics.json       the measures of every condition
    parameters.json    model, LFW, pairs, folds, flip, most_stops, repairs, seed
    environment.json   commit, package versions, machine, fingerprints of data and model

A condition is `normal` (the images as they are), `published` (the published transform) or `<stops>/<repair>`.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from facelib import records
from facelib.data.pairs import PairImages
from facelib.devices import choose_device
from facelib.faces.align import SIZE
from facelib.faces.light import REPAIRS, darken, published
from facelib.models.embedder import Embedder
from facelib.models.pretrained import load_embedder
from facelib.verification.measures import measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import pair_scores
from facelib.verification.testset import open_test
from facelib.verification.verify import SCORES, model_fingerprint

BATCH = 64


def study(
    model: str,
    lfw: str,
    output: str,
    pairs: str = "pairs.txt",
    folds: int = 0,
    flip: bool = False,
    most_stops: int = 6,
    repairs: bool = True,
    seed: int = 0,
    cache: str = "build/landmarks",
    device: str = "auto",
) -> dict:
    """Verify a model on a test set under 0, 1, ..., most_stops stops less light, write the folder `output`.

    `folds` keeps the first so many folds of the pairs, 0 all. `repairs` tries every repair of facelib.faces.light under
    each light, else none. The noise is drawn by (seed, stops): every model and repair sees the same darkened images.
    Returns {"stops", "repairs", "images", "pairs", "conditions": {condition: verification.measures}}. Raises
    ValueError or FileNotFoundError, naming what is wrong, before the first image is embedded.
    """
    for name, value in {"most_stops": most_stops, "seed": seed}.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, found {value}")
    device = choose_device(device)
    embedder = load_embedder(model, device)
    test = open_test(lfw, Protocol(pairs=pairs, folds=folds), seed, cache, device)
    dataset, listed = test.crops, test.pairs
    tried = {name: repair for name, repair in REPAIRS.items() if repairs or repair is None}
    stops = list(range(most_stops + 1))
    asked = {"model": str(model), "lfw": str(lfw), "images": test.images.name, "pairs": pairs, "folds": folds}
    asked |= {"flip": flip, "most_stops": most_stops, "repairs": repairs, "seed": seed}
    with records.save_result(output, asked, device, SCORES) as result:
        result.environment |= {"data": test.fingerprint, "model": model_fingerprint(embedder)}
        scores, found = {}, {}
        lit = conditions(aligned_crops(dataset), stops, tried, seed)
        bar = {"desc": f"light for {embedder.name}", "total": 2 + len(stops) * len(tried), "mininterval": 5}
        for name, crops, repair in tqdm(lit, **bar):
            scores[name] = pair_scores(embed(embedder, crops, flip, repair), dataset.first, dataset.second)
            found[name] = measures(scores[name], listed.genuine, listed.fold)
        arrays = {f"score/{name}": values for name, values in scores.items()}
        np.savez_compressed(result.folder / "scores.npz", **arrays | listed.arrays())
        counts = {"images": len(dataset), "pairs": len(listed)}
        result.metrics = {"stops": stops, "repairs": [*tried], **counts, "conditions": found}
    return result.metrics


def aligned_crops(dataset: PairImages) -> Tensor:
    """All crops (N, 3, 112, 112) uint8 of the pairs' images, in memory: LFW's 7701 take 290 MB."""
    crops = torch.empty((len(dataset), 3, SIZE, SIZE), dtype=torch.uint8)
    for i in range(len(dataset)):
        crops[i] = dataset[i][0]
    return crops


def conditions(crops: Tensor, stops: list[int], repairs: dict, seed: int) -> Iterator[tuple]:
    """(name, crops in that light (N, 3, H, W) uint8, repair or None) of each condition."""
    yield "normal", crops, None
    yield "published", published(crops), None
    for k in stops:
        generator = noise_generator(seed, k)
        dark = torch.cat([darken(batch, k, generator) for batch in crops.split(BATCH)])  # in floats one batch at a time
        for name, repair in repairs.items():
            yield f"{k}/{name}", dark, repair


def noise_generator(seed: int, stops: int) -> torch.Generator:
    """A generator on the CPU whose numbers have nothing in common with another seed's or another light's."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, stops]).generate_state(1, np.uint64)[0]))


def embed(embedder: Embedder, crops: Tensor, flip: bool, repair) -> Tensor:
    """Embeddings (N, D) float32 of unit length of crops (N, 3, 112, 112) uint8, repaired first unless it is None."""
    parts = []
    for batch in crops.split(BATCH):
        batch = batch if repair is None else repair(batch)
        embeddings = embedder.embed(batch)
        if flip:
            embeddings = embeddings + embedder.embed(batch.flip(-1))
        parts.append(F.normalize(embeddings))
    return torch.cat(parts)


def table(metrics: dict, measure: str) -> pd.DataFrame:
    """One measure of a study's metrics: a row for each number of stops, a column for each repair."""
    found = metrics["conditions"]
    rows = [[found[f"{k}/{repair}"][measure] for repair in metrics["repairs"]] for k in metrics["stops"]]
    return pd.DataFrame(rows, index=pd.Index(metrics["stops"], name="stops"), columns=metrics["repairs"])
