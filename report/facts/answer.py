"""The answer to the report's question: cost against accuracy, beside published figures, and the sentences on it."""

from report.facts.cost import cost_words, fastest
from report.facts.studies import CHANCE
from report.facts.verification import chance_bound, compare, difference_words
from report.figures import curves
from report.words import percent, percent_fine, points, tex, times

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


def cost_of(cost: dict) -> dict[str, float]:
    """A measured cost in the units of plots.COSTS."""
    return {
        "parameters": cost["parameters"] / 1e6,
        "flops": cost["flops"] / 1e9,
        "speed": fastest(cost["inference_speed"]),
    } | ({"latency": 1000 * min(cost["latency"].values())} if "latency" in cost else {})


def points_of(results: dict) -> list[dict]:
    """For plots.cost_against_accuracy: every model verified in normal light, a point a ratio, and the published ones.

    Published points stand beside real faces alone.
    """
    if not results["flops"]:
        return []
    plan, costs = results["plan"], results["flops"]["metrics"]
    styles = {"heavy": (curves.HEAVY, "o"), "light": (curves.LIGHT, "s"), "released": (curves.RELEASED, "D")}
    found = []
    for role, (color, marker) in styles.items():
        if role not in costs:
            continue
        names = ["released"] if role == "released" else [f"{plan[role]}-r{ratio:g}" for ratio in plan["ratios"]]
        label = "released model" if role == "released" else plan[role]
        for name in names:
            run = results["verify"].get(f"{name}-normal")
            if run and "accuracy" in run["metrics"]:
                point = {"label": label, "color": color, "marker": marker, "accuracy": run["metrics"]["accuracy"]}
                found.append(point | cost_of(costs[role]) | interval_of(results, name))
    by_model = {cost["backbone"]: cost_of(cost) for cost in costs.values()}
    published = [] if plan["synthetic"] or not found else PUBLISHED
    for point in published:
        known = {cost: point[cost] for cost in curves.COSTS if cost in point}
        known = known or {cost: by_model[point["same_as"]][cost] for cost in ("parameters", "flops")
                          if point["same_as"] in by_model}  # fmt: skip
        if known:
            style = {"color": "#7a1f5c", "marker": "^", "published": True}
            found.append({key: point[key] for key in ("label", "accuracy", "cite")} | known | style)
    return found


def interval_of(results: dict, name: str) -> dict[str, float]:
    """The accuracy's interval in normal light, as low and high; nothing where there is none yet."""
    verified = results["statistics"]["metrics"]["verify"] if results["statistics"] else {}
    found = verified.get(f"{name}-normal", {}).get("accuracy")
    return {end: found[end] for end in ("low", "high")} if found else {}


def claim_published_points(results: dict) -> str:
    """Which published points are drawn, with their sources."""
    drawn = [point for point in points_of(results) if point.get("published")]
    if not drawn:
        return "Published points are left out: they are of real faces." if results["plan"]["synthetic"] else ""
    words = [f"{i}: {point['label']}, {percent_fine(point['accuracy'])}~\\cite{{{point['cite']}}}"
             for i, point in enumerate(drawn, 1)]  # fmt: skip
    return f"Hollow, numbered: \\emph{{published, not measured here}} ({'; '.join(words)})."


def claim_answer(results: dict) -> str:
    """The answer in up to three sentences: what was measured, what the light backbone saves, what is published."""
    return " ".join(filter(None, [claim_verdict(results), claim_saving(results), claim_elsewhere(results)]))


def claim_verdict(results: dict) -> str:
    """The answer by the comparison of the two backbones."""
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


def claim_saving(results: dict) -> str:
    """What the light backbone saves on this machine."""
    if compare(results) is None or not results["flops"]:
        return ""
    light, heavy = (cost_of(results["flops"]["metrics"][role]) for role in ("light", "heavy"))
    if "latency" not in light or "latency" not in heavy:
        return ""
    return (
        f"Measured here it embeds {times(light['speed'] / heavy['speed'])} and needs {light['latency']:.0f}\\,ms"
        f" instead of {heavy['latency']:.0f}\\,ms for one image."
    )


def claim_elsewhere(results: dict) -> str:
    """What others publish of such backbones, trained to the end, and whether pairs like ours could have shown that."""
    found = compare(results)
    if found is None or results["plan"]["synthetic"] or results["plan"]["heavy"] != "iresnet50":
        return ""
    light, heavy = LIGHT_PUBLISHED, HEAVY_PUBLISHED
    gap = heavy["accuracy"] - light["accuracy"]
    seen = "these pairs could have shown" if gap >= found["detectable"] else "less than these pairs could have shown"
    return (
        "Trained to the end on millions of images, the best checkpoint of EfficientNet-B0 is published at"
        f" {percent_fine(light['accuracy'])} and ResNet-50 at"
        f" {percent_fine(heavy['accuracy'])}~\\cite{{{heavy['cite']}}}, {100 * gap:.2f} points apart: {seen}"
        f" ({points(found['detectable'])} points)."
    )


def claim_broke(results: dict) -> str:
    """Why the published curves are at chance, from the released model's ladder or else from the best trained one's."""
    ladders = {name: run["metrics"] for name, run in results["evaluation_ladder"].items()}
    if not ladders:
        return ""
    model = (
        "released" if "released" in ladders else max(ladders, key=lambda name: ladders[name]["down/corrected"]["auc"])
    )
    published, corrected = (ladders[model][rung] for rung in ("up/published", "down/corrected"))
    label = "a released model" if model == "released" else f"a trained model ({tex(model)})"
    explained = CHANCE[0] <= published["auc"] <= CHANCE[1] and corrected["auc"] > CHANCE[1]
    verdict = "its protocol is what broke" if explained else "its protocol alone does not explain that"
    return (
        f"The published curves sit at chance; {verdict}: {label} with {percent(corrected['accuracy'])} accuracy under"
        f" the corrected protocol has an AUC of {published['auc']:.2f} under the published one."
    )


def values(results: dict) -> dict[str, str]:
    """The answer and what stands beside it: key -> LaTeX."""
    return {
        "claim.answer": claim_answer(results),
        "claim.broke": claim_broke(results),
        "claim.published_points": claim_published_points(results),
    }
