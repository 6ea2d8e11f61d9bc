"""The report's numbers, tables and claims, as LaTeX, from the results on disk.

A number enters the text as `\\val{key}`, a sentence that depends on the results as `\\val{claim...}`: the functions
here choose its words by the numbers. A key that was not written is an error in LaTeX, never a gap.
"""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facelib import alignment, bootstrap, comparison, iresnet, low_light, models, protocol, report_studies, statistics, verification
from facelib.profiles import LADDER
from facelib.words import interval_words, join, p_words, percent, percent_fine, points, tex, times

# Table I of the published report, and what an ArcFace MobileFaceNet is published to reach (insightface's model zoo).
PUBLISHED_COST = {"iresnet50": ("43.590", "6.330"), "efficientnet_b3": ("11.483", "0.274")}
PUBLISHED_RELEASED = {"arcface_mobilefacenet_y1": 0.9950}
TAR = f"tar_at_far_{verification.FAR:g}"
PERCENT = f"{100 * bootstrap.LEVEL:g}\\,\\%"
FIGURES = ("block", "architectures", "precision_recall", "roc", "released_precision_recall", "released_roc")
FIGURES += ("auc_against_ratio", "loss", "ladder", "published_precision_recall", "published_roc")
FIGURES += ("low_light_example", "low_light_auc", "low_light_accuracy", "repairs")
CHANCE_AUC = 0.5
CHANCE_ERRORS = 3  # standard errors above it, up to which a curve counts as chance
USABLE_AUC = 0.9  # below, an impostor pair outscores a genuine one more than once in ten: no verifier to rely on


def load_results(build: Path) -> dict:
    """The plan with what its finished runs left: train, verify (with scores), flops and statistics (with bands). The
    training ladder's runs stand apart, under ladder_train and ladder_verify.

    The unfinished ones are listed. A run that was made with other parameters than the plan's counts as unfinished.
    """
    plan = json.loads((build / "plan.json").read_text())
    results = {"plan": plan, "flops": None, "statistics": None, "unfinished": []}
    kinds = ("train", "verify", "ladder_train", "ladder_verify", "evaluation_ladder", "low_light")
    results |= {kind: {} for kind in kinds}
    for name, run in plan["runs"].items():
        folder = Path(run["parameters"]["output"])
        found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
        asked, made_with = run["parameters"], found.get("parameters", {})
        if "metrics" not in found or any(made_with.get(key, asked[key]) != asked[key] for key in asked):
            results["unfinished"].append(name)
            continue
        kind, _, key = name.partition("/")
        if kind == "flops":
            results["flops"] = found
        elif kind == "statistics":
            with np.load(folder / "bands.npz", allow_pickle=False) as arrays:
                results["statistics"] = found | {"bands": {name: arrays[name] for name in arrays.files}}
        elif kind == "train":
            results[f"ladder_{kind}" if key.startswith(LADDER) else kind][key] = found | {"log": pd.read_csv(folder / "log.csv")}
        else:
            of = f"ladder_{kind}" if key.startswith(LADDER) else kind
            with np.load(folder / "scores.npz", allow_pickle=False) as arrays:
                results[of][key] = found | {name: arrays[name] for name in arrays.files}
    return results


def run_name(backbone: str, ratio: float) -> str:
    return f"{backbone}-r{ratio:g}"


def values(results: dict) -> dict[str, str]:
    """Every number and claim of the text: key -> LaTeX. What no run has told yet has no key."""
    plan = results["plan"]
    residual = iresnet.IResNet((1, 1, 1, 1), width=8)
    stem = residual.conv1
    found = {
        "heavy": tex(plan["heavy"]),
        "light": tex(plan["light"]),
        "ratios": ", ".join(f"{ratio:g}" for ratio in plan["ratios"]),
        "crop": str(models.SIZE),
        "stem.kernel": str(stem.kernel_size[0]),
        "stem.stride": str(stem.stride[0]),
        "block.stride": str(residual.layer2[0].conv2.stride[0]),
        "low.factor": str(low_light.LOW_LIGHT_FACTOR),
        "low.bits": str(torch.iinfo(torch.uint8).bits),
        "low.highest": str(int(low_light.published(torch.tensor([255], dtype=torch.uint8)))),
        "far": f"{100 * verification.FAR:g}\\,\\%",
        "chance.auc": f"{CHANCE_AUC:g}",
        "chance.errors": f"{CHANCE_ERRORS:g}",
        "digits": str(alignment.DIGITS),
        "left.out": " ".join(tex(sentence) for sentence in plan["left_out"]),
        "claim.unfinished": claim_unfinished(results["unfinished"]),
        "claim.chance": claim_chance(results),
        "claim.ratio": claim_ratio(results),
        "claim.backbones": claim_backbones(results),
        "claim.low": claim_low_light(results),
        "claim.released": claim_released(results),
        "claim.stem": claim_stem(results),
        "claim.answer": claim_answer(results),
    }
    found |= train_values(results) | test_values(results) | cost_values(results) | statistics_values(results)
    return found | report_studies.values(results)


