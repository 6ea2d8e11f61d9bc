"""A model judged on a test set. One verification leaves one folder:

scores.npz         score, genuine, fold and the two images' names of each pair
metrics.json       the measures, the number of images and, of a model from elsewhere, the check of its colour order
parameters.json    model, folder of images, seed, protocol
environment.json   commit, package versions, machine, fingerprints of data and model

python -m facelib.verification.verify.verify LFW [MODEL]    # whether these can be verified, before anything is trained
"""

import dataclasses
import sys

import numpy as np
import torch

from facelib import records
from facelib.data.landmarks import fingerprint
from facelib.devices import choose_device
from facelib.faces.align import SIZE
from facelib.models.embedder import Embedder
from facelib.models.pretrained import load_embedder
from facelib.verification import colour_order
from facelib.verification.measures import FAR, check_far, protocol_measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import score_pairs
from facelib.verification.testset import TestSet, open_test

SCORES = ("scores.npz",)  # what it leaves beside the records of every result


def verify(
    model: str,
    lfw: str,
    output: str,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    cache: str = "build/landmarks",
    device: str = "auto",
) -> dict:
    """Evaluate a model on the pairs of a test set, write the folder `output`, return the measures.

    `lfw` is any test set: facelib.verification.testset. `seed` draws the random crops.
    Raises ValueError or FileNotFoundError, naming what is wrong, before the first image is embedded.

    >>> torch.save(facelib.create_model("iresnet18_025").state_dict(), "model.pth")
    >>> measures = facelib.verify("model.pth", "data/lfw", "verified")
    >>> 0 <= measures["accuracy"] <= 1 and 0 <= measures["auc"] <= 1
    True
    """
    protocol.check()
    device = choose_device(device)
    embedder = load_embedder(model, device)
    test = open_test(lfw, protocol, seed, cache, device)
    if protocol.far != FAR:  # the default was not asked for: where it can't be resolved, measures() leave it out
        check_far(protocol.far, test.pairs.genuine)
    asked = {"model": str(model), "lfw": str(lfw), "images": test.images.name, "seed": seed}
    with records.save_result(output, asked, device, SCORES) as result:
        result.environment |= {"data": test.fingerprint, "model": model_fingerprint(embedder)}
        judge(embedder, test, protocol, result)
    return result.metrics


def judge(embedder: Embedder, test: TestSet, protocol: Protocol, result: records.Result) -> None:
    """Score a test set's pairs. The scores go into the result's folder, protocol and measures into its records."""
    scores, pairs = score_pairs(embedder, test.crops, protocol), test.pairs
    result.parameters |= dataclasses.asdict(protocol)
    result.metrics |= protocol_measures(scores, pairs, protocol) | {"images": len(test.crops)}
    if embedder.declaration is not None and test.has_names:
        result.metrics["colour_order"] = colour_order.check(embedder, test.crops, pairs.genuine)
        colour_order.warn(embedder, result.metrics["colour_order"])
    np.savez_compressed(result.folder / "scores.npz", score=scores, **pairs.arrays())


def model_fingerprint(embedder: Embedder) -> str:
    """The first DIGITS hex digits of SHA-256 of the file with the model's weights."""
    return fingerprint(embedder.file)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    try:
        test = open_test(sys.argv[1])
        for model in sys.argv[2:]:
            load_embedder(model).embed(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    print(" and ".join([f"{test.images}: {len(test)} pairs", *(f"{model}: an embedder" for model in sys.argv[2:])]))
