"""The explore notebook: errors counted by hand and one by one, scores of a verification, and sliders that are moved."""

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from facelib import ROOT
from facelib.faces.light import darken, published
from facelib.models import create_model
from facelib.models.pretrained import load_embedder
from facelib.studies import explore
from facelib.studies.low_light import noise_generator
from facelib.training.machine import FILES
from facelib.verification import scores
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify
from notebooks import explore_widgets as explore_plots

# Genuine and impostor pairs, a score of each kind the same.
SCORE = np.array([0.9, 0.5, 0.4, 0.1, 0.8, 0.5, 0.3, 0.2])
GENUINE = np.array([True, True, True, True, False, False, False, False])


@pytest.fixture(scope="module")
def scored(place):
    return explore.score_model(str(place / "model.pth"), str(place / "lfw"))


# --- a model's scores


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(),
        Protocol(light="low", flip=True),
        Protocol(light="low", normalise="first", crop="centre"),
        Protocol(crop="random", folds=2, threshold="same pairs"),
    ],
    ids=str,
)
def test_scores_and_measures_are_those_of_a_verification(place, tmp_path, protocol):
    given = str(place / "model.pth"), str(place / "lfw")
    found = explore.score_model(*given, protocol, seed=3)
    expected = verify(*given, str(tmp_path / "verified"), protocol, seed=3)
    del expected["colour_order"]
    with np.load(tmp_path / "verified" / "scores.npz") as verified:
        assert found.score == pytest.approx(verified["score"], abs=1e-6)
        assert found.pairs.genuine.tolist() == verified["genuine"].tolist()
    assert found.measures | {"images": len(found.embeddings)} == pytest.approx(expected)


def test_the_threshold_starts_where_no_other_one_is_right_more_often(scored):
    best = explore.error_rates(scored.score, scored.pairs.genuine, scored.threshold)["accuracy"]
    for threshold in [*scored.score, 2.0]:
        right = sum((s >= threshold) == g for s, g in zip(scored.score, scored.pairs.genuine))
        assert right / len(scored.pairs) <= best


@pytest.mark.parametrize(
    "given, message",
    [
        ({"model": "nowhere.onnx"}, "nowhere.onnx: no such model.*model='nowhere.onnx'"),
        ({"lfw": "nowhere"}, "nowhere: no LFW images there.*lfw='nowhere'"),
        ({"protocol": Protocol(pairs="other.txt")}, "other.txt: no such pairs file.*pairs='other.txt'"),
        ({"protocol": Protocol(crop="middle")}, "crop must be one of aligned.*crop='middle'"),
        ({"device": "gpu"}, "device must be auto, cpu or cuda, found 'gpu'"),
    ],
)
def test_what_is_missing_or_wrong_is_told_in_sentences_that_a_notebook_shows_alone(place, given, message):
    with pytest.raises(explore.Unusable, match=f"(?s){message}") as raised:
        explore.score_model(**{"model": str(place / "model.pth"), "lfw": str(place / "lfw")} | given)
    assert raised.value._render_traceback_() == [str(raised.value)]


def test_models_to_choose_are_finished_runs_and_released_embedders(tmp_path):
    for run in ("small/train/b", "demo/train/a", "demo/train/unfinished.partial", "demo/verify/a"):
        (tmp_path / "build" / run).mkdir(parents=True)
        for name in FILES[: 2 if run.endswith("partial") else None]:
            (tmp_path / "build" / run / name).touch()
    (tmp_path / "weights").mkdir()
    for name in ("w600k.onnx", "r50.pth", "det_10g.onnx", "notes.txt", ".hidden.onnx"):
        (tmp_path / "weights" / name).touch()
    found = explore.find_models(tmp_path / "build", [tmp_path / "weights", tmp_path / "none", tmp_path / "weights"])
    expected = ["build/demo/train/a", "build/small/train/b", "weights/r50.pth", "weights/w600k.onnx"]
    assert found == [str(tmp_path / name) for name in expected]
    assert explore.find_models(tmp_path / "none", []) == []


# --- errors at a threshold


