"""How sure the results are: intervals of every verification, bands of its curves, and the backbones compared.

Computed from the scores that the verifications left, apart from them: another statistic embeds no image again. It
leaves one folder:

    parameters.json     resamples and seed
    metrics.json        for each verification, rung of a ladder, condition of light and detector its errors and
                        intervals; for each ratio and light the comparison of the backbones, for each rung on the same
                        pairs as the corrected protocol that with it; for each verification how its thresholds hold
                        across folds, and its measures without the identities that facelib.studies.integrity suspects
    bands.npz           low and high of each verification's ROC and precision-recall curve along GRID
    environment.json    commit, package versions, machine
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from facelib import records
from facelib.data.pairs import without
from facelib.verification.bootstrap import RESAMPLES, Interval, intervals
from facelib.verification.calibration import calibrate
from facelib.verification.comparison import compare
from facelib.verification.measures import FAR, lowest_far, measures, right_decisions
from facelib.verification.protocol import LIGHTS
from facelib.verification.weighted import WeightedPairs

STUDIES = ("evaluation_ladder", "low_light", "detectors")
GRID = np.linspace(0.005, 1, 200)  # FAR of the ROC, recall of the precision-recall curve


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    """A verification's scores.npz, and `identities` (P, 2) int: who is in each pair."""
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        return with_identities({name: arrays[name] for name in arrays.files})


