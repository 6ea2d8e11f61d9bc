"""What a face detector is worth: the same pairs of LFW verified with each detector's alignment.

One model's study leaves one folder:

    scores.npz         score/<detector>, and genuine, fold and the two images' names of each pair
    metrics.json       for each detector the images, those in which it found a face, images/s, and the measures
    parameters.json    model, LFW, pairs, folds, flip
    environment.json   commit, package versions, machine, fingerprints of data and model
"""

import statistics
import time
from pathlib import Path

import numpy as np

from facelib import records
from facelib.data.landmarks import BATCH, find_landmarks, fingerprint
from facelib.data.pairs import PairImages
from facelib.devices import choose_device
from facelib.faces.detectors import DETECTORS, create_detector
from facelib.faces.image import read_image
from facelib.models.pretrained import load_embedder
from facelib.verification.measures import measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import embed_images, pair_scores
from facelib.verification.testset import open_test
from facelib.verification.verify import SCORES, model_fingerprint

TIMED = 5  # batches, of which the median counts


def study(
    model: str,
    lfw: str,
    output: str,
    pairs: str = "pairs.txt",
    folds: int = 0,
    flip: bool = False,
    cache: str = "build/landmarks",
    device: str = "auto",
) -> dict:
    """Verify a model on an LFW folder with each of facelib.faces.detectors, write the folder `output`.

    Where a detector finds no face, the median of its other landmarks stands, as in data.landmarks. `folds` keeps
    the first so many folds of the pairs, 0 all. Returns detector -> {"images", "found", "images_per_second"} and
    verification.measures. Raises ValueError or FileNotFoundError, naming what is wrong, before anything is detected.
    """
    device = choose_device(device)
    embedder = load_embedder(model, device)
    test = open_test(lfw, Protocol(pairs=pairs, folds=folds, crop="centre"))  # each detector's crops are made below
    images, listed = test.images, test.pairs
    asked = {"model": str(model), "lfw": str(lfw), "images": images.name, "pairs": pairs, "folds": folds, "flip": flip}
    with records.save_result(output, asked, device, SCORES) as result:
        arrays = listed.arrays()
        for name in DETECTORS:
            landmarks = find_landmarks(images, cache, device, name)
            dataset = PairImages(images, listed, landmarks)
            score = pair_scores(embed_images(embedder, dataset, flip), dataset.first, dataset.second)
            arrays[f"score/{name}"] = score
            found = int((landmarks.score[dataset.images] > 0).sum())
            speed = images_per_second(name, [images / image for image in dataset.images], device)
            counts = {"images": len(dataset), "found": found, "images_per_second": speed}
            result.metrics[name] = counts | measures(score, listed.genuine, listed.fold)
        np.savez_compressed(result.folder / "scores.npz", **arrays)
        result.environment |= {"data": fingerprint(images, dataset.images), "model": model_fingerprint(embedder)}
    return result.metrics


def images_per_second(name: str, files: list[Path], device: str = "cpu") -> float:
    """How many images of one size the detector takes a second in one process, decoding left out: a median."""
    detector = create_detector(name, device)
    pictures = [read_image(file) for file in files[: BATCH * (TIMED + 1)]]
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    speeds = []
    for batch in batches:
        began = time.perf_counter()
        detector(batch)
        speeds.append(len(batch) / (time.perf_counter() - began))
    return statistics.median(speeds[1:] or speeds)  # the first one warms up
