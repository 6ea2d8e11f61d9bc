"""Each fact against its formula, and the sentences of the sections that stand on it."""

import copy

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facelib.verification import ladder as evaluation_ladder
from report import words
from report.facts import cost, data, integrity, setting, studies, verification
from tests.report.conftest import GENUINE
from tests.report.test_template import text_of

ABOUT = {"synthetic": True, "folder": "some_faces", "threads": 2, "rounds": 5, "images": 1200}


def test_chance_is_half_plus_three_standard_errors_of_hanley_and_mcneil():
    """Of scores without any skill fewer than 1 % exceed the bound (0.13 % are expected)."""
    rng = np.random.default_rng(0)
    bound = verification.chance_bound(GENUINE)
    assert sum(roc_auc_score(GENUINE, rng.normal(size=600)) > bound for _ in range(1000)) < 10


def test_spread_is_mean_and_deviation_with_the_divisor_n_minus_one():
    assert verification.spread([0.5, 0.6, 0.7]) == pytest.approx({"mean": 0.6, "deviation": 0.1, "number": 3})
    assert verification.spread([0.5]) == {"mean": 0.5, "deviation": None, "number": 1}
    assert verification.spread([]) is None


def test_a_row_holds_errors_deviation_standard_error_and_intervals(make_results):
    results = make_results(2.0, 1.0)
    row = verification.rows(results, "normal")[0]
    numbers = results["statistics"]["metrics"]["verify"]["efficientnet_b3-r0.1-normal"]
    assert row["accuracy"] == pytest.approx(1 - numbers["errors"] / 600)
    assert row["standard_error"] == pytest.approx(row["deviation"] / np.sqrt(10))
    assert row["auc_interval"] == {end: numbers["auc"][end] for end in ("low", "high")} and row["seeds"] == 1
    assert verification.rows(results | {"statistics": None}, "normal")[0]["auc_interval"] is None


def test_a_threshold_from_normal_light_is_judged_in_low_light(make_results):
    """Scores two deviations lower: the old threshold rejects many more genuine pairs."""
    results = make_results(3.0, 3.0, low=2.0)
    rows = {(row["model"], row["light"], row["chosen_in"]): row for row in verification.calibration_rows(results)}
    assert len(rows) == 6
    assert rows["iresnet50", "low", "normal"]["frr"] > rows["iresnet50", "low", "low"]["frr"]
    assert "no more than twice the intended one" in text_of(results)


def test_differences_to_the_published_table_are_explained_by_rounding(make_results):
    results = make_results()
    reasons = {(of["backbone"], of["measure"]): of["reason"] for of in cost.facts(results)["cost"]["differences"]}
    assert reasons["iresnet50", "parameters"] == "cut" and reasons["iresnet50", "flops"] == "rounded"
    assert reasons["efficientnet_b3", "flops"] == "cut"
    assert "43.590 million parameters are those of this variant" in text_of(results)
    results["flops"]["metrics"]["light"]["flops"] = 300_000_000
    results["flops"]["metrics"]["heavy"]["parameters"] = 25_600_000
    text = text_of(results)
    assert "unexplained, $+0.0260$" in text and "of this variant" not in text


def test_ratios_of_cost_are_light_over_heavy_and_flops_mislead_only_where_the_speed_says_so(make_results):
    results = make_results()
    measured = cost.facts(results)["cost"]
    assert measured["flops"] == pytest.approx(274_922_512 / 6_326_241_280) and measured["inference"] == 1
    assert measured["verdict"] == "mislead" and "FLOPs alone are misleading" in text_of(results)
    results["flops"]["metrics"]["light"]["inference_speed"]["contiguous"] = 8.0 * 23
    assert cost.facts(results)["cost"]["verdict"] == "foretell" and "FLOPs predict the speed" in text_of(results)


def test_what_the_counter_counts_is_told_from_its_own_list(make_results):
    results = make_results()
    results["flops"]["metrics"]["light"]["uncounted"] = ["add", "new_op"]
    text = text_of(results)
    assert "It counts convolutions and batch normalisation, and leaves out sums of feature maps," in text
    assert r"activation functions and new\_op." in text


def ladder(**aucs) -> dict:
    """The released model's ladder: AUC 0.99 on every rung but those given."""
    rungs = {name: {"pairs": 6000, "accuracy": 0.97, "auc": 0.99} for name in evaluation_ladder.rungs()}
    for name, auc in aucs.items():
        rungs[{"published": "up/published", "crop": "down/random crop", "low": "down/low light"}[name]]["auc"] = auc
    return {"released": {"metrics": rungs}}


def test_every_rung_has_a_name():
    assert set(words.RUNGS) == set(evaluation_ladder.rungs())