def train_values(results: dict) -> dict[str, str]:
    """The training data and the recipe, from the runs themselves."""
    if not results["train"]:
        return {}
    runs = sorted(results["train"].values(), key=lambda run: run["metrics"]["ratio"])
    keys = ("epochs", "batch_size", "learning_rate", "clip", "power", "scale", "margin", "embedding_size")
    found = {f"train.{key}": told(runs, lambda run, key=key: f"{run['parameters'][key]:g}") for key in keys}
    found["train.optimizer"] = told(runs, optimizer_words)
    found["train.warmup"] = told(runs, warmup_words)
    found["train.precision"] = told(runs, lambda run: "bf16 autocast" if run["metrics"]["bf16"] else "float32")
    found["train.seeds"] = told(runs, lambda run: f"{run['parameters']['seed']}")

    by_ratio = {f"{run['metrics']['ratio']:g}": run["metrics"] for run in runs}
    sizes = [f"{m['images']:,} images of {m['identities']:,} identities at $r = {r}$" for r, m in by_ratio.items()]
    dropped = [f"{m['dropped_identities']:,} at $r = {r}$" for r, m in by_ratio.items() if m["dropped_identities"]]
    found["train.sizes"] = join(sizes)
    found["claim.dropped"] = (
        f"Identities that the share leaves without an image are dropped: {join(dropped)}."
        if dropped
        else "No identity loses all its images."
    )

    faces, synthetic = Path(runs[0]["parameters"]["data"]).name, results["plan"]["synthetic"]
    known = {"casia-webface": "those of CASIA-WebFace~\\cite{casia}"}
    source = "synthetic, drawn by facelib" if synthetic else known.get(faces, f"those of the folder {tex(faces)}")
    found["claim.training_data"] = f"The training faces are {source}."
    not_found = [run["metrics"]["faces_not_found"] for run in runs]
    found["claim.landmarks"] = "which came with the images"
    if None not in not_found:
        images = f"all but {max(not_found)} images" if max(not_found) else "every image"
        found["claim.landmarks"] = f"which MTCNN~\\cite{{mtcnn}} finds in {images}"
    return found


def told(runs: list[dict], words: Callable[[dict], str]) -> str:
    """What the words say of the training runs: once if it is the same of all, else of which runs each."""
    said: dict[str, list[str]] = {}
    for run in runs:
        name = f"{tex(run['parameters']['backbone'])} at $r = {run['parameters']['ratio']:g}$"
        said.setdefault(words(run), []).append(name)
    return next(iter(said)) if len(said) == 1 else join([f"{word} ({', '.join(of)})" for word, of in said.items()])


def optimizer_words(run: dict) -> str:
    recipe = run["parameters"]
    if recipe["optimizer"] == "sgd":
        return f"SGD (momentum {recipe['momentum']:g}, weight decay {recipe['weight_decay']:g})"
    return f"AdamW (weight decay {recipe['weight_decay']:g})"


def warmup_words(run: dict) -> str:
    share = run["parameters"]["warmup"]
    return f"after a warm-up over the first {100 * share:g}\\,\\% of the steps" if share else "without warm-up"


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


def statistics_values(results: dict) -> dict[str, str]:
    """How the intervals were made."""
    if not results["statistics"]:
        return {}
    return {"level": PERCENT, "resamples": f"{results['statistics']['metrics']['resamples']:,}"}


