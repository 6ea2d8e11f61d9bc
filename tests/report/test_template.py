"""The report's sentences follow the facts: change the numbers and another sentence stands."""

import json
import re
import shutil
import subprocess

import pytest

from facelib import ROOT
from report import render, words

ANSWERS = {
    "better": "On these data it can. The light backbone",
    "worse": "cannot replace the heavy one without a loss",
    "even": "as far as these pairs can tell",
    "unreliable": "neither backbone is a reliable verifier",
    "undecided": "two runs of one backbone that differ by their seed alone could lie up to 28.3 points apart",
    "chance": "Neither backbone is better than chance",
    "unfinished": "The runs that would answer the question are not finished",
}


def text_of(results: dict) -> str:
    """The rendered report in one line, after the way through facts.json."""
    rendered = render.render(json.loads(json.dumps(render.facts(results), allow_nan=False)))
    return re.sub(r"\s+", " ", rendered)


def whole(text: str) -> bool:
    """No mark of the template is left, and braces are balanced."""
    plain = text.replace(r"\{", "").replace(r"\}", "")
    marks = [mark for mark in ("<<", ">>", "<%", "%>", "<#", "#>", "None", "Undefined") if mark in text]
    return not marks and plain.count("{") == plain.count("}")


@pytest.mark.parametrize(
    "light, heavy, verdict",
    [(3.0, 1.0, "better"), (1.0, 3.0, "worse"), (2.0, 2.0, "even"), (0.6, 0.6, "unreliable"), (0.0, 0.0, "chance")],
)
def test_the_answer_follows_the_comparison_in_abstract_and_conclusions(make_results, light, heavy, verdict):
    text = text_of(make_results(light, heavy))
    assert whole(text)
    assert {kind: text.count(sentence) for kind, sentence in ANSWERS.items() if sentence in text} == {verdict: 2}


def test_the_comparison_names_the_better_one_or_what_would_have_shown(make_results):
    assert "The heavy one is more accurate." in text_of(make_results(1.0, 3.0))
    assert "The light one is more accurate." in text_of(make_results(3.0, 1.0))
    even = text_of(make_results(2.0, 2.0))
    assert "These pairs would have shown a difference of" in even and "is more accurate." not in even


def test_curves_at_chance_are_named(make_results):
    assert "all 4 curves lie above chance" in text_of(make_results(2.0, 2.0))
    assert "none of the 4 curves" in text_of(make_results(0.0, 0.0))
    mixed = text_of(make_results(2.0, 0.0))
    assert "2 of 4 curves" in mixed and "iresnet50 at $r = 0.1$ and iresnet50 at $r = 1$" in mixed


def test_low_light_costs_or_gains(make_results):
    assert "none of the 4 trained models loses as much as 0.005" in text_of(make_results(3.0, 3.0, low=0.0))
    assert "4 of 4 trained models lose 0.005" in text_of(make_results(3.0, 3.0, low=2.0))
    assert "That of 4 models rises" in text_of(make_results(1.0, 1.0, low=-2.0))


def test_a_released_model_stands_beside_its_published_accuracy_and_without_one_nothing_is_said(make_results):
    above = text_of(make_results(released=6.0))
    assert r"99.50\,\% are published" in above and "It is above chance" in above and whole(above)
    assert "It cannot be told from chance" in text_of(make_results(released=0.0))
    without = text_of(make_results())
    assert "The released model (" not in without and "released_roc" not in without


def test_synthetic_faces_are_called_so_and_stand_beside_no_published_accuracy(make_results):
    results = make_results(released=6.0)
    results["plan"]["synthetic"] = True
    for run in results["verify"].values():
        run["parameters"]["images"] = "lfw-synthetic"
    text = text_of(results)
    assert r"\textbf{Synthetic data.}" in text and "Published points are left out" in text
    assert "99.50" not in text and "CASIA-WebFace~" not in text and whole(text)
    assert "Synthetic data" not in text_of(make_results())


