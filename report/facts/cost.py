"""What the backbones cost: Table I of the report and the sentences on it."""

import math
from collections.abc import Iterable

from report.words import join, tex, times

# Table I of the published report, and what an ArcFace MobileFaceNet is published to reach (insightface's model zoo).
PUBLISHED_COST = {"iresnet50": ("43.590", "6.330"), "efficientnet_b3": ("11.483", "0.274")}


def values(results: dict) -> dict[str, str]:
    """Numbers and claims on the cost: key -> LaTeX."""
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
        "claim.stem": claim_stem(results),
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

    backbones = [costs[role] for role in ("heavy", "light")]
    counted = words(name for cost in backbones for name, number in cost["flops_of"].items() if number)
    left_out = words(name for cost in backbones for name in cost["uncounted"])
    return f"{counted} are counted{f', {left_out} are not' if left_out else ''}"


def fastest(speeds: dict[str, float]) -> float:
    """Images/s in the faster memory format."""
    return max(speeds.values())


def claim_layout(costs: dict) -> str:
    """Which memory format trains each backbone faster, and by how much."""
    words = []
    for cost in (costs["heavy"], costs["light"]):
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