def is_synthetic(run: dict) -> bool:
    """Whether a verification's images are those that facelib draws."""
    return run["parameters"]["images"] == "lfw-synthetic"


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


def cost_values(results: dict) -> dict[str, str]:
    if not results["flops"]:
        return {}
    costs = results["flops"]["metrics"]
    heavy, light = costs["heavy"], costs["light"]
    by_flops = heavy["flops"] / light["flops"]
    inference = fastest(light["inference_speed"]) / fastest(heavy["inference_speed"])
    training = fastest(light["training_speed"]) / fastest(heavy["training_speed"])
    mislead = max(by_flops / inference, inference / by_flops) > 1.5
    return {
        "machine": tex(results["flops"]["environment"]["machine"]),
        "claim.cost": cost_words(costs),
        "claim.published": claim_published(results),
        "claim.counted": claim_counted(costs),
        "claim.layout": claim_layout(costs),
        "claim.speed": f"{'FLOPs alone mislead' if mislead else 'FLOPs foretell the speed here'}: by them the light"
        f" backbone should be {times(by_flops)}; measured on this machine, it is {times(inference)} at inference and"
        f" {times(training)} in training.",
    }


# fvcore's and PyTorch's names of operators, in words.
OPERATORS = {"conv": "convolutions", "linear": "linear layers", "batch_norm": "batch normalisation"}
OPERATORS |= {"adaptive_avg_pool2d": "pooling", "mean": "means over feature maps", "add": "sums of feature maps"}
OPERATORS |= {"mul": "products of feature maps"}
OPERATORS |= dict.fromkeys(("prelu", "relu", "silu", "sigmoid", "hardswish", "gelu"), "activation functions")


def claim_counted(costs: dict) -> str:
    """Which operators of the two backbones fvcore counts and which it leaves out."""

    def words(names: Iterable[str]) -> str:
        return join(list(dict.fromkeys(OPERATORS.get(name, tex(name)) for name in names)))

    counted = words(name for cost in costs.values() for name, number in cost["flops_of"].items() if number)
    left_out = words(name for cost in costs.values() for name in cost["uncounted"])
    return f"{counted} are counted{f', {left_out} are not' if left_out else ''}"


def fastest(speeds: dict[str, float]) -> float:
    """Images/s in the faster memory format."""
    return max(speeds.values())


def claim_layout(costs: dict) -> str:
    """Which memory format trains each backbone faster, and by how much."""
    words = []
    for cost in costs.values():
        layout = max(cost["training_speed"], key=cost["training_speed"].get)
        gain = fastest(cost["training_speed"]) / min(cost["training_speed"].values())
        words.append(f"{tex(cost['backbone'])} is trained {gain:.2f} times as fast {layout}")
    return join(words)


def cost_words(costs: dict) -> str:
    """The light backbone's parameters and FLOPs relative to the heavy one's."""

    def words(key: str, name: str) -> str:
        ratio = costs["heavy"][key] / costs["light"][key]
        return f"{ratio:.1f} times fewer {name}" if ratio >= 1 else f"{1 / ratio:.1f} times as many {name}"

    return f"{words('parameters', 'parameters')} and {words('flops', 'FLOPs')}"


def claim_published(results: dict) -> str:
    """Why our counts differ from the published Table I, number by number, as far as rounding explains it."""
    sentences = []
    for role in ("heavy", "light"):
        backbone, cost = results["plan"][role], results["flops"]["metrics"][role]
        ours = {"parameters": cost["parameters"] / 1e6, "FLOPs": cost["flops"] / 1e9}
        for (name, value), published in zip(ours.items(), PUBLISHED_COST.get(backbone, ())):
            if f"{value:.3f}" == published:
                continue
            if math.floor(value * 1000) == round(float(published) * 1000):
                why = "the published number is cut, not rounded"
            elif round(value, 2) == float(published):
                why = "the published number is rounded to two decimals"
            else:
                why = f"unexplained, {value - float(published):+.4f}"
            sentences.append(f"{name} of {tex(backbone)}: {why}")
    if not any(results["plan"][role] in PUBLISHED_COST for role in ("heavy", "light")):
        return "It has other backbones than these."
    counter = "" if any("unexplained" in sentence for sentence in sentences) else "Its numbers are what fvcore gives. "
    return counter + ("Differences: " + "; ".join(sentences) if sentences else "All agree to the last digit") + "."