@pytest.mark.parametrize(
    "threshold, far, frr, accuracy",
    [(-1, 1, 0, 1 / 2), (0.45, 1 / 2, 1 / 2, 1 / 2), (0.5, 1 / 2, 1 / 2, 1 / 2), (0.85, 0, 3 / 4, 5 / 8)],
)
def test_error_rates_count_by_hand_and_a_score_at_the_threshold_is_accepted(threshold, far, frr, accuracy):
    found = explore.error_rates(SCORE, GENUINE, threshold)
    assert found == {"FAR": far, "FRR": frr, "accuracy": accuracy}


def test_wrong_pairs_by_hand_come_with_the_furthest_from_the_threshold_first():
    accepts, rejects = explore.wrong_pairs(SCORE, GENUINE, 0.45)
    assert (accepts.tolist(), rejects.tolist()) == ([4, 5], [3, 2])
    accepts, rejects = explore.wrong_pairs(SCORE, GENUINE, 0.95)
    assert (accepts.tolist(), rejects.tolist()) == ([], [3, 2, 1, 0])


def test_wrong_pairs_are_all_those_judged_wrongly_and_as_many_as_the_rates_say():
    rng = np.random.default_rng(0)
    genuine = rng.random(200) < 0.4
    score = np.tanh(0.4 * rng.normal(size=200) + 0.3 * genuine).round(2)
    for threshold in (-0.2, 0.0, 0.1, float(score[7]), 0.9):
        accepts, rejects = explore.wrong_pairs(score, genuine, threshold)
        assert {*accepts} == {i for i in range(200) if score[i] >= threshold and not genuine[i]}
        assert {*rejects} == {i for i in range(200) if score[i] < threshold and genuine[i]}
        for wrong in (accepts, rejects):
            assert (np.diff(abs(score[wrong] - threshold)) <= 0).all()
        rates = explore.error_rates(score, genuine, threshold)
        assert rates["FAR"] == len(accepts) / (~genuine).sum() and rates["FRR"] == len(rejects) / genuine.sum()
        assert rates["accuracy"] == pytest.approx(1 - (len(accepts) + len(rejects)) / 200)


def test_the_typical_pair_is_the_genuine_one_in_the_middle():
    assert explore.typical_pair(SCORE, GENUINE) == 2  # of 0.1, 0.4, 0.5, 0.9
    assert explore.typical_pair(SCORE[1:], GENUINE[1:]) == 1  # of 0.1, 0.4, 0.5


# --- one pair


def test_a_pairs_crops_are_those_of_the_images_that_the_pairs_file_names(place, scored):
    for pair in (0, 7):
        images = [scored.dataset.images.index(f"{name}.jpg") for name in scored.names(pair)]
        assert (scored.crops(pair) == torch.stack([scored.dataset[i][0] for i in images])).all()


@pytest.mark.parametrize("light, flip", [("normal", False), ("normal", True), ("low", False)])
@pytest.mark.parametrize("stops", [0, 3])
def test_a_pairs_score_in_some_light_is_the_cosine_of_its_darkened_crops_embeddings(place, stops, light, flip):
    model, protocol = str(place / "model.pth"), Protocol(light=light, flip=flip)
    scored = explore.score_model(model, str(place / "lfw"), protocol)
    crops, score = explore.pair_in_light(scored, 5, stops, seed=2)
    expected = darken(scored.crops(5), stops, noise_generator(2, stops))
    assert (crops == expected).all()
    seen = published(expected) if light == "low" else expected
    embedder = load_embedder(model)
    embeddings = embedder.embed(seen) + (embedder.embed(seen.flip(-1)) if flip else 0)
    assert score == pytest.approx(float(F.cosine_similarity(*embeddings, dim=0)), abs=1e-6)


def test_less_light_is_darker_and_the_same_seed_the_same_noise(scored, capsys):
    (bright, _), (dark, score) = explore.pair_in_light(scored, 0, 0, 0), explore.pair_in_light(scored, 0, 4, 0)
    assert dark.float().mean() < 0.5 * bright.float().mean()
    again, same = explore.pair_in_light(scored, 0, 4, 0)
    other, _ = explore.pair_in_light(scored, 0, 4, 1)
    assert (again == dark).all() and same == score and (other != dark).any()
    assert capsys.readouterr() == ("", "")


# --- the map