def test_a_preview_names_what_is_missing_and_a_finished_report_without_it_is_refused(make_results):
    results = make_results() | {"verify": {}, "train": {}, "flops": None, "statistics": None}
    with pytest.raises(ValueError, match=r"report.tex.j2: 'cost' is undefined. Run make report."):
        text_of(results)
    text = text_of(results | {"unfinished": ["train/x_y", "train/z", "verify/x-low"]})
    assert "3 runs are not finished and left out (2 of train and 1 of verify)" in text
    assert r"Not finished & train/x\_y, train/z" in text and whole(text)
    assert text.count(ANSWERS["unfinished"]) == 2
    assert "1 run is not finished" in text_of(results | {"unfinished": ["train/z"]})


def test_a_value_of_the_recipe_is_told_once_or_with_its_runs(make_results):
    results = make_results()
    assert "Each run has 12 epochs of batches of 64," in text_of(results)
    results["train"]["iresnet50-r1"]["parameters"]["epochs"] = 20
    text = text_of(results)
    assert "20 (iresnet50 at $r = 1$)" in text and "12 (" in text
    results["train"]["iresnet50-r1"]["metrics"]["continued_after_steps"] = [500]
    assert "continued from a checkpoint: iresnet50 at $r = 1$ after step 500 of 1,000" in text_of(results)


def test_the_flip_test_is_told_of_the_models_that_have_it(make_results):
    results = make_results(released=3.0)
    assert "it is used for no model" in text_of(results)
    results["verify"]["released-normal"]["parameters"]["flip"] = True
    assert "it is used for the released model, not for the trained models" in text_of(results)


@pytest.mark.parametrize(
    "difference, sentence, verdict",
    [(0.30, "This is more than two runs", "worse"), (0.20, "could show as much", "undecided")],
)
def test_seeds_are_held_against_the_difference_before_it_is_an_answer(make_results, difference, sentence, verdict):
    """Two runs of deviation 10 points differ by 14.1 points, twice of which is 28.3."""
    results = make_results()
    one_seed = text_of(results)
    assert "the light backbone has one seed and the heavy backbone has one seed" in one_seed
    compare = results["statistics"]["metrics"]["compare"]["r1-normal"]
    compare["verdict"], compare["difference"]["estimate"] = "worse", difference
    runs = results["verify"], results["more_verify"], results["more_verify"]
    for kind, seed, accuracy in zip(runs, ("", "-s1", "-s2"), (0.7, 0.8, 0.9)):
        run = results["verify"]["efficientnet_b3-r1-normal"]
        again = run | {"metrics": run["metrics"] | {"accuracy": accuracy, "auc": 0.9}}
        kind[f"efficientnet_b3-r1{seed}-normal"] = again
    text = text_of(results)
    assert r"reaches 80.0 $\pm$ 10.0\,\% over 3 seeds" in text and "28.3 points" in text and sentence in text
    assert text.count(ANSWERS[verdict]) == 2


def test_studies_that_were_not_made_have_no_section(make_results):
    text = text_of(make_results())
    for title in ("Is the Test a Test", "What Is Alignment Worth", "What Broke", "How Dark Is Too Dark"):
        assert title not in text


def test_numbers_are_written_as_a_reader_expects_them():
    assert words.tex("a_b & 5%") == r"a\_b \& 5\%"
    assert words.times(3.04) == "3.0 times" and words.times(1 / 3) == "0.33 times"
    assert words.join(["one", "two", "three"]) == "one, two and three" and words.join([]) == ""
    assert words.count(1, "pair") == "1 pair" and words.count(2000, "pair") == "2,000 pairs"
    assert words.interval({"low": 0.5, "high": 0.75}, 1, 100) == "[50.0, 75.0]" and words.interval(None) == "--"
    assert words.spread({"mean": 0.8, "deviation": 0.1}, 1, 100) == r"80.0 $\pm$ 10.0"
    assert words.spread({"mean": 0.8, "deviation": None}, 1, 100) == "80.0"
    assert words.p_value(0.0004) == "$p < 0.001$" and words.signed(-0.031) == "$-3.1$"


def test_the_rendered_text_can_be_typeset(make_results, tmp_path):
    if not shutil.which("latexmk"):
        pytest.skip("no latexmk")
    latex = tmp_path / "build" / "latex"
    latex.mkdir(parents=True)
    shutil.copy(ROOT / "report" / "references.bib", latex)
    render.write(make_results(released=6.0) | {"unfinished": ["data"]}, latex)  # a preview needs no figures
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=latex, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
