"""How sure the results are: intervals of every verification, bands of its curves, and the backbones compared.

Computed from the scores that the verifications left, apart from them: another statistic embeds no image again. It
leaves one folder:

    parameters.json     resamples and seed
    metrics.json        for each verification its errors and intervals, for each ratio and light the comparison
    bands.npz           low and high of each verification's ROC and precision-recall curve along GRID
    environment.json    commit, package versions, machine
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from facelib import provenance
from facelib.bootstrap import RESAMPLES, Interval, intervals
from facelib.comparison import compare
from facelib.output import whole_folder, write_json
from facelib.protocol import LIGHTS
from facelib.verification import FAR, right_decisions
from facelib.weighted_pairs import WeightedPairs

FILES = ("metrics.json", "parameters.json", "bands.npz", "environment.json")
GRID = np.linspace(0.005, 1, 200)  # FAR of the ROC, recall of the precision-recall curve


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    """A verification's scores.npz, and `identities` (P, 2) int: who is in each pair."""
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    people = [[image.rsplit("/", 1)[0] for image in found[name]] for name in ("first", "second")]
    return found | {"identities": np.unique(people, return_inverse=True)[1].reshape(2, -1).T}


def uncertainty(pairs: dict[str, np.ndarray], resamples: int, seed: int) -> tuple[dict, dict[str, np.ndarray]]:
    """Of one verification the numbers and, apart, the bands of its curves: `roc` and `pr`, (2, K) low and high."""
    weighted = WeightedPairs(pairs["score"], pairs["genuine"], pairs["fold"])

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        curves = {"roc": weighted.roc(weights, GRID), "pr": weighted.precision_recall(weights, GRID)}
        return weighted.measures(weights, FAR) | curves

    found = intervals(statistic, pairs["identities"], resamples, seed)
    bands = {name: np.stack([found[name].low, found[name].high]) for name in ("roc", "pr")}
    numbers = {name: as_numbers(interval) for name, interval in found.items() if name not in bands}
    if len(np.unique(pairs["fold"])) > 1:
        numbers["errors"] = int((~right_decisions(pairs["score"], pairs["genuine"], pairs["fold"])).sum())
    return numbers, bands


def as_numbers(interval: Interval) -> dict[str, float]:
    """For JSON; shares stay within [0, 1], which an interval about the estimate may leave."""
    return {name: float(np.clip(value, 0, 1)) for name, value in dataclasses.asdict(interval).items()}


def summarise(results: str, output: str, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Intervals, bands and comparisons of the finished verifications of the plan in the folder `results`.

    Writes the folder `output`, returns its metrics.
    """
    plan = json.loads((Path(results) / "plan.json").read_text())
    metrics = {"resamples": resamples, "seed": seed, "verify": {}, "compare": {}}
    bands, scores = {}, {}
    for name, run in plan["runs"].items():
        folder = Path(run["parameters"]["output"])
        if run["notebook"] == "verify" and (folder / "metrics.json").exists():
            name = name.removeprefix("verify/")
            scores[name] = read_scores(folder)
            metrics["verify"][name], found = uncertainty(scores[name], resamples, seed)
            bands |= {f"{name}/{curve}": band for curve, band in found.items()}
    for ratio in plan["ratios"]:
        for light in LIGHTS:
            key = f"r{ratio:g}-{light}"
            names = [f"{plan[role]}-{key}" for role in ("light", "heavy")]
            if all(name in scores and len(np.unique(scores[name]["fold"])) > 1 for name in names):
                first, second = (scores[name] for name in names)
                pairs = (first[name] for name in ("genuine", "fold", "identities"))
                found = dataclasses.asdict(compare(first["score"], second["score"], *pairs, resamples, seed))
                found["difference"] = {name: float(value) for name, value in found["difference"].items()}
                metrics["compare"][key] = found
    with whole_folder(output, FILES) as folder:
        np.savez_compressed(folder / "bands.npz", **bands)
        write_json(folder / "parameters.json", {"results": results, "resamples": resamples, "seed": seed})
        write_json(folder / "environment.json", provenance.environment())
        write_json(folder / "metrics.json", metrics)
    return metrics