def claim_stem(results: dict) -> str:
    """The published Fig. 2 drew another network than the published Table I counted: the ImageNet ResNet-50."""
    if not results["flops"] or results["plan"]["heavy"] != "iresnet50":
        return ""
    parameters, published = results["flops"]["metrics"]["heavy"]["parameters"] / 1e6, PUBLISHED_COST["iresnet50"][0]
    if abs(parameters - float(published)) > 0.0011:
        return ""
    return (
        "The published report drew the ImageNet ResNet-50 with a $7 \\times 7$ stem instead, but its"
        f" {published} million parameters are those of this variant."
    )


def claim_unfinished(runs: list[str]) -> str:
    if not runs:
        return ""
    subject = "1 run is" if len(runs) == 1 else f"{len(runs)} runs are"
    return f"Preview: {subject} not finished and left out ({tex(', '.join(runs))})."


def trained(results: dict, light: str = "normal") -> dict[tuple[str, float], dict]:
    """(backbone, ratio) -> the verification of that run in this light, for the finished ones."""
    plan = results["plan"]
    names = {(b, r): f"{run_name(b, r)}-{light}" for b in (plan["light"], plan["heavy"]) for r in plan["ratios"]}
    return {key: results["verify"][name] for key, name in names.items() if name in results["verify"]}


def bands(results: dict, name: str) -> dict[str, dict]:
    """A verification's bands for plots.curve_panels, under `bands`; nothing where there are none yet."""
    if not results["statistics"] or f"{name}/roc" not in results["statistics"]["bands"]:
        return {}
    found = {kind: results["statistics"]["bands"][f"{name}/{kind}"] for kind in ("roc", "pr")}
    return {"bands": {kind: (statistics.GRID, *band) for kind, band in found.items()}}


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
    """Light against heavy at the largest ratio that both finished: their runs and facelib.comparison's finding."""
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
        f" one {percent(accuracy['heavy'])} ({difference_words(found)}). On {found['only_first']:,} pairs only the light"
        f" one is right, on {found['only_second']:,} only the heavy one (McNemar's exact {p_words(found['p'])}):"
        f" {verdict[found['verdict']]}."
    )


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


def claim_answer(results: dict) -> str:
    """The mission's question, answered by the comparison and the cost."""
    found, costs = compare(results), results["flops"]
    if found is None or costs is None:
        return "The runs that would answer the question are not finished."
    cost = f"with {cost_words(costs['metrics'])}"
    size = f"{points(abs(found['difference']['estimate']))} points"
    light, heavy = (found[role]["metrics"]["auc"] for role in ("light", "heavy"))
    if all(found[r]["metrics"]["auc"] <= chance_bound(found[r]["genuine"]) for r in ("light", "heavy")):
        return "Neither backbone left chance, so these runs can't answer the question."
    if max(light, heavy) < USABLE_AUC:
        compared = {
            "even": "the two can't be told apart",
            "better": f"the light backbone is {size} more accurate",
            "worse": f"the light backbone is {size} less accurate",
        }[found["verdict"]]
        return (
            f"These runs don't decide it: as trained here, neither backbone is a verifier to rely on (AUC"
            f" {light:.3f} for the light and {heavy:.3f} for the heavy one at $r = {found['ratio']:g}$); {compared}."
        )
    return {
        "even": f"On these data nothing speaks against it: {cost} the light backbone can't be told apart from the heavy"
        f" one ({difference_words(found)}).",
        "better": f"On these data, yes: {cost} the light backbone is even {size} more accurate.",
        "worse": f"On these data, not for free: {cost} the light backbone is {size} less accurate.",
    }[found["verdict"]]


def cost_table(results: dict) -> str:
    """Table I: rows of measured and published cost."""
    rows = []
    for role in ("heavy", "light"):
        backbone, cost = results["plan"][role], results["flops"]["metrics"][role]
        published = PUBLISHED_COST.get(backbone, ("--", "--"))
        rows.append(
            f"{tex(backbone)} & {cost['parameters'] / 1e6:.3f} & {published[0]}"
            f" & {cost['flops'] / 1e9:.3f} & {published[1]}"
            f" & {cost['activations'] / 1e6:.2f} & {fastest(cost['training_speed']):.1f}"
            f" & {fastest(cost['inference_speed']):.1f} \\\\"
        )
    return "\n".join(rows) + "\n"