def clouds(identities: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors near as many axes as identities, and whose they are."""
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(identities), images)
    embeddings = np.eye(16)[identity] + 0.05 * rng.normal(size=(len(identity), 16))
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), identity


def test_identities_far_apart_for_the_model_are_apart_on_the_plane():
    embeddings, identity = clouds(5, 8)
    points = explore.plane(embeddings, seed=0)
    assert points.shape == (40, 2)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    same = identity[:, None] == identity[None]
    for own, near in zip(same, distance):
        assert near[own].max() < near[~own].min()
    assert explore.plane(embeddings, seed=0).tolist() == points.tolist()


def test_a_handful_of_images_has_a_plane_too():
    assert np.isfinite(explore.plane(clouds(3, 1)[0], seed=0)).all()


def test_neighbours_count_by_hand():
    angles = np.radians([0, 10, 25, 90, 60])  # nearest: 1, 0, 1, 4, 3
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert explore.same_neighbours(embeddings, np.array(list("aabbb"))) == 4 / 5


def test_the_largest_identities_come_by_size_then_by_name():
    images = ["c/0.jpg", "c/1.jpg", "a/0.jpg", "b/0.jpg", "b/1.jpg", "d/0.jpg", "d/1.jpg", "d/2.jpg"]
    assert explore.largest_identities(images, 3) == ["d", "b", "c"]


def test_the_map_shows_every_image_of_the_chosen_identities(scored):
    frame, same = explore.identity_map(scored, 3, seed=0)
    chosen = explore.largest_identities(scored.dataset.images, 3)
    there = [image.split("/")[0] for image in scored.dataset.images]
    assert frame.identity.value_counts().to_dict() == {name: there.count(name) for name in chosen}
    assert np.isfinite(frame[["x", "y"]].to_numpy()).all()
    assert 0 <= same <= 1


# --- the notebook's sliders, moved as a user moves them


@pytest.fixture
def notebook(place, monkeypatch):
    """The notebook's names after it ran on the small data, in this process. `pictures` are what the user sees, from top
    to bottom, `shown` the figures in the order in which they were drawn.
    """
    book = nbformat.read(ROOT / "notebooks" / "explore.ipynb", as_version=4)
    (parameters,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += f"\nmodel, lfw = {str(place / 'model.pth')!r}, {str(place / 'lfw')!r}"
    names = {"pictures": [], "shown": []}
    save, live = Figure.savefig, explore_plots.live

    def recorded_save(figure, *given, **how):
        names["shown"].append(figure)
        save(figure, *given, **how)

    def recorded_live(draw, **controls):
        names["pictures"].append(live(draw, **controls))
        return names["pictures"][-1]

    monkeypatch.setattr(explore_plots, "DPI", 30)  # small pictures are quick
    monkeypatch.setattr(Figure, "savefig", recorded_save)
    monkeypatch.setattr(explore_plots, "live", recorded_live)
    monkeypatch.chdir(ROOT)
    for cell in book.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names


def seen(notebook) -> list[bytes]:
    return [bytes(picture.value) for picture in notebook["pictures"]]


def pictures(axis) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axis.images]


def test_all_figures_are_there_before_anything_is_moved(notebook, scored):
    assert notebook["cut"].value == pytest.approx(scored.threshold)
    assert len(notebook["shown"]) == 4 and all(png.startswith(b"\x89PNG") for png in seen(notebook))
    decisions, worst, _, pair = notebook["shown"]
    labels = [text.get_text() for text in decisions.axes[1].texts]
    rates = explore.error_rates(scored.score, scored.pairs.genuine, scored.threshold)
    assert labels == [f"{100 * rate:.2f} %" for rate in rates.values()]
    assert len(worst.subfigs) == 2
    assert f"pair {explore.typical_pair(scored.score, scored.pairs.genuine)}, one person" in pair.axes[2].get_title()


def test_moving_the_threshold_redraws_errors_and_the_pairs_decision_and_embeds_nothing(notebook, scored, monkeypatch):
    monkeypatch.setattr(explore, "embed_images", lambda *_, **__: pytest.fail("embedded again"))
    notebook["shown"].clear()
    before, threshold = seen(notebook), float(np.median(scored.score))  # scores on both sides: errors of both kinds
    notebook["cut"].value = threshold
    assert [old != new for old, new in zip(before, seen(notebook))] == [True, True, False, True]
    decisions, worst, pair = notebook["shown"]
    assert f"{threshold:.3f}" in decisions.axes[0].get_title()
    assert threshold in [line.get_xdata()[0] for line in decisions.axes[0].lines]
    wrong = explore.wrong_pairs(scored.score, scored.pairs.genuine, threshold)
    for part, pairs, kind in zip(worst.subfigs, wrong, ("impostor", "genuine")):
        assert part.get_suptitle().endswith(f"{len(pairs)} of 12 {kind} pairs")
        drawn = [axis for axis in part.axes if axis.images]
        assert len(drawn) == min(len(pairs), explore_plots.SHOWN) > 0
        for axis, i in zip(drawn, pairs):
            left, right = (crop.permute(1, 2, 0).numpy() for crop in scored.crops(i))
            assert (pictures(axis)[0] == np.hstack([left, right])).all()
            assert axis.get_xlabel() == f"{scored.score[i]:.3f}, pair {i}"
    notebook["cut"].value = 1.0
    assert notebook["shown"][-1].axes[2].get_title().endswith("rejected")
    notebook["cut"].value = -1.0
    assert notebook["shown"][-1].axes[2].get_title().endswith("accepted")


def test_a_threshold_without_errors_of_one_kind_says_so(notebook):
    notebook["cut"].value = 1.0
    accepts, rejects = notebook["shown"][-2].subfigs
    assert accepts.get_suptitle() == "false accepts: 0 of 12 impostor pairs" and not any(a.images for a in accepts.axes)
    assert rejects.get_suptitle() == "false rejects: 12 of 12 genuine pairs"


def test_moving_the_light_embeds_and_draws_the_pair_alone(notebook, scored, monkeypatch):
    counts, embed = [], scores.embed_images

    def counted(embedder, crops, *flip, **light):
        counts.append(len(crops))
        return embed(embedder, crops, *flip, **light)

    monkeypatch.setattr(explore, "embed_images", counted)
    notebook["number"].value = 5
    notebook["shown"].clear()
    before = seen(notebook)
    notebook["stops"].value = 3
    assert [old != new for old, new in zip(before, seen(notebook))] == [False, False, False, True]
    assert counts == [2, 2]  # the pair in its first light, then in the other
    (figure,) = notebook["shown"]
    crops, score = explore.pair_in_light(scored, 5, 3, 0)
    for axis, crop, name in zip(figure.axes, crops, scored.names(5)):
        assert (pictures(axis)[0] == crop.permute(1, 2, 0).numpy()).all()
        assert axis.get_xlabel() == name.split("/")[1].replace("_", " ")
    found = [line.get_xdata()[0] for line in figure.axes[2].lines if line.get_marker() == "o"]
    assert found == pytest.approx([scored.score[5], score])
    assert [label.get_text() for label in figure.axes[2].get_yticklabels()] == ["as it is", "3 stops less"]


def test_another_model_brings_its_own_measures_threshold_and_figures(notebook, place):
    torch.manual_seed(1)
    other = place / "other.pth"
    torch.save(create_model("iresnet18_025", 8).state_dict(), other)
    notebook["choice"].options = [*notebook["choice"].options, str(other)]
    notebook["shown"].clear()
    notebook["choice"].value = str(other)
    expected = explore.score_model(str(other), str(place / "lfw"))
    assert notebook["cut"].value == pytest.approx(expected.threshold)
    assert f"{expected.measures['auc']:.4f}".rstrip("0") in notebook["text"].value
    titles = [axis.get_title() for figure in notebook["shown"] for axis in figure.axes]
    assert {title.split(":")[0] for title in titles if title.startswith(("model", "other"))} == {"other"}
    assert sum(title.startswith("other: the nearest") for title in titles) == 1


def test_a_model_that_cannot_be_used_is_told_and_the_choice_goes_back(notebook, place):
    good, before = notebook["choice"].value, seen(notebook)
    broken = place / "broken.onnx"
    broken.write_text("no model")
    notebook["choice"].options = [*notebook["choice"].options, str(broken)]
    notebook["choice"].value = str(broken)
    assert str(broken) in notebook["text"].value and "auc" not in notebook["text"].value
    assert notebook["choice"].value == good and seen(notebook) == before
    notebook["cut"].value = 0.99
    assert seen(notebook)[0] != before[0]
