"""The evaluation ladder: from the published report's protocol to the corrected one, a defect at a time.

Two walks. Up: each rung mends one more defect. Down: each defect alone is put back into the corrected protocol. One
model's ladder leaves one folder:

    scores.npz         score/<rung>, and of its pairs genuine/<rung>, fold/<rung>, first/<rung>, second/<rung>
    metrics.json       the measures of every rung
    parameters.json    model, LFW, the rungs' protocols
    environment.json   commit, package versions, machine, fingerprints of data and model
"""

import dataclasses
from dataclasses import replace

import numpy as np

from facelib import records
from facelib.devices import choose_device
from facelib.models.pretrained import load_embedder
from facelib.verification.measures import protocol_measures
from facelib.verification.protocol import Protocol
from facelib.verification.scores import score_pairs
from facelib.verification.testset import open_test
from facelib.verification.verify import SCORES, model_fingerprint

PUBLISHED = Protocol(
    crop="random", light="low", normalise="first", pairs="pairsDevTest.txt", flip=False, threshold="same pairs"
)
CORRECTED = Protocol(flip=True)
# What is mended, one after the other, on the way up.
MENDS = {
    "published": {},
    "order": {"normalise": "last"},
    "light": {"light": "normal"},
    "one crop": {"crop": "centre"},
    "alignment": {"crop": "aligned"},
    "View 2": {"pairs": CORRECTED.pairs},
    "folds": {"threshold": "folds"},
    "flip": {"flip": True},
}
# What is put back, alone, into the corrected protocol. View 1's pairs have no folds: the threshold goes along.
DEFECTS = {
    "corrected": {},
    "low light, normalised first": {"light": "low", "normalise": "first"},
    "low light": {"light": "low"},
    "random crop": {"crop": "random"},
    "centre crop": {"crop": "centre"},
    "resized": {"crop": "resized"},
    "dev test": {"pairs": PUBLISHED.pairs, "threshold": "same pairs"},
    "same pairs": {"threshold": "same pairs"},
    "no flip": {"flip": False},
}


def rungs(flip: bool = True, folds: int = 0) -> dict[str, Protocol]:
    """`up/<mend>` and `down/<defect>` -> protocol. Without `flip` the corrected protocol has no flip-test; `folds` as
    in Protocol.
    """
    found, protocol = {}, PUBLISHED
    for name, mend in MENDS.items():
        protocol = replace(protocol, **mend)
        found[f"up/{name}"] = protocol
    found |= {f"down/{name}": replace(CORRECTED, **defect) for name, defect in DEFECTS.items()}
    if not flip:
        del found["up/flip"], found["down/no flip"]
        found = {name: replace(protocol, flip=False) for name, protocol in found.items()}
    view2 = [name for name, protocol in found.items() if protocol.pairs == CORRECTED.pairs]
    return found | {name: replace(found[name], folds=folds) for name in view2}


def climb(
    model: str,
    lfw: str,
    output: str,
    flip: bool = True,
    folds: int = 0,
    seed: int = 0,
    cache: str = "build/landmarks",
    device: str = "auto",
) -> dict:
    """Evaluate a model on every rung, write the folder `output`, return the measures of each.

    Raises ValueError or FileNotFoundError, naming what is wrong, before the first image is embedded.
    """
    device = choose_device(device)
    embedder = load_embedder(model, device)
    test = open_test(lfw, cache=cache, device=device)
    # Of what holds aligned crops alone there are the rungs of aligned crops alone.
    protocols = {name: protocol for name, protocol in rungs(flip, folds).items() if test.allows(protocol)}
    for protocol in protocols.values():
        protocol.check()
    tests = {name: open_test(lfw, protocol, seed, cache, device) for name, protocol in protocols.items()}
    asked = {"model": str(model), "lfw": str(lfw), "images": test.images.name}
    asked |= {"flip": flip, "folds": folds, "seed": seed}
    asked |= {"rungs": {name: dataclasses.asdict(protocol) for name, protocol in protocols.items()}}
    with records.save_result(output, asked, device, SCORES) as result:
        result.environment |= {"data": test.fingerprint, "model": model_fingerprint(embedder)}
        scored: dict[Protocol, np.ndarray] = {}  # rungs that differ in the threshold alone share their scores
        arrays = {}
        for name, protocol in protocols.items():
            embedded, pairs = replace(protocol, threshold=Protocol.threshold), tests[name].pairs
            if embedded not in scored:
                scored[embedded] = score_pairs(embedder, tests[name].crops, protocol)
            result.metrics[name] = protocol_measures(scored[embedded], pairs, protocol)
            kept = {"score": scored[embedded]} | pairs.arrays()
            arrays |= {f"{kind}/{name}": values for kind, values in kept.items()}
        np.savez_compressed(result.folder / "scores.npz", **arrays)
    return result.metrics
