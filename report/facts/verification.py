"""What the models achieve: the tables of verifications and the sentences on them."""

import math
from pathlib import Path

import numpy as np

from facelib.verification import bootstrap, comparison, measures, uncertainty
from report.results import folds, is_synthetic, over_seeds, run_name, trained
from report.words import interval_words, join, p_words, percent, percent_fine, points, spread, tex

PUBLISHED_RELEASED = {"arcface_mobilefacenet_y1": 0.9950}
TAR = f"tar_at_far_{measures.FAR:g}"
PERCENT = f"{100 * bootstrap.LEVEL:g}\\,\\%"
CHANCE_AUC = 0.5
CHANCE_ERRORS = 3  # standard errors above it, up to which a curve counts as chance


def values(results: dict) -> dict[str, str]:
    """Numbers and claims on what the models achieve: key -> LaTeX. What no run has told yet has no key."""
    found = {
        "far": f"{100 * measures.FAR:g}\\,\\%",
        "chance.auc": f"{CHANCE_AUC:g}",
        "chance.errors": f"{CHANCE_ERRORS:g}",
        "claim.chance": claim_chance(results),
        "claim.ratio": claim_ratio(results),
        "claim.backbones": claim_backbones(results),
        "claim.seeds": claim_seeds(results),
        "claim.calibration": claim_calibration(results),
        "claim.low": claim_low_light(results),
        "claim.released": claim_released(results),
    }
    return found | test_values(results) | statistics_values(results)


def test_values(results: dict) -> dict[str, str]:
    """The test data and the protocol, from the verifications themselves."""
    if not results["verify"]:
        return {}
    run = next(iter(results["verify"].values()))
    genuine = int(run["genuine"].sum())
    faces = "Labeled Faces in the Wild~\\cite{lfw}, View 2"
    if run["parameters"]["images"] == "lfw-deepfunneled":
        faces += ", deep-funneled~\\cite{deepfunneling}"
    if is_synthetic(run):
        faces = "synthetic, drawn by facelib in LFW's format, of identities that are not in training"
    return {
        "test.pairs": f"{len(run['genuine']):,}",
        "test.genuine": f"{genuine:,}",
        "test.impostor": f"{len(run['genuine']) - genuine:,}",
        "test.images": f"{run['metrics']['images']:,}",
        "test.folds": str(folds(run)),
        "claim.test_data": f"The test faces are {faces}.",
        "claim.flip": claim_flip(results),
    }


def claim_flip(results: dict) -> str:
    """Which models were given the flip-test."""
    flips: dict[str, set[bool]] = {}
    for name, run in results["verify"].items():
        of = "released" if name.startswith("released") else "trained"
        flips.setdefault(of, set()).add(run["parameters"]["flip"])
    words = {"released": "the released model", "trained": "the trained models"}
    sums = "an image's embedding and its mirror image's are added"
    flipped = join([words[of] for of in words if flips.get(of) == {True}])
    others = join([words[of] for of in words if of in flips and flips[of] != {True}])
    if not flipped:
        return f"In a flip-test {sums}; it is given to no model."
    return f"In the flip-test {sums}; it is given to {flipped}{f', not to {others}' if others else ''}."


def statistics_values(results: dict) -> dict[str, str]:
    """How the intervals were made."""
    if not results["statistics"]:
        return {}
    return {"level": PERCENT, "resamples": f"{results['statistics']['metrics']['resamples']:,}"}


def bands(results: dict, name: str) -> dict[str, dict]:
    """A verification's bands for plots.curve_panels, under `bands`; nothing where there are none yet."""
    if not results["statistics"] or f"{name}/roc" not in results["statistics"]["bands"]:
        return {}
    found = {kind: results["statistics"]["bands"][f"{name}/{kind}"] for kind in ("roc", "pr")}
    return {"bands": {kind: (uncertainty.GRID, *band) for kind, band in found.items()}}


def chance_bound(genuine: np.ndarray) -> float:
    """The AUC that a model without skill exceeds once in 740: 0.5 plus three standard errors (Hanley & McNeil 1982)."""
    m, n = int(genuine.sum()), int((~genuine).sum())
    return CHANCE_AUC + CHANCE_ERRORS * math.sqrt((m + n + 1) / (12 * m * n))


def claim_chance(results: dict) -> str:
    runs = trained(results)
    if not runs:
        return ""
    above = {key: run for key, run in runs.items() if run["metrics"]["auc"] > chance_bound(run["genuine"])}
    lowest = min(run["metrics"]["auc"] for run in runs.values())
    highest = max(run["metrics"]["auc"] for run in runs.values())
    if len(above) == len(runs):
        all_curves = {1: "the one curve lies", 2: "both curves lie"}.get(len(runs), f"all {len(runs)} curves lie")
        return f"In normal light {all_curves} above chance, with AUC from {lowest:.3f} to {highest:.3f}."
    if not above:
        return f"In normal light none of the {len(runs)} curves can be told from chance (highest AUC {highest:.3f})."
    at_chance = join([f"{tex(b)} at $r = {r:g}$" for b, r in runs if (b, r) not in above])
    count = f"{len(above)} of {len(runs)} curves lie above chance (highest AUC {highest:.3f})"
    return f"In normal light {count}; not so {at_chance}."


