"""What the models achieve: Tables II and III, chance, the comparison of the two backbones, seeds and thresholds."""

import math
from pathlib import Path

import numpy as np

from facelib.verification import measures
from report.results import folds, is_synthetic, over_seeds, run_name, trained

PUBLISHED_RELEASED = {"arcface_mobilefacenet_y1": 0.9950}
TAR = f"tar_at_far_{measures.FAR:g}"
CHANCE_AUC = 0.5
CHANCE_ERRORS = 3  # standard errors above it, up to which a curve counts as chance
CHANGE = 0.005  # of AUC: less is called no change


def facts(results: dict) -> dict:
    """Facts of verification; without verified runs only the constants of its rules."""
    found = {"chance_rule": {"auc": CHANCE_AUC, "errors": CHANCE_ERRORS}, "noticeable": CHANGE}
    found["tables"] = {light: rows(results, light) for light in ("normal", "low")}
    parts = {"chance": chance, "ratio_changes": ratio_changes, "compared": compared, "seeds": seeds}
    parts |= {"calibration": calibration, "low_light_cost": low_light_cost, "released": released}
    measured = {name: part(results) for name, part in parts.items()}
    return found | {name: value for name, value in measured.items() if value}


def rows(results: dict, light: str) -> list[dict]:
    """A row a model: its measures in one light with their intervals, and their mean and deviation over seeds."""
    plan, found = results["plan"], []
    names = {run_name(b, r): (b, r) for b in (plan["light"], plan["heavy"]) for r in plan["ratios"]}
    for name, (backbone, ratio) in (names | {"released": ("released", None)}).items():
        run = results["verify"].get(f"{name}-{light}")
        if run is None:
            continue
        measured = run["metrics"]
        sure = results["statistics"]["metrics"]["verify"].get(f"{name}-{light}", {}) if results["statistics"] else {}
        again = over_seeds(results, name, light) if ratio is not None else []
        deviation = measured.get("accuracy_std")
        row = {"model": backbone, "ratio": ratio, "errors": sure.get("errors"), "deviation": deviation}
        row["standard_error"] = None if deviation is None else deviation / math.sqrt(folds(run))
        for measure, key in {"accuracy": "accuracy", "auc": "auc", "eer": "eer", "tar": TAR}.items():
            row[measure], row[f"{measure}_interval"] = measured.get(key), ends(sure.get(key))
        for key in ("accuracy", "auc"):
            row[f"seeds_{key}"] = spread([other["metrics"][key] for other in again if key in other["metrics"]])
        found.append(row | {"seeds": len(again) or None})
    return found


def ends(interval: dict | None) -> dict | None:
    return interval and {"low": interval["low"], "high": interval["high"]}


def spread(values: list[float]) -> dict | None:
    """Mean and, from two values on, standard deviation (divisor values - 1)."""
    if not values:
        return None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "number": len(values)}


def chance_bound(genuine: np.ndarray) -> float:
    """The AUC that a model without skill exceeds once in 740: 0.5 plus three standard errors (Hanley & McNeil 1982)."""
    m, n = int(genuine.sum()), int((~genuine).sum())
    return CHANCE_AUC + CHANCE_ERRORS * math.sqrt((m + n + 1) / (12 * m * n))


def is_above_chance(run: dict) -> bool:
    return run["metrics"]["auc"] > chance_bound(run["genuine"])


def chance(results: dict) -> dict | None:
    """Which trained models' curves lie above chance in normal light."""
    runs = trained(results)
    if not runs:
        return None
    aucs = [run["metrics"]["auc"] for run in runs.values()]
    below = [{"backbone": b, "ratio": r} for (b, r), run in runs.items() if not is_above_chance(run)]
    verdict = "all" if not below else "none" if len(below) == len(runs) else "some"
    numbers = {"curves": len(runs), "above": len(runs) - len(below), "lowest": min(aucs), "highest": max(aucs)}
    return numbers | {"at_chance": below, "verdict": verdict}


def ratio_changes(results: dict) -> list[dict]:
    """AUC at the smallest and the largest ratio of each backbone: gains, loses or even."""
    found = []
    for role in ("light", "heavy"):
        backbone = results["plan"][role]
        aucs = {ratio: run["metrics"]["auc"] for (b, ratio), run in trained(results).items() if b == backbone}
        if len(aucs) > 1:
            least, most = min(aucs), max(aucs)
            gain = aucs[most] - aucs[least]
            verdict = "gains" if gain > CHANGE else "loses" if gain < -CHANGE else "even"
            numbers = {"least": least, "most": most, "auc_least": aucs[least], "auc_most": aucs[most]}
            found.append({"backbone": backbone, "verdict": verdict} | numbers)
    return found


