"""The training data and the recipe, from the runs themselves."""

from pathlib import Path

from report.plan import PACK

RECIPE = ("epochs", "batch_size", "learning_rate", "clip", "scale", "margin", "embedding_size", "warmup", "seed")


def facts(results: dict) -> dict:
    """The recipe's values, each with the runs that have it, and the sizes of the training sets."""
    if not results["train"]:
        return {}
    runs = sorted(results["train"].values(), key=lambda run: run["metrics"]["ratio"])
    sizes = {run["metrics"]["ratio"]: run["metrics"] for run in runs}
    not_found = [run["metrics"]["faces_not_found"] for run in runs]
    return {
        "training": {key: said(runs, [run["parameters"][key] for run in runs]) for key in RECIPE}
        | {
            "optimizer": said(runs, [optimizer(run["parameters"]) for run in runs]),
            "schedule": said(runs, [schedule(run["parameters"]) for run in runs]),
            "precision": said(runs, [run["metrics"]["precision"] for run in runs]),
            "sampled": unusual(runs, "sample_rate", 1),
            "averaged": unusual(runs, "ema", 0),
            "continued": [
                of(run) | {"after": run["metrics"]["continued_after_steps"], "steps": run["metrics"]["steps"]}
                for run in runs
                if run["metrics"]["continued_after_steps"]
            ],
            "sizes": [
                {"ratio": ratio} | {key: measured[key] for key in ("images", "identities", "dropped_identities")}
                for ratio, measured in sizes.items()
            ],
            "faces": Path(runs[0]["parameters"]["data"]).name.removesuffix(PACK),
            "not_found": None if None in not_found else max(not_found),
            "stored_aligned": bool(results["data"]) and results["data"]["metrics"]["train"]["faces_found"] is None,
        }
    }


def of(run: dict) -> dict:
    return {key: run["parameters"][key] for key in ("backbone", "ratio")}


def said(runs: list[dict], values: list) -> list[dict]:
    """Each value once, with the runs that have it."""
    groups = []
    for run, value in zip(runs, values):
        group = next((group for group in groups if group["value"] == value), None)
        if group is None:
            group = {"value": value, "runs": []}
            groups.append(group)
        group["runs"].append(of(run))
    return groups


def unusual(runs: list[dict], key: str, usual: float) -> list[dict]:
    """Like `said`, without the runs that have the usual value; `all` if no run has it."""
    groups = said(runs, [run["parameters"].get(key, usual) for run in runs])
    return [group | {"all": len(groups) == 1} for group in groups if group["value"] != usual]


def optimizer(recipe: dict) -> dict:
    momentum = recipe["momentum"] if recipe["optimizer"] == "sgd" else None
    return {"name": recipe["optimizer"], "momentum": momentum, "weight_decay": recipe["weight_decay"]}


def schedule(recipe: dict) -> dict:
    polynomial = recipe["schedule"] != "cosine"
    return {"cosine": not polynomial, "power": recipe["power"] if polynomial else None, "over": recipe["decay_over"]}