def read_study(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Of an evaluation ladder or a low-light study: rung or condition -> what read_scores gives of a verification.

    Pairs whose threshold is chosen on themselves are one fold.
    """
    rungs = json.loads((folder / "parameters.json").read_text()).get("rungs", {})
    with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
        kinds = ("score", "genuine", "fold", "first", "second")
        names = [name.removeprefix("score/") for name in arrays.files if name.startswith("score/")]
        shared = {kind: arrays[kind] for kind in kinds if kind in arrays.files}  # by all conditions
        found = {
            name: with_identities(shared | {kind: arrays[f"{kind}/{name}"] for kind in kinds if kind not in shared})
            for name in names
        }
    for name, protocol in rungs.items():
        if protocol["threshold"] == "same pairs":
            found[name]["fold"] = np.zeros_like(found[name]["fold"])
    return found


def with_identities(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores with `identities` (P, 2) int, who is in each pair: the folders in the images' names.

    Where names have none, as those of facelib.data.bin, each image is an identity of its own. Then genuine
    pairs are resampled as impostor pairs are, and what the images of one person share is missed: intervals may come
    out too narrow.
    """
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
    return numbers | errors(pairs), bands


def errors(pairs: dict[str, np.ndarray]) -> dict[str, int]:
    """The number of pairs judged wrongly, where there are folds."""
    if len(np.unique(pairs["fold"])) < 2:
        return {}
    return {"errors": int((~right_decisions(pairs["score"], pairs["genuine"], pairs["fold"])).sum())}


def uncertainty_of_study(study: dict[str, dict], resamples: int, seed: int) -> dict[str, dict]:
    """Of each rung or condition the numbers, and `loss`: the comparison with "down/corrected" on the same pairs."""
    found = {}
    for name, pairs in study.items():
        weighted = WeightedPairs(pairs["score"], pairs["genuine"], pairs["fold"])
        measured = intervals(lambda weights: weighted.measures(weights, FAR), pairs["identities"], resamples, seed)
        found[name] = {measure: as_numbers(interval) for measure, interval in measured.items()} | errors(pairs)
        corrected = study.get("down/corrected")
        if name.startswith("down/") and corrected is not pairs and len(np.unique(pairs["fold"])) > 1:
            found[name]["loss"] = comparison(pairs, corrected, resamples, seed)
    return found


def comparison(first: dict[str, np.ndarray], second: dict[str, np.ndarray], resamples: int, seed: int) -> dict:
    """facelib.verification.comparison's finding for JSON."""
    pairs = (first[name] for name in ("genuine", "fold", "identities"))
    found = dataclasses.asdict(compare(first["score"], second["score"], *pairs, resamples, seed))
    return found | {"difference": {name: float(value) for name, value in found["difference"].items()}}


def calibration(name: str, scores: dict[str, dict]) -> dict[str, dict]:
    """How a verification's own thresholds hold across its folds, and in low light those of normal light, by name.

    Nothing where there is one fold, or where FAR can't be resolved outside each fold.
    """
    found = {}
    for of in (name, name.removesuffix("-low") + "-normal"):
        if of in scores and np.array_equal(scores[of]["first"], scores[name]["first"]):
            chosen, judged = scores[of], scores[name]
            others = [judged["genuine"][judged["fold"] != k] for k in np.unique(judged["fold"])]
            if len(others) > 1 and all(lowest_far(genuine) <= FAR for genuine in others):
                key = name if of == name else f"{name} from normal"
                pairs = judged["genuine"], judged["fold"]
                found[key] = dataclasses.asdict(calibrate(chosen["score"], judged["score"], *pairs, FAR))
    return found


def suspects(plan: dict) -> dict[str, list[str]]:
    """LFW's identities that resemble one of the training's, by the integrity study's two limits, if it has run."""
    file = Path(plan["runs"].get("integrity", {}).get("parameters", {}).get("output", "")) / "metrics.json"
    if "integrity" not in plan["runs"] or not file.exists():
        return {}
    found = json.loads(file.read_text())["overlap"]
    return {"threshold": found["suspect_lfw"], "chance": found["beyond_chance"]["suspect_lfw"]}


def without_suspects(pairs: dict[str, np.ndarray], lists: dict[str, list[str]]) -> dict[str, dict]:
    """By limit the measures on those pairs that show none of the listed identities, if both kinds of pair are left."""
    found = {}
    for limit, identities in lists.items():
        kept = without(pairs["first"], pairs["second"], identities)
        score, genuine, fold = (pairs[name][kept] for name in ("score", "genuine", "fold"))
        if genuine.any() and not genuine.all():
            found[limit] = measures(score, genuine, fold)
    return found


def as_numbers(interval: Interval) -> dict[str, float]:
    """For JSON; shares stay within [0, 1], which an interval about the estimate may leave."""
    return {name: float(np.clip(value, 0, 1)) for name, value in dataclasses.asdict(interval).items()}


def read_plan(results: Path) -> dict:
    """The runs of a report in its folder of results. Raises FileNotFoundError where there is none."""
    if not (results / "plan.json").exists():
        raise FileNotFoundError(f"{results}: no report's results: `make report PROFILE=demo` leaves some in build/demo")
    return json.loads((results / "plan.json").read_text())


def summarise(results: str, output: str, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """Intervals, bands and comparisons of the finished verifications of the plan in the folder `results`.

    Writes the folder `output`, returns its metrics.
    """
    plan = read_plan(Path(results))
    metrics = {"resamples": resamples, "seed": seed, "verify": {}, "compare": {}, "calibration": {}}
    metrics |= {study: {} for study in STUDIES} | {"without_suspects": {}}
    bands, scores = {}, {}
    for name, run in plan["runs"].items():
        folder = Path(run["parameters"]["output"])
        if run["notebook"] in STUDIES and (folder / "metrics.json").exists():
            study = uncertainty_of_study(read_study(folder), resamples, seed)
            metrics[run["notebook"]][name.partition("/")[2]] = study
        if run["notebook"] == "verify" and (folder / "metrics.json").exists():
            name = name.removeprefix("verify/")
            scores[name] = read_scores(folder)
            metrics["verify"][name], found = uncertainty(scores[name], resamples, seed)
            bands |= {f"{name}/{curve}": band for curve, band in found.items()}
    overlap = suspects(plan)
    for name in scores:
        metrics["calibration"] |= calibration(name, scores)
        metrics["without_suspects"][name] = without_suspects(scores[name], overlap)
    for ratio in plan["ratios"]:
        for light in LIGHTS:
            key = f"r{ratio:g}-{light}"
            names = [f"{plan[role]}-{key}" for role in ("light", "heavy")]
            if all(name in scores and len(np.unique(scores[name]["fold"])) > 1 for name in names):
                metrics["compare"][key] = comparison(*(scores[name] for name in names), resamples, seed)
    asked = {"results": results, "resamples": resamples, "seed": seed}
    with records.save_result(output, asked, more=("bands.npz",)) as result:
        result.metrics = metrics
        np.savez_compressed(result.folder / "bands.npz", **bands)
    return metrics