def claim_ratio(results: dict) -> str:
    sentences = []
    for role in ("light", "heavy"):
        backbone = results["plan"][role]
        runs = {ratio: run for (b, ratio), run in trained(results).items() if b == backbone}
        if len(runs) < 2:
            continue
        least, most = min(runs), max(runs)
        a, b = runs[least]["metrics"]["auc"], runs[most]["metrics"]["auc"]
        change = "gains" if b > a + 0.005 else "loses" if b < a - 0.005 else "neither gains nor loses"
        sentences.append(f"From $r = {least:g}$ to $r = {most:g}$ {tex(backbone)} {change} (AUC {a:.3f} to {b:.3f}).")
    return " ".join(sentences)


def compare(results: dict) -> dict | None:
    """Light against heavy at the largest ratio that both finished: their runs and the comparison's finding."""
    plan, runs = results["plan"], trained(results)
    ratios = [r for r in plan["ratios"] if (plan["light"], r) in runs and (plan["heavy"], r) in runs]
    if not ratios or results["statistics"] is None:
        return None
    ratio = max(ratios)
    found = results["statistics"]["metrics"]["compare"].get(f"r{ratio:g}-normal")
    return found and found | {"ratio": ratio, "light": runs[plan["light"], ratio], "heavy": runs[plan["heavy"], ratio]}


def difference_words(found: dict) -> str:
    """The light backbone's accuracy minus the heavy one's, with its interval."""
    d = found["difference"]
    interval = f"{PERCENT} interval ${points(d['low'], '+')}$ to ${points(d['high'], '+')}$"
    return f"${points(d['estimate'], '+')}$ points, {interval}"


def claim_backbones(results: dict) -> str:
    found = compare(results)
    if found is None:
        return ""
    accuracy = {role: found[role]["metrics"]["accuracy"] for role in ("light", "heavy")}
    verdict = {
        "better": "the light one is ahead",
        "worse": "the heavy one is ahead",
        "even": "they can't be told apart; a difference of"
        f" {points(found['detectable'])} points would have shown with a power of {100 * comparison.POWER:g}\\,\\%",
    }
    return (
        f"At $r = {found['ratio']:g}$ the light backbone reaches {percent(accuracy['light'])} accuracy and the heavy"
        f" one {percent(accuracy['heavy'])} ({difference_words(found)}). On {found['only_first']:,} pairs only the"
        f" light one is right, on {found['only_second']:,} only the heavy one (McNemar's exact {p_words(found['p'])}):"
        f" {verdict[found['verdict']]}."
    )


def claim_seeds(results: dict) -> str:
    """How far the seed alone moves each backbone at the compared ratio, and whether that explains their difference."""
    found = compare(results)
    if found is None:
        return ""
    deviations, sentences = [], []
    for role in ("light", "heavy"):
        runs = over_seeds(results, run_name(results["plan"][role], found["ratio"]))
        accuracies = [run["metrics"]["accuracy"] for run in runs]
        label = f"the {role} backbone"
        if len(accuracies) < 2:
            sentences.append(f"{label} has one seed")
            continue
        deviations.append(float(np.std(accuracies, ddof=1)))
        sentences.append(
            f"over {len(accuracies)} seeds {label}'s accuracy is {spread(accuracies, 100, 1)}\\,\\% (mean and standard"
            " deviation)"
        )
    sentence = f"At $r = {found['ratio']:g}$ {join(sentences)}."
    if len(deviations) < 2:
        sentence += " How far the seed alone moves a backbone can't be told from one."
    if deviations:
        difference = abs(found["difference"]["estimate"])
        error = 2 * math.sqrt(2) * max(deviations)  # of a difference of two runs, twice its standard deviation
        words = (
            "is more than two runs that differ by their seed alone would show"
            if difference > error
            else ("is no more than two runs that differ by their seed alone could show")
        )
        sentence += f" The difference between the backbones, {points(difference)} points, {words}"
        sentence += f" (twice the deviation of such a difference: {points(error)})."
    return sentence


def claim_low_light(results: dict) -> str:
    normal, low = trained(results), trained(results, "low")
    both = [key for key in normal if key in low]
    if not both:
        return ""
    losses = [normal[key]["metrics"]["auc"] - low[key]["metrics"]["auc"] for key in both]
    if max(losses) < 0.005:
        sentence = "The low-light transform costs none of the trained models as much as 0.005 of AUC"
    else:
        sentence = (
            f"The low-light transform costs {sum(loss >= 0.005 for loss in losses)} of {len(losses)} trained models"
        )
        sentence += f" 0.005 of AUC or more (at most {max(losses):.3f})"
    gain = sum(loss <= -0.005 for loss in losses)
    if gain:
        sentence += f"; {gain} gain{'s' if gain == 1 else ''} by it (at most {-min(losses):.3f})"
    return sentence + "."


