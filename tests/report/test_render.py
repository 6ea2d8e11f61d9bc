"""The report's claims follow the numbers: change the numbers and the sentence changes."""

import dataclasses
import json
import re

import numpy as np
import pytest

from facelib.verification import uncertainty
from facelib.verification.comparison import compare
from report import render, words
from report.facts import answer, verification
from report.facts import cost as report_cost
from report.results import KINDS, load_results

FOLD = np.repeat(np.arange(10), 60)
GENUINE = np.tile(np.arange(60) < 30, 10)
IDENTITIES = np.stack([np.arange(600), np.where(GENUINE, np.arange(600), np.arange(600) + 600)], 1)


def run(separation: float, seed: int = 0) -> dict:
    """A verification whose genuine scores lie `separation` standard deviations above the impostors'."""
    from facelib.verification.measures import measures

    score = np.random.default_rng(seed).normal(size=600) + separation * GENUINE
    metrics = measures(score, GENUINE, FOLD) | {"images": 900}
    parameters = {"images": "lfw-deepfunneled", "pairs": "pairs.txt", "flip": False}
    pairs = {"score": score, "genuine": GENUINE, "fold": FOLD, "identities": IDENTITIES}
    pairs |= {"first": IDENTITIES[:, 0], "second": IDENTITIES[:, 1]}
    return pairs | {"metrics": metrics, "parameters": parameters}


def statistics_of(verify: dict) -> dict:
    """What the statistics notebook would leave of these verifications, from few resamples."""
    found = {name: uncertainty.uncertainty(run, resamples=100, seed=0) for name, run in verify.items()}
    compared = {}
    for key in ("r0.1-normal", "r1-normal"):
        light, heavy = verify[f"efficientnet_b3-{key}"], verify[f"iresnet50-{key}"]
        compared[key] = dataclasses.asdict(compare(light["score"], heavy["score"], GENUINE, FOLD, IDENTITIES, 100))
    metrics = {"resamples": 100, "verify": {name: numbers for name, (numbers, _) in found.items()}, "compare": compared}
    metrics["calibration"] = {}
    for name in verify:
        metrics["calibration"] |= uncertainty.calibration(name, verify)
    bands = {f"{name}/{kind}": band for name, (_, bands) in found.items() for kind, band in bands.items()}
    return {"metrics": metrics, "bands": bands}


def results(light: float, heavy: float, low: float = 0.0, released: float | None = None) -> dict:
    plan = {"profile": "p", "description": "d", "synthetic": False, "heavy": "iresnet50", "light": "efficientnet_b3"}
    plan |= {
        "ratios": [0.1, 1.0],
        "released": "weights/arcface_mobilefacenet_y1.onnx",
        "left_out": [],
        "train_faces": "celeb",
    }
    verify = {}
    for backbone, separation in (("iresnet50", heavy), ("efficientnet_b3", light)):
        for ratio in ("0.1", "1"):
            verify[f"{backbone}-r{ratio}-normal"] = run(separation)
            verify[f"{backbone}-r{ratio}-low"] = run(separation - low)
    if released is not None:
        verify["released-normal"] = run(released)
    costs = {
        "heavy": cost("iresnet50", 43_590_848, 6_326_241_280),
        "light": cost("efficientnet_b3", 11_483_176, 274_922_512),
    }
    flops = {"metrics": costs, "environment": {"machine": "m"}}
    sure = statistics_of(verify)
    found = {"plan": plan, "train": {}, "verify": verify, "flops": flops, "statistics": sure, "unfinished": []}
    found |= {"integrity": None, "data": None, "bench": {}}
    return {kind: {} for kind in KINDS} | found


