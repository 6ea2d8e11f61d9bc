"""The answer to the report's question, and what stands beside it: measured and published models at their cost."""

from report.facts.cost import measured
from report.facts.verification import compared_runs, ends, is_above_chance, seeds
from report.results import run_name

USABLE_AUC = 0.9  # below, an impostor pair outscores a genuine one more than once in ten: no verifier to rely on
# Accuracies on LFW that others published. Costs are theirs where they give them (by THOP), else ours of the same model.
PUBLISHED = [
    {"label": "ResNet-50, CASIA", "cite": "arcface", "accuracy": 0.9953, "same_as": "iresnet50"},
    {"label": "ResNet-50, CASIA, zoo", "cite": "insightface", "accuracy": 0.9945, "same_as": "iresnet50"},
    {"label": "MobileFaceNet, MS1M", "cite": "insightface", "accuracy": 0.9950, "same_as": "arcface_mobilefacenet_y1"},
    {"label": "EfficientNet-B0, MS1M", "cite": "facexzoo", "accuracy": 0.9955, "parameters": 33.44, "flops": 0.07783},
    {"label": "ResNet-50, MS1M", "cite": "facexzoo", "accuracy": 0.9978, "parameters": 43.57, "flops": 6.31},
]
LIGHT_PUBLISHED, HEAVY_PUBLISHED = PUBLISHED[3], PUBLISHED[4]  # of one source, trained alike, best checkpoints


def facts(results: dict) -> dict:
    return {"answer": {"verdict": verdict(results), "published": published(results), "points": points(results)}}


def verdict(results: dict) -> str:
    """unfinished, chance (both), unreliable (both below USABLE_AUC), undecided (a difference that the seed alone could
    make), or the comparison's: better, even, worse.
    """
    runs = compared_runs(results)
    if runs is None or not results["flops"]:
        return "unfinished"
    _, found, light, heavy = runs
    if not is_above_chance(light) and not is_above_chance(heavy):
        return "chance"
    if max(run["metrics"]["auc"] for run in (light, heavy)) < USABLE_AUC:
        return "unreliable"
    by_seed = found["verdict"] != "even" and seeds(results)["verdict"] == "within"
    return "undecided" if by_seed else found["verdict"]


def published(results: dict) -> dict | None:
    """What others publish of such backbones, trained to the end, and whether our pairs could have shown that gap."""
    runs = compared_runs(results)
    if runs is None or results["plan"]["synthetic"] or results["plan"]["heavy"] != "iresnet50":
        return None
    light, heavy = LIGHT_PUBLISHED, HEAVY_PUBLISHED
    gap = heavy["accuracy"] - light["accuracy"]
    numbers = {"light": light["accuracy"], "heavy": heavy["accuracy"], "cite": heavy["cite"], "gap": gap}
    return numbers | {"verdict": "visible" if gap >= runs[1]["detectable"] else "hidden"}


def points(results: dict) -> list[dict]:
    """Cost and accuracy of every model verified in normal light, a point a ratio, then of the published ones.

    Published points stand beside real faces alone.
    """
    if not results["flops"]:
        return []
    plan, costs = results["plan"], results["flops"]["metrics"]
    found = []
    for role in (role for role in ("heavy", "light", "released") if role in costs):
        names = ["released"] if role == "released" else [run_name(plan[role], ratio) for ratio in plan["ratios"]]
        for run, interval in (verified(results, name) for name in names):
            if run and "accuracy" in run["metrics"]:
                label = "released model" if role == "released" else plan[role]
                point = {"role": role, "label": label, "accuracy": run["metrics"]["accuracy"], "interval": interval}
                found.append(point | measured(costs[role]))
    by_model = {cost["backbone"]: measured(cost) for cost in costs.values()}
    for point in [] if plan["synthetic"] or not found else PUBLISHED:
        known = by_model.get(point.get("same_as"), point)
        cost = {key: known.get(key) for key in ("parameters", "flops")}
        if None not in cost.values():
            named = {key: point[key] for key in ("label", "accuracy", "cite")}
            found.append(named | cost | {"role": "published", "interval": None})
    return found


def verified(results: dict, name: str) -> tuple[dict | None, dict | None]:
    """A run in normal light, and the interval of its accuracy where there is one."""
    sure = results["statistics"]["metrics"]["verify"] if results["statistics"] else {}
    return results["verify"].get(f"{name}-normal"), ends(sure.get(f"{name}-normal", {}).get("accuracy"))