def test_defects_are_ordered_by_their_cost_and_those_that_explain_chance_alone_are_named(make_results):
    text = text_of(make_results() | {"evaluation_ladder": ladder(published=0.503, crop=0.53, low=0.90)})
    assert "random crop (0.460) and low light (0.090)." in text
    assert "enough to explain a curve at chance: random crop." in text
    assert "the released model is at chance (AUC 0.503)" in text and "The cause is the test protocol" in text
    harmless = text_of(make_results() | {"evaluation_ladder": ladder(published=0.7)})
    assert "No defect alone lowers the AUC of the released model by as much as 0.01." in harmless
    assert "does not alone" not in harmless and "The test protocol alone does not explain this" in harmless


def training_ladder(first: list[float], last: list[float]) -> dict:
    """The light backbone's AUC under the published and under the mended recipe, a seed each."""
    rungs = {"published": first, "alignment": last}
    names = {f"ladder-efficientnet_b3-{rung}-s{n}": auc for rung, aucs in rungs.items() for n, auc in enumerate(aucs)}
    recipe = {"metrics": {"last_epoch_loss": 30.0}, "parameters": {"ratio": 0.25, "epochs": 4}}
    verified = {f"{name}-normal": {"metrics": {"pairs": 600, "accuracy": 0.5, "auc": names[name]}} for name in names}
    return {"ladder_train": dict.fromkeys(names, recipe), "ladder_verify": verified}


@pytest.mark.parametrize(
    "first, last, sentence",
    [
        ([0.50, 0.51, 0.52], [0.70, 0.71, 0.72], "raises the AUC of efficientnet\\_b3 from 0.510 to 0.710 (3 seeds)"),
        ([0.70, 0.71, 0.72], [0.50, 0.51, 0.52], "The corrected recipe lowers the AUC"),
        ([0.50, 0.60, 0.55], [0.58, 0.52, 0.61], "shows no change beyond the spread of its 3 seeds"),
        ([0.50], [0.90], "with one seed, so that chance may explain it"),
    ],
)
def test_a_recipe_is_called_better_only_beyond_the_spread_of_its_seeds(make_results, first, last, sentence):
    assert sentence in text_of(make_results() | training_ladder(first, last))


def low_light(dark: float, gain: float) -> dict:
    """Accuracy and AUC 0.95 in normal light and `dark` at one stop, with gain `gain`."""
    values = {"normal": 0.95, "0/none": 0.95, "1/none": dark, "0/gain": 0.95, "1/gain": gain}
    conditions = {name: {"accuracy": value, "auc": value} for name, value in values.items()}
    metrics = {"pairs": 240, "stops": [0, 1], "repairs": ["none", "gain"], "conditions": conditions}
    return {"low_light": {"released": {"metrics": metrics}}}


@pytest.mark.parametrize(
    "dark, gain, sentences",
    [
        (0.75, 0.90, ("loses 0.01 or more from 1 stop on", r"restores 75\,\% of the loss")),
        (0.75, 0.70, ("loses 0.01 or more from 1 stop on", "restores nothing")),
        (0.949, 0.95, ("loses less than 0.01 at any darkness", "there is nothing to repair")),
    ],
)
def test_what_darkness_takes_and_a_repair_restores(make_results, dark, gain, sentences):
    text = text_of(make_results() | low_light(dark, gain))
    assert all(sentence in text for sentence in sentences)


def check(**changed) -> dict:
    """An integrity check that found nothing amiss, but for what is changed."""
    found = {"folds": 0, "names": 0, "beyond": 2, "near": 0} | changed
    twice = {"exact": 0, "near": found["near"], "exact_of_two_identities": 0, "near_of_two_identities": 0}
    overlap = {"threshold": 0.25, "suspects": 150, "highest": 0.46}
    metrics = {
        "train": {"identities": 200},
        "lfw": {"identities": 4281},
        "folds": {"folds": 10, "identities": found["folds"]},
        "view1": {"identities": 0},
        "names": {"identities": found["names"]},
        "overlap": overlap | {"beyond_chance": {"threshold": 0.43, "suspects": found["beyond"]}},
        "duplicates": {"train": twice, "lfw": twice, "across": {"exact": 0, "near": 0}},
    }
    return {"integrity": {"metrics": metrics, "parameters": {"model": "weights/model.onnx"}}}


