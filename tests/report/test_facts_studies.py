"""The words about the ladders and low light are chosen by the numbers: turn the numbers and the words turn."""

import numpy as np
import pytest

from facelib.verification import ladder as evaluation_ladder
from report.facts import studies


def results(**found) -> dict:
    empty = {kind: {} for kind in ("ladder_train", "ladder_verify", "evaluation_ladder", "low_light")}
    return {"plan": {"light": "efficientnet_b3", "heavy": "iresnet50"}, "statistics": None} | empty | found


def ladder(**aucs) -> dict:
    """The released model's ladder: AUC 0.99 on every rung but those given."""
    rungs = {name: {"pairs": 6000, "accuracy": 0.97, "auc": 0.99} for name in evaluation_ladder.rungs()}
    for name, auc in aucs.items():
        rungs[{"published": "up/published", "crop": "down/random crop", "low": "down/low light"}[name]]["auc"] = auc
    return results(evaluation_ladder={"released": {"metrics": rungs}})


def test_the_published_protocol_is_said_to_put_a_model_at_chance_only_if_it_does():
    assert "the released model is at chance (AUC 0.503)" in studies.claim_reproduced(ladder(published=0.503))
    assert "the released model is not at chance (AUC 0.700)" in studies.claim_reproduced(ladder(published=0.7))


def test_defects_are_ordered_by_their_cost_and_those_that_explain_chance_alone_are_named():
    said = studies.claim_ladder(ladder(crop=0.53, low=0.90))
    assert "these cost: random crop 0.460 and low light 0.090." in said
    assert "Random crop is enough to explain a curve at chance." in said
    assert "no flip-test" in said.split("Less than 0.01")[1]
    assert studies.claim_ladder(ladder()) == "No defect alone costs the released model as much as 0.01 of AUC."


def test_every_rung_has_a_row_of_words():
    rungs = {f"{walk}/{name}" for walk, names in studies.WALKS.items() for name in names}
    assert rungs == {*evaluation_ladder.rungs()}
    rows = studies.tables(ladder())["table_ladder"]
    assert all(label in rows for labels in studies.WALKS.values() for label in labels.values())


def training(first: list[float], last: list[float]) -> dict:
    """The light backbone's AUC under the published and under the mended recipe, a seed each."""
    names = {f"ladder-efficientnet_b3-{rung}-s{seed}": auc for rung, aucs in (("published", first), ("alignment", last))
             for seed, auc in enumerate(aucs)}  # fmt: skip
    trained = {
        name: {"metrics": {"last_epoch_loss": 30.0}, "parameters": {"ratio": 0.25, "epochs": 4}} for name in names
    }
    verified = {
        f"{name}-normal": {"metrics": {"pairs": 600, "accuracy": 0.5, "auc": auc}} for name, auc in names.items()
    }
    return results(ladder_train=trained, ladder_verify=verified)


@pytest.mark.parametrize(
    "first, last, words",
    [
        ([0.50, 0.51, 0.52], [0.70, 0.71, 0.72], "gains by the mended recipe (AUC 0.510 to 0.710, 3 seeds)"),
        ([0.70, 0.71, 0.72], [0.50, 0.51, 0.52], "loses by the mended recipe"),
        ([0.50, 0.60, 0.55], [0.58, 0.52, 0.61], "shows no change beyond the spread of its seeds"),
        ([0.50], [0.90], "with one seed, whose chance is not known"),
    ],
)
def test_a_recipe_is_called_better_only_beyond_the_spread_of_its_seeds(first, last, words):
    assert words in studies.claim_training_ladder(training(first, last))


def test_the_table_gives_mean_and_standard_deviation_over_seeds():
    """Of 0.5, 0.6, 0.7: 0.6 and, with the divisor 2, 0.1."""
    rows = studies.training_rows(training([0.5, 0.6, 0.7], []))
    assert rows.rstrip().endswith("& 0.600 $\\pm$ 0.100 \\\\") and "& 3 &" in rows


def dark(accuracies: dict[str, float], aucs: dict[str, float]) -> dict:
    conditions = {name: {"accuracy": accuracies.get(name, 0.9), "auc": aucs.get(name, 0.95)} for name in
                  ("normal", "0/none", "1/none", "2/none", "2/gain", "2/clahe")}  # fmt: skip
    metrics = {"stops": [0, 1, 2], "repairs": ["none", "gain", "clahe"], "conditions": conditions, "pairs": 600}
    return results(low_light={"released": {"metrics": metrics}})


def test_the_first_stop_that_costs_a_hundredth_of_auc_is_named():
    said = studies.claim_dark(dark({}, {"1/none": 0.945, "2/none": 0.80}))
    assert "from 2 stops on (0.950 in normal light, 0.800 at 2 stops)" in said
    assert "loses less than 0.01 of AUC" in studies.claim_dark(dark({}, {}))
    assert "from 1 stop on" in studies.claim_dark(dark({}, {"1/none": 0.90, "2/none": 0.80}))


def test_a_repair_brings_back_a_share_of_what_was_lost():
    """From 90 % to 70 %, and to 85 % with gain: three quarters of the 20 points."""
    said = studies.claim_repairs(dark({"2/none": 0.7, "2/gain": 0.85, "2/clahe": 0.6}, {}))
    assert "gain, brings back 75\\,\\%" in said
    assert "brings nothing back" in studies.claim_repairs(dark({"2/none": 0.7, "2/gain": 0.6, "2/clahe": 0.6}, {}))
    assert "nothing to be repaired" in studies.claim_repairs(dark({}, {}))


def test_a_curve_along_the_rungs_has_gaps_where_a_model_has_none():
    found = studies.auc_along(ladder(), "released", ["up/flip", "up/none such"])
    assert found["auc"][0] == 0.99 and np.isnan(found["auc"][1]) and np.isnan(found["low"]).all()
