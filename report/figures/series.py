"""What the figures draw, taken from the results: curves with their bands, ladders, and points of cost and accuracy."""

import numpy as np

from facelib.verification import uncertainty
from report.facts import answer
from report.facts.studies import sure
from report.figures import curves

POINTS = {"heavy": (curves.HEAVY, "o"), "light": (curves.LIGHT, "s"), "released": (curves.RELEASED, "D")}
POINTS |= {"published": ("#7a1f5c", "^")}


def bands(results: dict, name: str) -> dict[str, dict]:
    """A verification's bands for curves.curve_panels, under `bands`; nothing where there are none yet."""
    if not results["statistics"] or f"{name}/roc" not in results["statistics"]["bands"]:
        return {}
    found = {kind: results["statistics"]["bands"][f"{name}/{kind}"] for kind in ("roc", "pr")}
    return {"bands": {kind: (uncertainty.GRID, *band) for kind, band in found.items()}}


def auc_along(results: dict, model: str, rungs: list[str]) -> dict[str, np.ndarray]:
    """For curves.ladder: `auc`, `low` and `high` (K,) of the rungs, NaN where there is none."""
    measured = results["evaluation_ladder"][model]["metrics"]
    intervals = [sure(results, "evaluation_ladder", model, rung).get("auc", {}) for rung in rungs]
    aucs = {"auc": np.array([measured.get(rung, {}).get("auc", np.nan) for rung in rungs])}
    return aucs | {end: np.array([interval.get(end, np.nan) for interval in intervals]) for end in ("low", "high")}


def along_stops(results: dict, model: str, measure: str) -> dict:
    """For low_light.against_stops: the measure without repair, and its band where there is one."""
    metrics = results["low_light"][model]["metrics"]
    names = [f"{k}/none" for k in metrics["stops"]]
    values = [metrics["conditions"][name][measure] for name in names]
    intervals = [sure(results, "low_light", model, name).get(measure) for name in names]
    band = {end: [interval[end] for interval in intervals] for end in ("low", "high")} if all(intervals) else {}
    return {"stops": metrics["stops"], "values": values} | band


def points(results: dict) -> list[dict]:
    """For curves.cost_against_accuracy: the facts' points with their colours and markers."""
    styled = []
    for point in answer.points(results):
        color, marker = POINTS[point["role"]]
        known = {key: value for key, value in point.items() if value is not None}
        known |= known.pop("interval", {})
        styled.append(known | {"color": color, "marker": marker, "published": point["role"] == "published"})
    return styled
