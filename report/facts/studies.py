"""The report's tables and claims of its three studies: the evaluation ladder, the training ladder and low light."""

import math
from dataclasses import dataclass

import numpy as np

from facelib.faces import light
from report import training_ladder
from report.words import count, interval_words, join, percent, points, spread, tex

CHANCE = (0.45, 0.56)  # AUC of what counts as chance here: also where a defect turns a verifier against itself
# What the rungs are called in the table.
UP = {
    "published": "as published",
    "order": "+ normalised last",
    "light": "+ normal light",
    "one crop": "+ centre crop",
    "alignment": "+ aligned",
    "View 2": "+ View 2",
    "folds": "+ threshold of other folds",
    "flip": "+ flip-test",
}
DOWN = {
    "corrected": "corrected",
    "low light, normalised first": "low light, normalised first",
    "low light": "low light",
    "random crop": "random crop",
    "centre crop": "centre crop",
    "resized": "whole image resized",
    "dev test": "View 1, threshold of same pairs",
    "same pairs": "threshold of same pairs",
    "no flip": "no flip-test",
}
WALKS = {"up": UP, "down": DOWN}
RECIPES = {"published": "published", "momentum": "+ momentum", "schedule": "+ schedule", "alignment": "+ alignment"}
REPAIRS = {"gain": "gain", "gamma": "a gamma curve", "equalise": "histogram equalisation", "clahe": "CLAHE"}


def models_of(results: dict, study: str) -> dict[str, str]:
    """Model -> its name in tables, of those with this study finished, the released one first."""
    there = sorted(results[study], key=lambda name: name != "released")
    return {name: tex(name.replace("-r", ", r = ")) for name in there}


def in_a_sentence(model: str, label: str) -> str:
    return "the released model" if model == "released" else label


def sure(results: dict, study: str, model: str, name: str) -> dict:
    """The statistics of a rung or condition; empty where they are not made yet."""
    if not results["statistics"]:
        return {}
    return results["statistics"]["metrics"].get(study, {}).get(model, {}).get(name, {})


def tables(results: dict) -> dict[str, str]:
    """File name -> rows of a table."""
    models = models_of(results, "evaluation_ladder")
    head = " & ".join(["", *(f"\\multicolumn{{3}}{{c}}{{{label}}}" for label in models.values())]) + " \\\\"
    columns = " & ".join(["", *["acc. (\\%) & \\multicolumn{2}{c}{AUC}"] * len(models)]) + " \\\\"
    rows = [head, columns, "\\midrule"] if models else []
    for walk, labels in WALKS.items():
        for name, label in labels.items():
            cells = ladder_cells(results, models, f"{walk}/{name}")
            if cells:
                rows.append(" & ".join([label, *cells]) + " \\\\")
        rows.append("\\midrule" if walk == "up" else "")
    return {"table_ladder": "\n".join(rows) + "\n", "table_training_ladder": training_rows(results)}


def ladder_cells(results: dict, models: dict[str, str], rung: str) -> list[str]:
    """Accuracy, AUC and its interval of each model on a rung; nothing if no model has the rung."""
    cells = []
    for model in models:
        measured = results["evaluation_ladder"][model]["metrics"].get(rung)
        if measured is None:
            cells += ["--", "--", ""]
        else:
            interval = interval_words(sure(results, "evaluation_ladder", model, rung).get("auc"), 1, 3)
            cells += [f"{100 * measured['accuracy']:.1f}", f"{measured['auc']:.3f}", interval]
    return cells if set(cells) - {"--", ""} else []


def rungs_of(results: dict) -> dict[str, str]:
    """`up/<mend>` and `down/<defect>` -> its words, of the rungs that any model has."""
    labels = {f"{walk}/{name}": words for walk, of in WALKS.items() for name, words in of.items()}
    measured = [run["metrics"] for run in results["evaluation_ladder"].values()]
    return {rung: words for rung, words in labels.items() if any(rung in metrics for metrics in measured)}


def auc_along(results: dict, model: str, rungs: list[str]) -> dict[str, np.ndarray]:
    """For plots.ladder: `auc`, `low` and `high` (K,) of the rungs, NaN where there is none."""
    measured = results["evaluation_ladder"][model]["metrics"]
    intervals = [sure(results, "evaluation_ladder", model, rung).get("auc", {}) for rung in rungs]
    found = {"auc": np.array([measured.get(rung, {}).get("auc", np.nan) for rung in rungs])}
    return found | {end: np.array([interval.get(end, np.nan) for interval in intervals]) for end in ("low", "high")}


