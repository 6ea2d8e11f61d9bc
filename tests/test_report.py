"""The report's claims follow the numbers: change the numbers and the sentence changes."""

import re

import numpy as np
import pytest

from facelib import report

FOLD = np.repeat(np.arange(10), 60)
GENUINE = np.tile(np.arange(60) < 30, 10)


def run(separation: float, seed: int = 0) -> dict:
    """A verification whose genuine scores lie `separation` standard deviations above the impostors'."""
    from facelib.verification import measures

    score = np.random.default_rng(seed).normal(size=600) + separation * GENUINE
    metrics = measures(score, GENUINE, FOLD) | {"images": 900}
    parameters = {"images": "lfw-deepfunneled"}
    return {"score": score, "genuine": GENUINE, "fold": FOLD, "metrics": metrics, "parameters": parameters}


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
    return {"plan": plan, "train": {}, "verify": verify, "flops": flops, "unfinished": []}


def cost(backbone, parameters, flops):
    return {
        "backbone": backbone, "parameters": parameters, "flops": flops, "activations": 10**6,
        "training_speed": 2.0, "inference_speed": 8.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "light, heavy, words",
    [
        (3.0, 1.0, "even .* more accurate"),
        (1.0, 3.0, "not for free"),
        (2.0, 2.0, "as well as"),
        (0.0, 0.0, "can't answer"),
    ],
)
def test_the_answer_follows_the_comparison(light, heavy, words):
    assert re.search(words, report.claim_answer(results(light, heavy)))


def test_curves_at_chance_are_called_so_and_curves_above_it_too():
    assert "all 4 curves lie above chance" in report.claim_chance(results(2.0, 2.0))
    assert "none of the 4 curves" in report.claim_chance(results(0.0, 0.0))
    mixed = report.claim_chance(results(2.0, 0.0))
    assert "2 of 4 curves" in mixed and r"iresnet50 at $r = 0.1$" in mixed


def test_chance_is_half_plus_three_standard_errors_of_hanley_and_mcneil():
    # A simulation: of scores without any skill fewer than 1 % exceed the bound (0.13 % are expected).
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    bound = report.chance_bound(GENUINE)
    exceeded = sum(roc_auc_score(GENUINE, rng.normal(size=600)) > bound for _ in range(1000))
    assert exceeded < 10


def test_the_low_light_claim_follows_the_loss_of_auc():
    assert "costs none" in report.claim_low_light(results(3.0, 3.0, low=0.0))
    assert "costs 4 of 4 trained models" in report.claim_low_light(results(3.0, 3.0, low=2.0))
    assert "4 gain by it" in report.claim_low_light(results(1.0, 1.0, low=-2.0))


def test_the_released_model_is_reported_beside_its_published_accuracy():
    claim = report.claim_released(results(2.0, 2.0, released=6.0))
    assert "99.50" in claim and "working verification" in claim
    assert "working verification" not in report.claim_released(results(2.0, 2.0, released=0.0))


def test_a_fold_difference_is_the_paired_mean_and_its_standard_error():
    a, b = run(3.0, seed=1), run(1.0, seed=2)
    from facelib.verification import fold_accuracies

    d = fold_accuracies(a["score"], GENUINE, FOLD) - fold_accuracies(b["score"], GENUINE, FOLD)
    assert report.fold_difference(a, b) == pytest.approx((d.mean(), np.sqrt(d.var(ddof=1) / 10)))


def test_differences_to_the_published_table_are_explained_by_rounding():
    explained = report.claim_published(results(1.0, 1.0))
    assert "parameters of iresnet50: the published number is cut" in explained
    assert "FLOPs of iresnet50: the published number is rounded to two decimals" in explained
    assert r"FLOPs of efficientnet\_b3: the published number is cut" in explained
    other = results(1.0, 1.0)
    other["flops"]["metrics"]["light"]["flops"] = 300_000_000
    assert "unexplained, +0.0260" in report.claim_published(other)


def test_the_published_figure_is_contradicted_by_the_published_count_only_if_ours_is_that_count():
    found = results(1.0, 1.0)
    assert "43.590 million parameters are those of this variant" in report.claim_stem(found)
    found["flops"]["metrics"]["heavy"]["parameters"] = 25_600_000
    assert report.claim_stem(found) == ""


def test_data_are_named_by_their_folders():
    found = results(1.0, 1.0)
    sentences = report.data_sentences(found)
    assert "folder celeb" in sentences["sentence.training_data"]
    assert "deep-funneled" in sentences["sentence.test_data"]
    found["plan"]["train_faces"] = "data/casia-webface"
    for verified in found["verify"].values():
        verified["parameters"]["images"] = "lfw"
    sentences = report.data_sentences(found)
    assert "CASIA-WebFace" in sentences["sentence.training_data"]
    assert "funneled" not in sentences["sentence.test_data"]


def test_unfinished_runs_are_named():
    assert report.claim_unfinished([]) == ""
    assert "1 runs are not finished" in report.claim_unfinished(["train/x"]) and "train/x" in report.claim_unfinished(
        ["train/x"]
    )


def test_latex_specials_are_escaped():
    assert report.tex("a_b & 5%") == r"a\_b \& 5\%"