def compared_runs(results: dict) -> tuple[float, dict, dict, dict] | None:
    """Light against heavy at the largest ratio that both finished: ratio, the comparison's finding, both runs."""
    plan, runs = results["plan"], trained(results)
    ratios = [r for r in plan["ratios"] if (plan["light"], r) in runs and (plan["heavy"], r) in runs]
    if not ratios or results["statistics"] is None:
        return None
    ratio = max(ratios)
    found = results["statistics"]["metrics"]["compare"].get(f"r{ratio:g}-normal")
    return (ratio, found, runs[plan["light"], ratio], runs[plan["heavy"], ratio]) if found else None


def compared(results: dict) -> dict | None:
    """The comparison of the two backbones: accuracies, difference (light minus heavy), McNemar's test, verdict."""
    runs = compared_runs(results)
    if runs is None:
        return None
    ratio, found, light, heavy = runs
    keys = ("difference", "p", "verdict", "detectable")
    return {key: found[key] for key in keys} | {
        "ratio": ratio,
        "only_light": found["only_first"],
        "only_heavy": found["only_second"],
        "light": {"accuracy": light["metrics"]["accuracy"], "auc": light["metrics"]["auc"]},
        "heavy": {"accuracy": heavy["metrics"]["accuracy"], "auc": heavy["metrics"]["auc"]},
    }


def seeds(results: dict) -> dict | None:
    """How far the seed alone moves each backbone at the compared ratio, and whether that explains their difference.

    Two runs that differ by their seed alone differ with sqrt(2) times the deviation of one; twice that is the limit.
    """
    runs = compared_runs(results)
    if runs is None:
        return None
    ratio, found, _, _ = runs
    names = {role: run_name(results["plan"][role], ratio) for role in ("light", "heavy")}
    spreads = {
        role: spread([run["metrics"]["accuracy"] for run in over_seeds(results, name)]) for role, name in names.items()
    }
    deviations = [each["deviation"] for each in spreads.values() if each["deviation"] is not None]
    limit = 2 * math.sqrt(2) * max(deviations) if deviations else None
    difference = abs(found["difference"]["estimate"])
    verdict = "unknown" if limit is None else "beyond" if difference > limit else "within"
    return {"ratio": ratio, "difference": difference, "limit": limit, "verdict": verdict} | spreads


def calibration_rows(results: dict) -> list[dict]:
    """Of the models compared and of the released one: threshold, FAR and FRR, by light and by the threshold's light."""
    runs = compared_runs(results)
    if not results["statistics"]:
        return []
    names = (
        {run_name(results["plan"][role], runs[0]): results["plan"][role] for role in ("light", "heavy")} if runs else {}
    )
    found = results["statistics"]["metrics"]["calibration"]
    table = []
    for name, model in (names | {"released": "released"}).items():
        keys = {("normal", "normal"): f"{name}-normal", ("low", "low"): f"{name}-low"}
        keys |= {("low", "normal"): f"{name}-low from normal"}
        for (light, chosen_in), key in keys.items():
            if key in found:
                table.append({"model": model, "light": light, "chosen_in": chosen_in} | found[key])
    return table


def calibration(results: dict) -> dict | None:
    """The table of thresholds, and whether they keep the FAR that they were chosen for: up to twice it is kept."""
    table = calibration_rows(results)
    if not table:
        return None
    asked = table[0]["asked_far"]
    own = [row["realised_far"] for row in table if row["light"] == row["chosen_in"]]
    moved = [row for row in table if row["light"] != row["chosen_in"]]
    worst = max((row["realised_far"] for row in moved), default=None)
    return {
        "rows": table,
        "asked": asked,
        "least": min(own),
        "most": max(own),
        "verdict": "kept" if max(own) <= 2 * asked else "lost",
        "moved": moved,
        "moved_verdict": None if worst is None else "lost" if worst > 2 * asked else "kept",
        "moved_factor": None if worst is None else worst / asked,
    }


def low_light_cost(results: dict) -> dict | None:
    """How many trained models lose, or gain, AUC by the published low light, and the most that one does."""
    normal, low = trained(results), trained(results, "low")
    losses = [normal[key]["metrics"]["auc"] - low[key]["metrics"]["auc"] for key in normal if key in low]
    if not losses:
        return None
    lose, gain = sum(loss >= CHANGE for loss in losses), sum(loss <= -CHANGE for loss in losses)
    return {"models": len(losses), "lose": lose, "gain": gain, "most_lost": max(losses), "most_gained": -min(losses)}


def released(results: dict) -> dict | None:
    """The released model in both lights, beside what is published of it."""
    normal, low = results["verify"].get("released-normal"), results["verify"].get("released-low")
    if normal is None:
        return None
    name = Path(results["plan"]["released"]).stem
    return {
        "name": name,
        "accuracy": normal["metrics"]["accuracy"],
        "published": None if is_synthetic(normal) else PUBLISHED_RELEASED.get(name),
        "verdict": "above" if is_above_chance(normal) else "chance",
        "low": low and {key: low["metrics"][key] for key in ("accuracy", "auc")},
    }