def along_stops(results: dict, model: str, measure: str) -> dict:
    """For low_light_plots.against_stops: the measure without repair, and its band where there is one."""
    metrics = results["low_light"][model]["metrics"]
    names = [f"{k}/none" for k in metrics["stops"]]
    found = {"stops": metrics["stops"], "values": [metrics["conditions"][name][measure] for name in names]}
    bands = [sure(results, "low_light", model, name).get(measure) for name in names]
    return found | ({end: [band[end] for band in bands] for end in ("low", "high")} if all(bands) else {})


@dataclass
class Rung:
    """One recipe of the training ladder, over its seeds."""

    losses: list[float]
    accuracies: list[float]
    aucs: list[float]


def training_rungs(results: dict) -> dict[tuple[str, str], Rung]:
    """(role, rung) -> its finished runs, those that are trained and verified."""
    found: dict[tuple[str, str], Rung] = {}
    for role in ("light", "heavy"):
        for rung in training_ladder.RUNGS:
            for name, run in results["ladder_train"].items():
                verified = results["ladder_verify"].get(f"{name}-normal")
                if verified and name.startswith(f"ladder-{results['plan'][role]}-{rung}-s"):
                    of = found.setdefault((role, rung), Rung([], [], []))
                    of.losses.append(run["metrics"]["last_epoch_loss"])
                    of.accuracies.append(verified["metrics"]["accuracy"])
                    of.aucs.append(verified["metrics"]["auc"])
    return found


def training_rows(results: dict) -> str:
    rows = []
    for (role, rung), of in training_rungs(results).items():
        cells = [tex(results["plan"][role]), RECIPES[rung], str(len(of.aucs))]
        cells += [spread(of.losses, 1, 1), spread(of.accuracies, 100, 1), spread(of.aucs, 1, 3)]
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"


def values(results: dict) -> dict[str, str]:
    """Numbers and claims of the studies: key -> LaTeX. What no run has told yet has no key, or is an empty sentence."""
    found = {
        "claim.reproduced": claim_reproduced(results),
        "claim.ladder": claim_ladder(results),
        "claim.training_ladder": claim_training_ladder(results),
        "claim.dark": claim_dark(results),
        "claim.repairs": claim_repairs(results),
        "sensor.well": f"{light.FULL_WELL:,}",
        "sensor.noise": f"{light.READ_NOISE:g}",
    }
    trained = next(iter(results["ladder_train"].values()), None)
    if trained:
        found["ladder.ratio"] = f"{trained['parameters']['ratio']:g}"
        found["ladder.epochs"] = count(trained["parameters"]["epochs"], "epoch")
    tested = next(iter(results["ladder_verify"].values()), None)
    if tested:
        found["ladder.tested"] = f"{tested['metrics']['pairs']:,}"
    study = next(iter(results["low_light"].values()), None)
    if study:
        found["dark.pairs"] = f"{study['metrics']['pairs']:,}"
        found["dark.most"] = str(max(study["metrics"]["stops"]))
    if results["evaluation_ladder"]:
        counts = {name: run["metrics"]["down/corrected"]["pairs"] for name, run in results["evaluation_ladder"].items()}
        by_count = {n: [name for name in counts if counts[name] == n] for n in sorted({*counts.values()}, reverse=True)}
        words = [f"{n:,} for {join([tex(name) for name in names])}" for n, names in by_count.items()]
        found["ladder.pairs"] = join(words) if len(words) > 1 else f"{max(by_count):,}"
    return found


def claim_reproduced(results: dict) -> str:
    """Whether the published protocol alone puts a model at chance."""
    sentences = []
    for model, label in models_of(results, "evaluation_ladder").items():
        rungs = results["evaluation_ladder"][model]["metrics"]
        published, corrected = rungs["up/published"]["auc"], rungs["down/corrected"]
        interval = sure(results, "evaluation_ladder", model, "up/published").get("auc")
        chance = CHANCE[0] <= published <= CHANCE[1] or bool(interval and interval["low"] <= 0.5 <= interval["high"])
        sentences.append(
            f"Under the published protocol {in_a_sentence(model, label)} is{'' if chance else ' not'} at chance"
            f" (AUC {published:.3f}); under the corrected one it reaches {percent(corrected['accuracy'])} accuracy and"
            f" an AUC of {corrected['auc']:.3f}."
        )
    return " ".join(sentences)


def costs(results: dict, model: str) -> dict[str, float]:
    """What each defect alone, put back into the corrected protocol, costs the model: name -> AUC lost."""
    rungs = results["evaluation_ladder"][model]["metrics"]
    whole = rungs["down/corrected"]["auc"]
    return {
        name: whole - rungs[f"down/{name}"]["auc"] for name in DOWN if name != "corrected" and f"down/{name}" in rungs
    }


