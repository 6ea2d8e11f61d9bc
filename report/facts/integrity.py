"""Whether the test was one: shared people and photographs, and the results without the suspects."""

from pathlib import Path

from facelib.studies.integrity import CHANCE
from report.facts.verification import compared_runs
from report.results import run_name

MOVED = 0.005  # of accuracy: half a point more or less is called a change


def facts(results: dict) -> dict:
    if results["integrity"] is None:
        return {}
    metrics, table = results["integrity"]["metrics"], rows(results)
    moves = [moved(row) for row in table]
    return {
        "integrity": {
            "folds": metrics["folds"],
            "view1": metrics["view1"],
            "names": metrics["names"]["identities"],
            "identities": {"train": metrics["train"]["identities"], "test": metrics["lfw"]["identities"]},
            "overlap": overlap(results["integrity"]),
            "rows": table,
            "moves": [move for move in moves if abs(move["move"]) >= MOVED],
            "moved_limit": MOVED,
            "duplicates": duplicates(metrics["duplicates"]),
        }
    }


def overlap(check: dict) -> dict:
    """How many training identities come near one of the test, beside how many would by chance (three more, and three
    times as many, are still called chance).
    """
    metrics = check["metrics"]
    measured, beyond = metrics["overlap"], metrics["overlap"]["beyond_chance"]
    expected = (1 - CHANCE) * metrics["train"]["identities"]
    return {
        "model": Path(check["parameters"]["model"]).stem,
        "highest": measured["highest"],
        "threshold": measured["threshold"],
        "suspects": measured["suspects"],
        "one_in": round(1 / (1 - CHANCE)),
        "chance_threshold": beyond["threshold"],
        "beyond": beyond["suspects"],
        "expected": expected,
        "verdict": "chance" if beyond["suspects"] <= 3 * expected + 3 else "beyond",
    }


def rows(results: dict) -> list[dict]:
    """Accuracy and AUC in normal light on all pairs and without the suspects of either limit, of the compared models
    and of the released one.
    """
    runs, names = compared_runs(results), {"released": ("released", None)}
    if runs:
        backbones = [results["plan"][role] for role in ("light", "heavy")]
        names = {run_name(backbone, runs[0]): (backbone, runs[0]) for backbone in backbones} | names
    without = results["statistics"]["metrics"].get("without_suspects", {}) if results["statistics"] else {}
    found = []
    for name, (model, ratio) in names.items():
        left = without.get(f"{name}-normal")
        if left and all("accuracy" in measured for measured in left.values()):
            every = results["verify"][f"{name}-normal"]["metrics"]
            row = {"model": model, "ratio": ratio, "accuracy": every["accuracy"], "auc": every["auc"]}
            keys = ("pairs", "accuracy", "auc")
            found.append(row | {limit: {key: left[limit][key] for key in keys} for limit in left})
    return found


def moved(row: dict) -> dict:
    """The larger of the two moves of a row's accuracy."""
    left = [row[limit] for limit in ("threshold", "chance") if limit in row]
    most = max(left, key=lambda without: abs(without["accuracy"] - row["accuracy"]))
    return {"model": row["model"], "move": most["accuracy"] - row["accuracy"], "pairs": most["pairs"]}


def duplicates(places: dict) -> dict:
    """Pairs of equal images, and of one photograph saved again, by place; with how many lie under two names."""
    found = {place: {kind: measured[kind] for kind in ("exact", "near")} for place, measured in places.items()}
    for place in ("train", "lfw"):
        measured = places[place]
        found[place]["two_names"] = measured["exact_of_two_identities"] + measured["near_of_two_identities"]
    any_pair = any(measured["exact"] or measured["near"] for measured in found.values())
    return found | {"verdict": "some" if any_pair else "none"}
