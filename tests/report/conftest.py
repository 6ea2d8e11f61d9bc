"""Small results of a whole report, as load_results would read them, whose verdicts a test chooses."""

import dataclasses

import numpy as np
import pytest

from facelib.verification import measures, uncertainty
from facelib.verification.comparison import compare
from report.results import KINDS

FOLD = np.repeat(np.arange(10), 60)
GENUINE = np.tile(np.arange(60) < 30, 10)
IDENTITIES = np.stack([np.arange(600), np.where(GENUINE, np.arange(600), np.arange(600) + 600)], 1)
ENVIRONMENT = {"commit": "c", "machine": "m", "packages": {"torch": "2"}, "python": "3", "data": "d", "model": "f"}
RECIPE = {
    "data": "data/casia-webface",
    "backbone": "iresnet50",
    "ratio": 1.0,
    "epochs": 12,
    "batch_size": 64,
    "seed": 0,
}
RECIPE |= {"learning_rate": 0.1, "clip": 5.0, "scale": 64.0, "margin": 0.5, "embedding_size": 512, "warmup": 0.1}
RECIPE |= {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "schedule": "polynomial", "power": 2.0}
RECIPE |= {"decay_over": "run", "sample_rate": 1, "ema": 0}


def verification(separation: float, seed: int = 0) -> dict:
    """A verification whose genuine scores lie `separation` standard deviations above the impostors'."""
    score = np.random.default_rng(seed).normal(size=600) + separation * GENUINE
    metrics = measures.measures(score, GENUINE, FOLD) | {"images": 900}
    parameters = {"images": "lfw-deepfunneled", "pairs": "pairs.txt", "flip": False, "model": "weights/m.onnx"}
    pairs = {"score": score, "genuine": GENUINE, "fold": FOLD, "identities": IDENTITIES}
    pairs |= {"first": IDENTITIES[:, 0], "second": IDENTITIES[:, 1]}
    return pairs | {"metrics": metrics, "parameters": parameters, "environment": ENVIRONMENT}


def training(backbone: str, ratio: float) -> dict:
    metrics = {"ratio": ratio, "images": round(2000 * ratio), "identities": 32, "dropped_identities": 0, "steps": 1000}
    metrics |= {"faces_not_found": None, "precision": "bf16", "continued_after_steps": [], "seconds": 60.0}
    metrics |= {"memory_format": "channels_last", "images_per_second": 9.0, "last_epoch_loss": 1.0}
    parameters = RECIPE | {"backbone": backbone, "ratio": ratio}
    return {"metrics": metrics, "parameters": parameters, "environment": ENVIRONMENT}


def cost(backbone: str, parameters: int, flops: int) -> dict:
    return {
        "backbone": backbone, "parameters": parameters, "flops": flops, "activations": 10**6,
        "training_speed": {"contiguous": 1.0, "channels last": 2.0},
        "inference_speed": {"contiguous": 8.0, "channels last": 4.0},
        "latency": {"contiguous": 0.05, "channels last": 0.04},
        "flops_of": {"conv": 9, "batch_norm": 1}, "uncounted": ["add", "prelu"],
    }  # fmt: skip


def statistics(verify: dict) -> dict:
    """What the statistics notebook would leave of these verifications, from few resamples."""
    found = {name: uncertainty.uncertainty(run, resamples=100, seed=0) for name, run in verify.items()}
    metrics = {"resamples": 100, "verify": {name: numbers for name, (numbers, _) in found.items()}, "compare": {}}
    for key in ("r0.1-normal", "r1-normal"):
        light, heavy = verify[f"efficientnet_b3-{key}"], verify[f"iresnet50-{key}"]
        comparison = compare(light["score"], heavy["score"], GENUINE, FOLD, IDENTITIES, 100)
        metrics["compare"][key] = dataclasses.asdict(comparison)
    metrics["calibration"] = {}
    for name in verify:
        metrics["calibration"] |= uncertainty.calibration(name, verify)
    return {"metrics": metrics, "bands": {}, "environment": ENVIRONMENT}


@pytest.fixture(scope="session")
def make_results():
    """A function of how well each backbone separates pairs, in standard deviations, that returns results."""

    def make(light: float = 2.0, heavy: float = 2.0, low: float = 0.0, released: float | None = None) -> dict:
        plan = {
            "profile": "p",
            "description": "d",
            "synthetic": False,
            "heavy": "iresnet50",
            "light": "efficientnet_b3",
        }
        plan |= {"ratios": [0.1, 1.0], "released": "weights/arcface_mobilefacenet_y1.onnx", "left_out": []}
        results = {kind: {} for kind in KINDS} | {"plan": plan, "unfinished": [], "integrity": None, "data": None}
        for backbone, separation in (("iresnet50", heavy), ("efficientnet_b3", light)):
            for ratio in (0.1, 1.0):
                results["train"][f"{backbone}-r{ratio:g}"] = training(backbone, ratio)
                results["verify"][f"{backbone}-r{ratio:g}-normal"] = verification(separation)
                results["verify"][f"{backbone}-r{ratio:g}-low"] = verification(separation - low)
        if released is not None:
            results["verify"]["released-normal"] = verification(released)
        costs = {"heavy": cost("iresnet50", 43_590_848, 6_326_241_280)}
        costs["light"] = cost("efficientnet_b3", 11_483_176, 274_922_512)
        results["flops"] = {"metrics": costs, "environment": ENVIRONMENT}
        return results | {"statistics": statistics(results["verify"]), "bench": {}}

    return make
