"""The studies: the evaluation ladder, the training ladder, low light and detectors."""

import math
from pathlib import Path

from report import training_ladder
from report.facts.verification import ends, spread
from report.words import RUNGS

CHANCE = (0.45, 0.56)  # AUC of what counts as chance here: also where a defect turns a verifier against itself
DEAR = 0.01  # of AUC: a defect, or darkness, that takes less is called harmless


def facts(results: dict) -> dict:
    parts = {"ladder": ladder, "training_ladder": training_rungs, "dark": dark, "detectors": detectors}
    measured = {name: part(results) for name, part in parts.items()}
    return {"dear": DEAR} | {name: value for name, value in measured.items() if value}


def models_of(results: dict, study: str) -> list[str]:
    """The models with this study finished, the released one first."""
    return sorted(results[study], key=lambda name: name != "released")


def sure(results: dict, study: str, model: str, name: str) -> dict:
    """The statistics of a rung or condition; empty where they are not made yet."""
    if not results["statistics"]:
        return {}
    return results["statistics"]["metrics"].get(study, {}).get(model, {}).get(name, {})


def rungs_of(results: dict) -> list[str]:
    """`up/<mend>` and `down/<defect>`, of the rungs that any model has."""
    measured = [run["metrics"] for run in results["evaluation_ladder"].values()]
    return [rung for rung in RUNGS if any(rung in metrics for metrics in measured)]


def ladder(results: dict) -> dict | None:
    """The evaluation ladder: a row a rung, each model's ends, and what each defect alone costs one of them."""
    models = models_of(results, "evaluation_ladder")
    if not models:
        return None
    measured = {model: results["evaluation_ladder"][model]["metrics"] for model in models}
    table = []
    for rung in rungs_of(results):
        cells = [rung_cell(results, model, rung) for model in models]
        table.append({"rung": rung, "walk": rung.split("/")[0], "cells": cells})
    best = "released" if "released" in models else max(models, key=lambda name: measured[name]["down/corrected"]["auc"])
    return {
        "models": [ladder_ends(results, model) for model in models],
        "rows": table,
        "model": best,
        "costs": defects(measured[best]),
    }


def rung_cell(results: dict, model: str, rung: str) -> dict | None:
    """Accuracy, AUC and its interval of a model on a rung."""
    measured = results["evaluation_ladder"][model]["metrics"].get(rung)
    interval = sure(results, "evaluation_ladder", model, rung).get("auc")
    return measured and {key: measured[key] for key in ("accuracy", "auc")} | {"interval": ends(interval)}


def ladder_ends(results: dict, model: str) -> dict:
    """A model under the published and under the corrected protocol. It is at chance under the published one if its AUC
    lies in CHANCE or its interval includes one half; the protocol explains that if it is not so under the corrected.
    """
    published, corrected = (rung_cell(results, model, rung) for rung in ("up/published", "down/corrected"))
    interval = published["interval"]
    near = CHANCE[0] <= published["auc"] <= CHANCE[1]
    chance = near or bool(interval and interval["low"] <= 0.5 <= interval["high"])
    pairs = results["evaluation_ladder"][model]["metrics"]["down/corrected"]["pairs"]
    return {
        "model": model,
        "pairs": pairs,
        "published": published,
        "corrected": corrected,
        "verdict": "chance" if chance else "above",
        "explained": near and corrected["auc"] > CHANCE[1],
    }


def defects(measured: dict) -> list[dict]:
    """AUC that each defect alone takes from the corrected protocol, the dearest first."""
    whole = measured["down/corrected"]["auc"]
    costs = {rung: whole - measured[rung]["auc"] for rung in RUNGS if rung.startswith("down/") and rung in measured}
    costs.pop("down/corrected")
    return [
        {
            "rung": rung,
            "lost": costs[rung],
            "auc": whole - costs[rung],
            "verdict": "dear" if costs[rung] >= DEAR else "cheap",
            "is_chance": CHANCE[0] <= whole - costs[rung] <= CHANCE[1],
        }
        for rung in sorted(costs, key=costs.get, reverse=True)
    ]


