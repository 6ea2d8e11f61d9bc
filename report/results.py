"""What the finished runs of a plan left on disk, sorted by kind."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from facelib.verification.uncertainty import read_plan
from report.plan import LADDER, SEED

# What load_results sorts finished runs into, by name.
KINDS = (
    "train",
    "verify",
    "ladder_train",
    "ladder_verify",
    "more_train",
    "more_verify",
    "evaluation_ladder",
    "low_light",
    "detectors",
)
# The columns of facelib.studies.data_summary's table that a data set may not tell.
MEASURES = ("residual", "scale", "score")


def load_results(build: Path) -> dict:
    """The plan with what its finished runs left: train, verify (with scores), flops and statistics (with bands). The
    training ladder's runs stand apart, under ladder_train and ladder_verify, and so do those of further seeds, under
    more_train and more_verify.

    The unfinished ones are listed. A run that was made with other parameters than the plan's counts as unfinished.
    """
    plan = read_plan(build)
    results = {"plan": plan, "flops": None, "statistics": None, "integrity": None, "data": None, "unfinished": []}
    results |= {kind: {} for kind in KINDS}
    bench = build.parent / "bench.json"  # what `make bench` left
    results["bench"] = json.loads(bench.read_text()) if bench.exists() else {}
    for name, run in plan["runs"].items():
        folder = Path(run["parameters"]["output"])
        found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
        asked, made_with = run["parameters"], found.get("parameters", {})
        if "metrics" not in found or any(made_with.get(key, asked[key]) != asked[key] for key in asked):
            results["unfinished"].append(name)
            continue
        kind, _, key = name.partition("/")
        apart = "ladder_" if key.startswith(LADDER) else "more_" if re.search(rf"{SEED}\d+(-|$)", key) else ""
        if kind == "flops":
            results["flops"] = found
        elif kind == "data":
            results["data"] = found | {"images": read_images(folder)}
        elif kind == "integrity":
            with np.load(folder / "similarity.npz", allow_pickle=False) as arrays:
                results["integrity"] = found | {name: arrays[name] for name in ("cosine", "chance")}
        elif kind == "statistics":
            with np.load(folder / "bands.npz", allow_pickle=False) as arrays:
                results["statistics"] = found | {"bands": {name: arrays[name] for name in arrays.files}}
        elif kind == "train":
            results[apart + kind][key] = found | {"log": pd.read_csv(folder / "log.csv")}
        else:
            with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
                results[apart + kind][key] = found | {name: arrays[name] for name in arrays.files}
    return results


def read_images(folder: str | Path) -> pd.DataFrame:
    """The table images.csv of a summary of data: facelib.studies.data_summary. An identity may be called "null"."""
    text = {"data set": str, "image": str, "identity": str}
    return pd.read_csv(
        Path(folder) / "images.csv", dtype=text, keep_default_na=False, na_values=dict.fromkeys(MEASURES, "")
    )


def run_name(backbone: str, ratio: float) -> str:
    return f"{backbone}-r{ratio:g}"


def trained(results: dict, light: str = "normal") -> dict[tuple[str, float], dict]:
    """(backbone, ratio) -> the verification of that run in this light, for the finished ones."""
    plan = results["plan"]
    names = {(b, r): f"{run_name(b, r)}-{light}" for b in (plan["light"], plan["heavy"]) for r in plan["ratios"]}
    return {key: results["verify"][name] for key, name in names.items() if name in results["verify"]}


def over_seeds(results: dict, name: str, light: str = "normal") -> list[dict]:
    """The verifications of a run and of the same run with further seeds, in this light, as far as they are finished."""
    more = [
        run for key, run in results["more_verify"].items() if re.fullmatch(rf"{re.escape(name)}{SEED}\d+-{light}", key)
    ]
    first = results["verify"].get(f"{name}-{light}")
    return ([first] if first else []) + more


def is_synthetic(run: dict) -> bool:
    """Whether a verification's images are those that facelib draws."""
    return run["parameters"]["images"] == "lfw-synthetic"


def folds(run: dict) -> int:
    return len(np.unique(run["fold"]))