def cost(backbone, parameters, flops):
    return {
        "backbone": backbone, "parameters": parameters, "flops": flops, "activations": 10**6,
        "training_speed": {"contiguous": 1.0, "channels last": 2.0},
        "inference_speed": {"contiguous": 8.0, "channels last": 4.0},
        "latency": {"contiguous": 0.05, "channels last": 0.04},
        "flops_of": {"conv": 9, "batch_norm": 1}, "uncounted": ["add", "prelu"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "light, heavy, words",
    [
        (3.0, 1.0, "even .* more accurate"),
        (1.0, 3.0, "not for free"),
        (2.0, 2.0, "can't be told apart from the heavy one"),
        (0.6, 0.6, "neither backbone is a verifier to rely on .*; the two can't be told apart"),
        (1.2, 0.6, "neither backbone is a verifier to rely on .*; the light backbone is .* more accurate"),
        (0.0, 0.0, "can't answer"),
    ],
)
def test_the_answer_follows_the_comparison(light, heavy, words):
    assert re.search(words, answer.claim_answer(results(light, heavy)))


def test_curves_at_chance_are_called_so_and_curves_above_it_too():
    assert "all 4 curves lie above chance" in verification.claim_chance(results(2.0, 2.0))
    assert "none of the 4 curves" in verification.claim_chance(results(0.0, 0.0))
    mixed = verification.claim_chance(results(2.0, 0.0))
    assert "2 of 4 curves" in mixed and r"iresnet50 at $r = 0.1$" in mixed


def test_chance_is_half_plus_three_standard_errors_of_hanley_and_mcneil():
    # A simulation: of scores without any skill fewer than 1 % exceed the bound (0.13 % are expected).
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    bound = verification.chance_bound(GENUINE)
    exceeded = sum(roc_auc_score(GENUINE, rng.normal(size=600)) > bound for _ in range(1000))
    assert exceeded < 10


def test_the_low_light_claim_follows_the_loss_of_auc():
    assert "costs none" in verification.claim_low_light(results(3.0, 3.0, low=0.0))
    assert "costs 4 of 4 trained models" in verification.claim_low_light(results(3.0, 3.0, low=2.0))
    assert "4 gain by it" in verification.claim_low_light(results(1.0, 1.0, low=-2.0))


def test_the_released_model_is_reported_beside_its_published_accuracy():
    claim = verification.claim_released(results(2.0, 2.0, released=6.0))
    assert "99.50" in claim and "is above chance" in claim
    assert "can't be told from chance" in verification.claim_released(results(2.0, 2.0, released=0.0))


def test_the_comparison_is_told_with_its_interval_and_where_it_is_even_with_what_would_have_shown():
    ahead = verification.claim_backbones(results(3.0, 1.0))
    assert "the light one is ahead" in ahead and r"95\,\% interval $+" in ahead and "$p < 0.001$" in ahead
    assert "the heavy one is ahead" in verification.claim_backbones(results(1.0, 3.0))
    even = results(2.0, 2.0)
    found = even["statistics"]["metrics"]["compare"]["r1-normal"]
    assert f"a difference of {100 * found['detectable']:.1f} points would have shown" in verification.claim_backbones(
        even
    )


def test_a_row_holds_errors_deviation_standard_error_and_intervals():
    found = results(2.0, 1.0)
    numbers = found["statistics"]["metrics"]["verify"]["efficientnet_b3-r0.1-normal"]
    cells = verification.results_table(found, "normal").splitlines()[0].removesuffix(r" \\").split(" & ")
    accuracy, auc = numbers["accuracy"], numbers["auc"]
    assert cells[:3] == [r"efficientnet\_b3", "0.1", str(numbers["errors"])]
    assert float(cells[3]) == pytest.approx(100 * (1 - numbers["errors"] / 600), abs=0.01)
    assert float(cells[5]) == pytest.approx(float(cells[4]) / np.sqrt(10), abs=0.01)
    assert cells[6] == f"[{100 * accuracy['low']:.1f}, {100 * accuracy['high']:.1f}]"
    assert cells[8] == f"[{auc['low']:.3f}, {auc['high']:.3f}]"
    assert len(cells) == 16 and cells[-1] == "1"
    found["statistics"] = None  # in a preview
    assert "[" not in verification.results_table(found, "normal")


def test_differences_to_the_published_table_are_explained_by_rounding():
    explained = report_cost.claim_published(results(1.0, 1.0))
    assert "parameters of iresnet50: the published number is cut" in explained
    assert "FLOPs of iresnet50: the published number is rounded to two decimals" in explained
    assert r"FLOPs of efficientnet\_b3: the published number is cut" in explained
    other = results(1.0, 1.0)
    other["flops"]["metrics"]["light"]["flops"] = 300_000_000
    assert "unexplained, +0.0260" in report_cost.claim_published(other)


def test_the_published_figure_is_contradicted_by_the_published_count_only_if_ours_is_that_count():
    found = results(1.0, 1.0)
    assert "43.590 million parameters are those of this variant" in report_cost.claim_stem(found)
    found["flops"]["metrics"]["heavy"]["parameters"] = 25_600_000
    assert report_cost.claim_stem(found) == ""


def test_test_faces_are_named_by_their_folder():
    found = results(1.0, 1.0)
    assert "deep-funneled" in verification.test_values(found)["claim.test_data"]
    for run in found["verify"].values():
        run["parameters"]["images"] = "lfw"
    claim = verification.test_values(found)["claim.test_data"]
    assert "Labeled Faces" in claim and "funneled" not in claim
    for run in found["verify"].values():
        run["parameters"]["images"] = "lfw-synthetic"
    assert "synthetic" in verification.test_values(found)["claim.test_data"]


def test_the_flip_test_is_told_of_the_models_that_have_it():
    found = results(1.0, 1.0, released=3.0)
    trained = [run for name, run in found["verify"].items() if not name.startswith("released")]

    def claim(released: bool, others: bool) -> str:
        found["verify"]["released-normal"]["parameters"]["flip"] = released
        for run in trained:
            run["parameters"]["flip"] = others
        return verification.claim_flip(found)

    assert "given to no model" in claim(False, False)
    assert "given to the released model, not to the trained models" in claim(True, False)
    assert "given to the trained models, not to the released model" in claim(False, True)
    assert "given to the released model and the trained models." in claim(True, True)


def test_what_the_counter_counts_and_leaves_out_is_told_from_its_own_list():
    costs = results(1.0, 1.0)["flops"]["metrics"]
    assert report_cost.claim_counted(costs) == (
        "convolutions and batch normalisation are counted, sums of feature maps and activation functions are not"
    )
    costs["light"] |= {"flops_of": {"linear": 5, "adaptive_avg_pool2d": 0}, "uncounted": ["add", "new_op"]}
    words = report_cost.claim_counted(costs)
    assert "linear layers are counted" in words and "pooling" not in words and r"new\_op are not" in words


def test_flops_mislead_only_where_the_measured_speed_says_so():
    found = results(1.0, 1.0)
    assert "FLOPs alone mislead" in report_cost.values(found)["claim.speed"]
    found["flops"]["metrics"]["light"]["inference_speed"]["contiguous"] = 8.0 * 23
    assert "FLOPs foretell the speed here" in report_cost.values(found)["claim.speed"]


def test_the_memory_format_that_trains_faster_is_named_with_its_gain():
    costs = {"heavy": cost("iresnet50", 1, 1), "light": cost("efficientnet_b3", 1, 1)}
    costs["light"]["training_speed"] = {"contiguous": 9.0, "channels last": 6.0}
    words = report_cost.claim_layout(costs)
    assert "iresnet50 is trained 2.00 times as fast channels last" in words
    assert r"efficientnet\_b3 is trained 1.50 times as fast contiguous" in words


def test_a_published_accuracy_on_lfw_does_not_stand_beside_one_on_synthetic_faces():
    found = results(2.0, 2.0, released=6.0)
    found["verify"]["released-normal"]["parameters"]["images"] = "lfw-synthetic"
    assert "99.50" not in verification.claim_released(found)


def test_unfinished_runs_are_named():
    assert render.claim_unfinished([]) == ""
    assert "1 run is not finished and left out (1 of train)" in render.claim_unfinished(["train/x"])
    said = render.claim_unfinished(["train/x", "verify/x-low", "train/y"])
    assert "3 runs are not finished and left out (2 of train and 1 of verify)" in said
    found = results(1.0, 1.0) | {"unfinished": ["train/x_y"]}
    for run in found["verify"].values():
        run["environment"] = {"commit": "c", "machine": "m", "packages": {}, "python": "3", "data": "d"}
    found |= {"flops": None, "statistics": None}
    assert r"Not finished & train/x\_y" in render.provenance_table(found)


def test_a_run_made_with_other_parameters_counts_as_unfinished(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    (folder / "parameters.json").write_text(json.dumps({"epochs": 8, "seed": 0}))
    (folder / "log.csv").write_text("step,loss\n1,2.0\n")
    for epochs, unfinished in ((8, []), (12, ["train/a"])):
        parameters = {"output": str(folder), "epochs": epochs}
        plan = {"runs": {"train/a": {"notebook": "train", "parameters": parameters}}}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        assert load_results(tmp_path)["unfinished"] == unfinished


def test_before_any_run_is_finished_every_claim_is_still_a_sentence_or_empty():
    found = results(1.0, 1.0) | {"verify": {}, "flops": None, "statistics": None}
    values = render.values(found)
    assert "not finished" in values["claim.answer"] and values["claim.ratio"] == ""


def test_latex_specials_are_escaped():
    assert words.tex("a_b & 5%") == r"a\_b \& 5\%"


def with_seeds(light: list[float], heavy: list[float], difference: float) -> dict:
    """Further seeds of both backbones at the compared ratio, with these accuracies, the first seed's first."""
    found = results(2.0, 2.0)
    found["statistics"]["metrics"]["compare"]["r1-normal"]["difference"]["estimate"] = difference
    for backbone, accuracies in (("efficientnet_b3", light), ("iresnet50", heavy)):
        for seed, accuracy in enumerate(accuracies):
            kind, name = ("more_verify", f"-s{seed}") if seed else ("verify", "")
            again = run(2.0, seed)
            again["metrics"] |= {"accuracy": accuracy, "auc": 0.9}
            found[kind][f"{backbone}-r1{name}-normal"] = again
    return found


def test_the_seeds_mean_and_deviation_are_told_with_their_number():
    """Of 70, 80 and 90 %: 80 and, with the divisor 2, 10."""
    found = with_seeds([0.7, 0.8, 0.9], [0.95], 0.25)
    said = verification.claim_seeds(found)
    assert "over 3 seeds the light backbone's accuracy is 80.0 $\\pm$ 10.0" in said
    assert "the heavy backbone has one seed" in said
    rows = verification.results_table(found, "normal").splitlines()
    assert rows[1].endswith(r"& 80.0 $\pm$ 10.0 & 0.900 $\pm$ 0.000 & 3 \\")


@pytest.mark.parametrize("difference, words", [(0.30, "is more than two runs"), (-0.20, "is no more than two runs")])
def test_a_difference_is_held_against_what_seeds_alone_show(difference, words):
    """Two runs of deviation 10 points differ by 14.1 points, twice of which is 28.3."""
    said = verification.claim_seeds(with_seeds([0.7, 0.8, 0.9], [0.95], difference))
    assert words in said and "28.3" in said


def test_a_threshold_from_normal_light_is_judged_in_low_light():
    """Scores two deviations lower in low light: the old threshold accepts fewer impostors, and rejects many more."""
    found = results(3.0, 3.0, low=2.0)
    rows = {(row[0], row[1], row[2]): row[3] for row in verification.calibrations(found)}
    assert set(rows) == {
        (backbone, *lights)
        for backbone in ("efficientnet_b3", "iresnet50")
        for lights in (("normal", "normal"), ("low", "low"), ("low", "normal"))
    }
    own, moved = rows["iresnet50", "low", "low"], rows["iresnet50", "low", "normal"]
    assert moved["frr"] > own["frr"]
    said = verification.claim_calibration(found)
    assert "Taken from normal light into low light it gives" in said and "no more than twice that" in said