def test_integrity_is_told_as_it_was_found(make_results):
    clean = text_of(make_results() | check())
    assert "The 10 folds share no identity." in clean and "No photograph occurs twice" in clean
    assert (
        "none come that near, no more than chance" not in clean
        and "no more than chance explains (2.0 expected)" in clean
    )
    amiss = text_of(make_results() | check(folds=3, names=4, beyond=40, near=7))
    assert "Of 4,281 identities 3 are in more than one of the 10 folds." in amiss and "4 are in the test" in amiss
    assert "more than chance explains (2.0 expected)" in amiss and "7 of one photograph saved again" in amiss


def test_a_row_without_suspects_names_the_larger_of_its_moves():
    left = {"threshold": {"pairs": 100, "accuracy": 0.91}, "chance": {"pairs": 300, "accuracy": 0.96}}
    move = integrity.moved({"model": "released", "accuracy": 0.95} | left)
    assert move == {"model": "released", "move": pytest.approx(-0.04), "pairs": 100}


def test_detectors_are_ordered_by_what_they_reach(make_results):
    reached = {"mtcnn": (100, 0.95), "viola-jones": (92, 0.99), "none": (100, 0.9)}
    metrics = {
        name: {"images": 100, "found": found, "images_per_second": 20.0, "pairs": 6000, "accuracy": share, "auc": share}
        for name, (found, share) in reached.items()
    }
    run = {"metrics": metrics, "parameters": {"model": "weights/some_model.onnx"}}
    text = text_of(make_results() | {"detectors": {"released": run}})
    assert "Viola--Jones finds a face in 92 of 100 images" in text
    assert (
        text.index("by the box of Viola--Jones,") < text.index("by the landmarks of MTCNN and") and "& -- & --" in text
    )


def summary(**changed) -> dict:
    each = {"least": 10, "median": 24.5, "most": 30}
    found = {"images": 100, "unreadable": 0, "identities": 5, "images_per_identity": each, "sizes": 1}
    found |= {"commonest_size": [250, 200], "faces_found": 100, "brightness": {"0.05": 80.0, "0.5": 120, "0.95": 160.0}}
    return found | changed


def test_the_data_are_told_with_their_faces_sizes_and_light(make_results):
    dark = {"0.05": 1.0, "0.5": 70, "0.95": 99.0}
    metrics = {"train": summary(faces_found=97), "test": summary(sizes=3, faces_found=None, brightness=dark)}
    text = text_of(make_results() | {"data": {"metrics": metrics}})
    assert r"100 images of 5 identities, 10 to 30 of each (median 24.5), all of 250 $\times$ 200 pixels." in text
    assert "No face is found in 3 of them." in text and "of 3 sizes, mostly" in text
    assert "They are aligned crops already" in text and "lies outside the range" in text
    assert data.data(metrics | {"test": summary()})["light"]["verdict"] == "within"


def test_what_was_benchmarked_is_told_with_whose_faces_they_were(make_results):
    speeds = {"plain": 2000.0, "folder": 4000.0, "recordio": 3900.0, "pack float32": 40000.0, "pack uint8": 2e5}
    ratios = {name: speed / 2000 for name, speed in speeds.items() if name != "plain"} | {"pack uint8 to memcpy": 0.75}
    light = {"plain": 20.0, "facelib": 31.0, "ratio": 1.55, "loading": 0.009, "arithmetic": 0.16}
    sides = {"straightforward": {"seconds": 1.3, "bytes": 957e6}, "facelib": {"seconds": 0.8, "bytes": 383e6}}
    grown = {"10000": {"seconds": 0.1, "bytes": 2e7}, "1000000": {"seconds": 11.4, "bytes": 4.1e9}}
    bench = {"loading": ABOUT | {"speeds": speeds, "ratios": ratios}}
    bench |= {"training": ABOUT | {"synthetic": False, "backbones": {"a_b": light}}}
    bench |= {"head": sides | {"identities": 93431, "batch": 512, "grown": grown}}
    text = text_of(make_results() | {"bench": bench})
    assert "Of 1,200 synthetic faces" in text and "200,000 (100.0 times) as bytes" in text
    assert r"a\_b 1.55 times as fast" in text and r"images of the folder some\_faces" in text
    assert r"0.80\,s and 383\,MB" in text and r"At 1,000,000 identities, those of facelib take 11.4\,s" in text


def test_provenance_lists_a_run_without_what_is_told_elsewhere(make_results):
    runs = setting.provenance(make_results(released=3.0))
    assert runs["released"] == "m.onnx f" and "epochs 12" in runs["runs"][0]["asked"]
    assert not any(asked.startswith(("data", "backbone", "ratio")) for asked in runs["runs"][0]["asked"])


def test_facts_do_not_change_the_results(make_results):
    results = make_results()
    before = copy.deepcopy(results["plan"])
    studies.facts(results)
    setting.facts(results)
    assert results["plan"] == before
