"""What is said of training follows the runs."""

import dataclasses

import pytest

from facelib.training import Config
from report.facts import training


def trained_on(folder: str, faces_not_found: int | None = 0, continued: tuple[int, ...] = (), **recipe) -> dict:
    metrics = {"ratio": 0.5, "images": 1234, "identities": 56, "dropped_identities": 7, "precision": "float32"}
    metrics |= {"faces_not_found": faces_not_found, "continued_after_steps": continued, "steps": 1000}
    return {"metrics": metrics, "parameters": dataclasses.asdict(Config(data=folder, output="", **recipe))}


def said(*runs: dict) -> dict[str, str]:
    train = {f"run {number}": run for number, run in enumerate(runs)}
    return training.values({"train": train, "plan": {"synthetic": False}, "data": None})


def test_training_faces_are_named_by_their_folder_and_landmarks_by_where_they_are_from():
    values = said(trained_on("data/celeb", 3))
    assert "the folder celeb" in values["claim.training_data"]
    assert "MTCNN" in values["claim.landmarks"] and "all but 3 images" in values["claim.landmarks"]
    assert values["train.sizes"] == "1,234 images of 56 identities at $r = 0.5$"
    assert "7 at $r = 0.5$" in values["claim.dropped"]
    values = said(trained_on("data/casia-webface", None))
    assert "CASIA-WebFace" in values["claim.training_data"] and "came with" in values["claim.landmarks"]


def test_a_recipe_that_differs_between_runs_is_told_of_each():
    light = trained_on("data/celeb", backbone="efficientnet_b3", learning_rate=0.1)
    heavy = trained_on("data/celeb", learning_rate=0.01)
    third = trained_on("data/celeb", learning_rate=0.01, ratio=0.5)
    values = said(light, heavy, third)
    assert values["train.epochs"] == "12"
    expected = r"0.1 (efficientnet\_b3 at $r = 1$) and 0.01 (iresnet50 at $r = 1$, iresnet50 at $r = 0.5$)"
    assert values["train.learning_rate"] == expected


@pytest.mark.parametrize(
    "recipe, words",
    [
        ({}, "decays polynomially with power 2 over the steps that are run"),
        ({"power": 1.5, "decay_over": "full"}, "power 1.5 over the steps of a run at $r = 1$"),
        ({"schedule": "cosine"}, "falls by half a cosine over"),
    ],
)
def test_the_schedule_is_told_as_it_was(recipe, words):
    assert words in said(trained_on("data/celeb", **recipe))["train.schedule"]


def test_of_the_options_those_are_told_that_were_taken_and_by_which_run():
    assert said(trained_on("data/celeb"))["claim.options"] == ""
    plain, other = trained_on("data/celeb"), trained_on("data/celeb", ema=0.999, sample_rate=0.1)
    words = said(other, other)["claim.options"]
    assert r"sees 10\,\% of the identities" in words and "average of the weights (decay 0.999)." in words
    words = said(plain, trained_on("data/celeb", ema=0.9, backbone="x_y"))["claim.options"]
    assert words == r"Besides, evaluated is a moving average of the weights (decay 0.9) (x\_y at $r = 1$)."


def test_a_run_that_was_stopped_is_named_with_the_step_it_went_on_from():
    assert said(trained_on("data/celeb"))["claim.continued"] == ""
    words = said(trained_on("data/celeb"), trained_on("data/celeb", continued=(120, 800)))["claim.continued"]
    assert words == "Stopped and continued from a checkpoint: iresnet50 at $r = 1$ after step 120 and 800 of 1,000."