def training_rungs(results: dict) -> dict | None:
    """A row a backbone and recipe, over seeds, and whether the mended recipe changes AUC beyond the seeds' spread."""
    table = []
    for role in ("light", "heavy"):
        for rung in training_ladder.RUNGS:
            prefix = f"ladder-{results['plan'][role]}-{rung}-s"
            names = [name for name in results["ladder_train"] if name.startswith(prefix)]
            names = [name for name in names if f"{name}-normal" in results["ladder_verify"]]
            if names:
                verified = [results["ladder_verify"][f"{name}-normal"]["metrics"] for name in names]
                losses = [results["ladder_train"][name]["metrics"]["last_epoch_loss"] for name in names]
                row = {"backbone": results["plan"][role], "recipe": rung, "loss": spread(losses)}
                table.append(row | {key: spread([each[key] for each in verified]) for key in ("accuracy", "auc")})
    if not table:
        return None
    recipe = next(iter(results["ladder_train"].values()))["parameters"]
    pairs = next(iter(results["ladder_verify"].values()))["metrics"]["pairs"]
    return {"rows": table, "ratio": recipe["ratio"], "epochs": recipe["epochs"], "pairs": pairs} | {
        "changes": [change for role in ("light", "heavy") if (change := mended(results["plan"][role], table))]
    }


def mended(backbone: str, table: list[dict]) -> dict | None:
    """The first recipe against the last: told apart only beyond three standard errors of the difference."""
    aucs = {row["recipe"]: row["auc"] for row in table if row["backbone"] == backbone}
    first, last = aucs.get("published"), aucs.get("alignment")
    if first is None or last is None:
        return None
    gain, verdict = last["mean"] - first["mean"], "unknown"
    if min(first["number"], last["number"]) > 1:
        error = math.sqrt(sum(each["deviation"] ** 2 / each["number"] for each in (first, last)))
        verdict = "even" if abs(gain) <= 3 * error else "better" if gain > 0 else "worse"
    return {
        "backbone": backbone,
        "first": first["mean"],
        "last": last["mean"],
        "seeds": last["number"],
        "verdict": verdict,
    }


def dark(results: dict) -> dict | None:
    """From how many stops on each model loses what it had, and what repairs bring back at the darkest."""
    models = models_of(results, "low_light")
    if not models:
        return None
    pairs = results["low_light"][models[0]]["metrics"]["pairs"]
    found = [darkened(model, results["low_light"][model]["metrics"]) for model in models]
    return {"pairs": pairs, "models": found}


def darkened(model: str, metrics: dict) -> dict:
    """One model in ever less light; `repaired` only where repairs were tried."""
    conditions, most = metrics["conditions"], max(metrics["stops"])
    aucs = {k: conditions[f"{k}/none"]["auc"] for k in metrics["stops"]}
    normal = conditions["normal"]
    fallen = [k for k in aucs if aucs[k] < normal["auc"] - DEAR]
    found = {"model": model, "stops": most, "auc_normal": normal["auc"], "auc_darkest": aucs[most], "repaired": None}
    found["loses_from"] = fallen[0] if fallen else None
    repairs = {name: conditions[f"{most}/{name}"]["accuracy"] for name in metrics["repairs"]}
    if len(repairs) > 1:
        left = repairs.pop("none")
        lost, best = normal["accuracy"] - left, max(repairs, key=repairs.get)
        back = (repairs[best] - left) / lost if lost >= DEAR else None
        found["repaired"] = {"normal": normal["accuracy"], "dark": left, "best": best, "back": back and min(back, 1.0)}
        found["repaired"]["by"] = [{"repair": name, "accuracy": value} for name, value in repairs.items()]
        found["repaired"]["verdict"] = "whole" if back is None else "none" if back <= 0 else "some"
    return found


def detectors(results: dict) -> dict | None:
    """The one model whose pairs were aligned by several detectors: a row a detector, in the study's order."""
    if not results["detectors"]:
        return None
    model, run = next(iter(results["detectors"].items()))
    table = []
    for name, measured in run["metrics"].items():
        intervals = sure(results, "detectors", model, name)
        keys = ("images", "accuracy", "auc", "found", "images_per_second")
        row = {key: measured.get(key) for key in keys} | {"detector": name}
        table.append(row | {f"{key}_interval": ends(intervals.get(key)) for key in ("accuracy", "auc")})
    pairs = next(iter(run["metrics"].values()))["pairs"]
    name = model if model == "released" else Path(run["parameters"]["model"]).name
    return {"pairs": pairs, "model": name, "rows": table}
