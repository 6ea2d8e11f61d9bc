"""What the backbones cost, beside the published counts: Table I."""

import math

# Table I of the published report: millions of parameters, billions of FLOPs.
PUBLISHED = {"iresnet50": ("43.590", "6.330"), "efficientnet_b3": ("11.483", "0.274")}
MISLEAD = 1.5  # measured speed against that by FLOPs: a larger factor, either way, is called misleading


def facts(results: dict) -> dict:
    """Costs of both backbones, and the light one's as shares of the heavy one's (speeds too)."""
    if not results["flops"]:
        return {}
    costs = results["flops"]["metrics"]
    heavy, light = (row(results["plan"][role], costs[role]) for role in ("heavy", "light"))
    by_flops = heavy["flops"] / light["flops"]
    inference = light["inference"] / heavy["inference"]
    backbones = (costs["heavy"], costs["light"])
    differences = heavy["differences"] + light["differences"]
    return {
        "cost": {
            "machine": results["flops"]["environment"]["machine"],
            "backbones": [heavy, light],
            "parameters": light["parameters"] / heavy["parameters"],
            "flops": light["flops"] / heavy["flops"],
            "speed_by_flops": by_flops,
            "inference": inference,
            "training": light["training"] / heavy["training"],
            "verdict": "mislead" if max(by_flops / inference, inference / by_flops) > MISLEAD else "foretell",
            "counted": [name for cost in backbones for name, number in cost["flops_of"].items() if number],
            "uncounted": [name for cost in backbones for name in cost["uncounted"]],
            "published_verdict": published_verdict([heavy, light], differences),
            "differences": differences,
            "is_published_variant": is_published_variant(heavy),
            "latency": [heavy["latency"], light["latency"]] if heavy["latency"] and light["latency"] else None,
        }
    }


def measured(cost: dict) -> dict[str, float | None]:
    """Millions of parameters, billions of FLOPs, images/s and ms of one image, of any model."""
    return {
        "parameters": cost["parameters"] / 1e6,
        "flops": cost["flops"] / 1e9,
        "inference": fastest(cost["inference_speed"]),
        "latency": 1000 * min(cost["latency"].values()) if "latency" in cost else None,
    }


def row(backbone: str, cost: dict) -> dict:
    """A backbone's row of Table I: what is measured, millions of activations, and images/s of training."""
    speeds, published, counts = cost["training_speed"], PUBLISHED.get(backbone), measured(cost)
    return counts | {
        "backbone": backbone,
        "published": published,
        "activations": cost["activations"] / 1e6,
        "training": fastest(speeds),
        "layout": max(speeds, key=speeds.get),
        "layout_gain": fastest(speeds) / min(speeds.values()),
        "differences": differences(backbone, counts, published) if published else [],
    }


def fastest(speeds: dict[str, float]) -> float:
    """Images/s in the faster memory format."""
    return max(speeds.values())


def differences(backbone: str, counts: dict[str, float], published: tuple[str, str]) -> list[dict]:
    """Counts that are not the published ones, with the reason as far as rounding is one."""
    found = []
    for (measure, value), text in zip(counts.items(), published):
        if f"{value:.3f}" != text:
            cut = math.floor(value * 1000) == round(float(text) * 1000)
            reason = "cut" if cut else "rounded" if round(value, 2) == float(text) else "unexplained"
            difference = value - float(text)
            found.append({"backbone": backbone, "measure": measure, "reason": reason, "difference": difference})
    return found


def published_verdict(rows: list[dict], found: list[dict]) -> str:
    if not any(row["published"] for row in rows):
        return "other backbones"
    if any(difference["reason"] == "unexplained" for difference in found):
        return "unexplained"
    return "explained" if found else "equal"


def is_published_variant(heavy: dict) -> bool:
    """Whether the published count is of ArcFace's variant of ResNet-50, though ImageNet's was drawn."""
    return heavy["backbone"] == "iresnet50" and abs(heavy["parameters"] - float(PUBLISHED["iresnet50"][0])) <= 0.0011
