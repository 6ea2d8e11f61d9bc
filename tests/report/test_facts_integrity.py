"""What is said of integrity follows what the check found."""

import pytest

from report.facts import integrity as report_integrity


def results(**changed) -> dict:
    """A check that found nothing amiss, but for what is changed: folds, names, suspects, beyond, two_names."""
    found = {"folds": 0, "names": 0, "suspects": 150, "beyond": 2, "two_names": 0} | changed
    duplicates = {"exact": 1, "near": 7, "exact_of_two_identities": 0, "near_of_two_identities": found["two_names"]}
    metrics = {
        "train": {"images": 5000, "identities": 200},
        "lfw": {"images": 7701, "identities": 4281},
        "folds": {"folds": 10, "identities": found["folds"]},
        "view1": {"identities": 0},
        "names": {"identities": found["names"]},
        "overlap": {
            "threshold": 0.25,
            "suspects": found["suspects"],
            "highest": 0.46,
            "beyond_chance": {"threshold": 0.43, "suspects": found["beyond"]},
        },
        "duplicates": {"train": duplicates, "lfw": duplicates, "across": {"exact": 0, "near": 0}},
    }
    plan = {"light": "efficientnet_b3", "heavy": "iresnet50", "ratios": [1.0]}
    integrity = {"metrics": metrics, "parameters": {"model": "weights/model.onnx"}}
    return {"plan": plan, "integrity": integrity, "statistics": None, "verify": {}, "more_verify": {}}


def test_identities_in_several_folds_are_counted_and_otherwise_the_folds_are_called_disjoint():
    assert "The 10 folds share no identity" in report_integrity.claim_folds(results())
    assert "3 of 4,281 identities are in more than one" in report_integrity.claim_folds(results(folds=3))
    assert "names 4 are among the test's" in report_integrity.claim_folds(results(names=4))


@pytest.mark.parametrize("beyond, words", [(2, "no more than chance explains"), (40, "more than chance explains")])
def test_suspects_beyond_chance_are_held_against_what_chance_gives(beyond, words):
    """One in a hundred of 200 identities is 2."""
    said = report_integrity.claim_overlap(results(beyond=beyond))
    assert f"come that near, {words} (2.0 expected)" in said and "one in 100 comes nearer than 0.430" in said


def test_duplicates_under_two_names_are_told():
    said = report_integrity.claim_duplicates(results(two_names=5))
    assert (
        "within training 1 pair of equal images and 7 of one photograph saved again (5 of them under two names)" in said
    )


def test_no_duplicate_is_one_short_sentence():
    found = results()
    for place in found["integrity"]["metrics"]["duplicates"].values():
        place.update(dict.fromkeys(place, 0))
    assert report_integrity.claim_duplicates(found).startswith("No photograph is there twice")


def with_accuracy(without: float) -> dict:
    """The released model: 99 % on all pairs, so much without the suspects at the threshold."""
    found = results()
    found["verify"]["released-normal"] = {"metrics": {"accuracy": 0.99, "auc": 0.999}}
    left = {"threshold": {"pairs": 4000, "accuracy": without, "auc": 0.99}}
    found["statistics"] = {"metrics": {"compare": {}, "without_suspects": {"released-normal": left}}}
    return found


def test_results_without_suspects_stand_beside_those_of_all_pairs():
    row = report_integrity.integrity_table(with_accuracy(0.98))
    assert row == "released & -- & 99.00 & 0.999 & 4,000 & 98.00 & 0.990 & -- & -- & -- \\\\\n"
    assert "released by $-1.0$ points (on the 4,000 pairs left)" in report_integrity.claim_without(with_accuracy(0.98))
    assert "no accuracy moves by as much as 0.5" in report_integrity.claim_without(with_accuracy(0.988))


def test_before_the_check_nothing_is_claimed():
    assert report_integrity.values({"integrity": None}) == {}