def results_table(results: dict, light: str) -> str:
    """Tables II and III: a row a model, its measures in one light with their intervals."""
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
            cells += [f"{scale * m[key]:.{digits}f}", interval_words(sure.get(key), scale, digits)]
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"


def folds(run: dict) -> int:
    return len(np.unique(run["fold"]))


def provenance_table(results: dict) -> str:
    """The last page: commit, machine, packages, data, and a row for each training run."""
    runs = {f"train/{k}": v for k, v in results["train"].items()} | {
        f"verify/{k}": v for k, v in results["verify"].items()
    }
    runs |= {name: results[name] for name in ("flops", "statistics") if results[name]}
    commits = sorted({run["environment"]["commit"] for run in runs.values()})
    machines = sorted({run["environment"]["machine"] for run in runs.values()})
    packages = sorted({f"{n} {v}" for run in runs.values() for n, v in run["environment"]["packages"].items()})
    pythons = sorted({run["environment"]["python"] for run in runs.values()})
    verified = [run for key, run in runs.items() if key.startswith("verify/")]
    tested = {
        f"{run['parameters']['images']} {run['environment']['data']}, {run['parameters']['pairs']}" for run in verified
    }
    lines = [
        f"Profile & {tex(results['plan']['profile'])}: {tex(results['plan']['description'])} \\\\",
        f"Commit & {tex(', '.join(commits))} \\\\",
        f"Machine & {tex('; '.join(machines))} \\\\",
        f"Packages & {tex(', '.join(['Python ' + p for p in pythons] + packages))} \\\\",
        f"Test images & {tex('; '.join(sorted(tested)))} \\\\",
    ]
    if "verify/released-normal" in runs:
        released = runs["verify/released-normal"]
        model = f"{Path(released['parameters']['model']).name} {released['environment']['model']}"
        lines.append(f"Released model & {tex(model)} \\\\")
    for name, run in results["train"].items():
        m, p = run["metrics"], run["parameters"]
        asked = ", ".join(
            f"{key.replace('_', ' ')} {p[key]}"
            for key in p
            if key not in ("data", "output", "cache", "backbone", "ratio")
        )
        done = f"{m['steps']} steps in {m['seconds'] / 60:.1f} min, {m['images_per_second']:.1f} images/s,"
        done += f" last epoch's loss {m['last_epoch_loss']:.2f}"
        lines.append(f"{tex(name)} & data {run['environment']['data']}; {tex(asked)}; {tex(done)} \\\\")
    return "\n".join(lines) + "\n"


def clear(output: Path) -> None:
    """Delete an earlier drawing's figures: one that is not drawn again must not pass for this drawing's."""
    output.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for suffix in (".pdf", ".png"):
            (output / name).with_suffix(suffix).unlink(missing_ok=True)


def write(results: dict, output: Path) -> None:
    """numbers.tex, last, and the tables it announces, into a folder."""
    (output / "table_cost.tex").write_text(cost_table(results) if results["flops"] else "")
    for light in protocol.LIGHTS:
        (output / f"table_{light}_light.tex").write_text(results_table(results, light))
    for name, rows in report_studies.tables(results).items():
        (output / f"{name}.tex").write_text(rows)
    (output / "table_provenance.tex").write_text(provenance_table(results))
    lines = ["% Written by the figures notebook from the results of the runs. Do not edit."]
    for name, condition in {
        "synthetic": results["plan"]["synthetic"],
        "released": any(name.startswith("released-") for name in results["verify"]),
        "ladder": bool(results["evaluation_ladder"]),
        "laddertrained": bool(results["ladder_train"]) and bool(results["ladder_verify"]),
        "dark": bool(results["low_light"]),
        "preview": bool(results["unfinished"]),
    }.items():
        lines.append(f"\\newif\\if{name}\\{name}{'true' if condition else 'false'}")
    lines += [f"\\setval{{{key}}}{{{value}}}" for key, value in values(results).items()]
    partial = output / "numbers.tex.partial"
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(output / "numbers.tex")