def claim_released(results: dict) -> str:
    normal, low = results["verify"].get("released-normal"), results["verify"].get("released-low")
    if normal is None:
        return ""
    name = Path(results["plan"]["released"]).stem
    sentence = f"The released model ({tex(name)}) reaches {percent_fine(normal['metrics']['accuracy'])} accuracy"
    published = None if is_synthetic(normal) else PUBLISHED_RELEASED.get(name)
    sentence += f"; {percent_fine(published)} are published \\cite{{insightface}}." if published else "."
    if normal["metrics"]["auc"] > chance_bound(normal["genuine"]):
        sentence += " It is above chance, where the published report's curves of a released model are not."
    else:
        sentence += " It can't be told from chance, as in the published report."
    if low is not None:
        sentence += (
            f" In low light it keeps {percent_fine(low['metrics']['accuracy'])} (AUC {low['metrics']['auc']:.3f})."
        )
    return sentence


def results_table(results: dict, light: str) -> str:
    """Tables II and III: a row a model, its measures in one light with their intervals, and their mean over seeds."""
    plan = results["plan"]
    backbones = (plan["light"], plan["heavy"])
    names = [(run_name(b, r), tex(b), f"{r:g}") for b in backbones for r in plan["ratios"]]
    names.append(("released", "released", "--"))
    rows = []
    for name, label, ratio in names:
        run = results["verify"].get(f"{name}-{light}")
        if run is None:
            continue
        sure = results["statistics"]["metrics"]["verify"].get(f"{name}-{light}", {}) if results["statistics"] else {}
        m = run["metrics"]
        cells = [label, ratio, str(sure.get("errors", "--"))]
        if "accuracy" in m:
            shares = (m["accuracy"], m["accuracy_std"], m["accuracy_std"] / math.sqrt(folds(run)))
            cells += [f"{100 * share:.2f}" for share in shares]
        else:
            cells += ["--"] * 3
        cells.append(interval_words(sure.get("accuracy"), 100, 1))
        for key, scale, digits in (("auc", 1, 3), ("eer", 100, 1), (TAR, 100, 1)):
            cells += [
                f"{scale * m[key]:.{digits}f}" if key in m else "--",
                interval_words(sure.get(key), scale, digits),
            ]
        seeds = [] if name == "released" else over_seeds(results, name, light)
        for key, scale, digits in (("accuracy", 100, 1), ("auc", 1, 3)):
            cells.append(spread([run["metrics"][key] for run in seeds if key in run["metrics"]], scale, digits))
        cells.append(str(len(seeds) or "--"))
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"


def calibrations(results: dict) -> list[tuple[str, str, str, dict]]:
    """Rows of the calibration table: model, light, light that the threshold is from, the calibration's finding.

    Of the trained models those at the compared ratio, and the released one.
    """
    if not results["statistics"]:
        return []
    compared, found = compare(results), results["statistics"]["metrics"]["calibration"]
    names = (
        {run_name(results["plan"][role], compared["ratio"]): results["plan"][role] for role in ("light", "heavy")}
        if (compared)
        else {}
    )
    rows = []
    for name, label in (names | {"released": "released"}).items():
        keys = {("normal", "normal"): f"{name}-normal", ("low", "low"): f"{name}-low"}
        keys |= {("low", "normal"): f"{name}-low from normal"}
        rows += [(label, *lights, found[key]) for lights, key in keys.items() if key in found]
    return rows


def calibration_table(results: dict) -> str:
    rows = []
    for label, light, chosen, found in calibrations(results):
        where = light if light == chosen else f"{light}$^*$"
        cells = [tex(label), where, f"{found['threshold']:.3f} $\\pm$ {found['threshold_std']:.3f}"]
        cells += [f"{100 * found['far']:.1f}", f"{100 * found['frr']:.1f}"]
        cells += [f"{100 * found['realised_far']:.1f} $\\pm$ {100 * found['realised_far_std']:.1f}"]
        cells += [f"{100 * found['realised_frr']:.1f}"]
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"


def claim_calibration(results: dict) -> str:
    """Whether thresholds keep the FAR that they were chosen for, in their own light and in the other."""
    rows = calibrations(results)
    if not rows:
        return ""
    own = [found["realised_far"] for _, light, chosen, found in rows if light == chosen]
    moved = {label: found for label, light, chosen, found in rows if light != chosen}
    asked = rows[0][3]["asked_far"]
    kept = max(own) <= 2 * asked
    sentence = (
        f"A threshold chosen for a FAR of {percent(asked)} on the other folds gives {percent(min(own))} to"
        f" {percent(max(own))} on each, {'so it holds' if kept else 'so it does not hold everywhere'}."
    )
    if moved:
        words = [f"{tex(label)} {percent(found['realised_far'])} (false rejects {percent(found['realised_frr'])})"
                 for label, found in moved.items()]  # fmt: skip
        worst = max(found["realised_far"] for found in moved.values())
        verdict = (
            f"up to {worst / asked:.0f} times what was asked for" if worst > 2 * asked else "no more than twice that"
        )
        sentence += f" Taken from normal light into low light it gives {join(words)}: {verdict}."
    return sentence