def claim_ladder(results: dict) -> str:
    """Which defect costs how much, of the released model or else of the one with the most to lose."""
    if not results["evaluation_ladder"]:
        return ""
    whole = {name: run["metrics"]["down/corrected"]["auc"] for name, run in results["evaluation_ladder"].items()}
    model = "released" if "released" in whole else max(whole, key=whole.get)
    lost = costs(results, model)
    ordered = sorted(lost, key=lost.get, reverse=True)
    dear = [name for name in ordered if lost[name] >= 0.01]
    cheap = [name for name in ordered if lost[name] < 0.01]
    label = in_a_sentence(model, models_of(results, "evaluation_ladder")[model])
    if not dear:
        return f"No defect alone costs {label} as much as 0.01 of AUC."
    words = join([f"{DOWN[name]} {lost[name]:.3f}" for name in dear])
    sentence = (
        f"Put back alone into the corrected protocol, of {label}'s AUC of {whole[model]:.3f} these cost: {words}."
    )
    if cheap:
        sentence += f" Less than 0.01 {'each ' if len(cheap) > 1 else ''}cost{'s' if len(cheap) == 1 else ''}"
        sentence += f" {join([DOWN[name] for name in cheap])}."
    alone = [DOWN[name] for name in dear if CHANCE[0] <= whole[model] - lost[name] <= CHANCE[1]]
    if alone:
        sentence += (
            f" {join(alone).capitalize()} {'is' if len(alone) == 1 else 'are each'} enough to explain a curve at"
        )
        sentence += " chance."
    return sentence


def claim_training_ladder(results: dict) -> str:
    """Per backbone the first rung against the last, told apart only beyond the seeds' spread."""
    rungs, sentences = training_rungs(results), []
    for role in ("light", "heavy"):
        first, last = rungs.get((role, "published")), rungs.get((role, "alignment"))
        if first is None or last is None:
            continue
        gain = np.mean(last.aucs) - np.mean(first.aucs)
        words = f"AUC {np.mean(first.aucs):.3f} to {np.mean(last.aucs):.3f}"
        backbone = tex(results["plan"][role])
        if min(len(first.aucs), len(last.aucs)) < 2:
            sentences.append(f"{backbone} goes from {words}, with one seed, whose chance is not known.")
            continue
        error = math.sqrt(np.var(first.aucs, ddof=1) / len(first.aucs) + np.var(last.aucs, ddof=1) / len(last.aucs))
        told = abs(gain) > 3 * error
        change = "gains by the mended recipe" if gain > 0 else "loses by the mended recipe"
        verdict = change if told else "shows no change beyond the spread of its seeds"
        sentences.append(f"{backbone} {verdict} ({words}, {len(last.aucs)} seeds).")
    return " ".join(sentences)


def claim_dark(results: dict) -> str:
    """From how many stops on a model loses what it had."""
    sentences = []
    for model, label in models_of(results, "low_light").items():
        metrics = results["low_light"][model]["metrics"]
        aucs = {k: metrics["conditions"][f"{k}/none"]["auc"] for k in metrics["stops"]}
        normal, most = metrics["conditions"]["normal"]["auc"], max(aucs)
        fallen = [k for k in aucs if aucs[k] < normal - 0.01]
        when = (
            f"loses 0.01 of AUC or more from {count(fallen[0], 'stop')} on" if fallen else "loses less than 0.01 of AUC"
        )
        subject = "The released model" if model == "released" else label
        sentences.append(f"{subject} {when} ({normal:.3f} in normal light, {aucs[most]:.3f} at {count(most, 'stop')}).")
    return " ".join(sentences)


def claim_repairs(results: dict) -> str:
    """What each repair brings back, at the darkest, of what was lost."""
    sentences = []
    for model, label in models_of(results, "low_light").items():
        metrics = results["low_light"][model]["metrics"]
        if len(metrics["repairs"]) < 2:
            continue
        most = max(metrics["stops"])
        found = {name: metrics["conditions"][f"{most}/{name}"]["accuracy"] for name in metrics["repairs"]}
        normal, dark = metrics["conditions"]["normal"]["accuracy"], found.pop("none")
        if normal - dark < 0.01:
            sentences.append(
                f"At {count(most, 'stop')} {in_a_sentence(model, label)} has nothing to be repaired: it loses"
                f" {points(normal - dark)} points."
            )
            continue
        best = max(found, key=found.get)
        back = (found[best] - dark) / (normal - dark)
        words = join([f"{REPAIRS[name]} {percent(share)}" for name, share in found.items()])
        verdict = "brings nothing back" if back <= 0 else f"brings back {100 * min(back, 1):.0f}\\,\\% of what was lost"
        sentences.append(
            f"At {count(most, 'stop')} {in_a_sentence(model, label)} falls from {percent(normal)} to {percent(dark)}"
            f" accuracy; repaired, it reaches: {words}. The best of them, {REPAIRS[best]}, {verdict}."
        )
    return " ".join(sentences)
