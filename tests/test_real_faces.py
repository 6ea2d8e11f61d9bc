"""On real faces, where they are at hand: the released ArcFace model verifies LFW as published."""

import pytest

from facelib.data import PairImages, Pairs, read_pairs
from facelib.data.landmarks import find_landmarks
from facelib.data.layout import lfw_images
from facelib.models import flops
from facelib.models.inputs import Input
from facelib.models.pretrained import load_embedder
from facelib.verification import colour_order, measures
from facelib.verification import scores as verification


@pytest.fixture(scope="module")
def sample(real_data, tmp_path_factory):
    """The first pairs of View 2, genuine and impostor, with their detected landmarks."""
    pairs = read_pairs(real_data / "lfw" / "pairs.txt")
    keep = [i for i in range(len(pairs)) if pairs.fold[i] < 2][::4]
    chosen = Pairs(
        [pairs.first[i] for i in keep], [pairs.second[i] for i in keep], pairs.genuine[keep], pairs.fold[keep]
    )
    folder = tmp_path_factory.mktemp("lfw") / "images"
    for name in {*chosen.first, *chosen.second}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").symlink_to(lfw_images(real_data / "lfw") / f"{name}.jpg")
    return folder, chosen, find_landmarks(folder, tmp_path_factory.mktemp("cache"))


def test_view_2_has_ten_folds_of_300_and_300_pairs(real_data):
    pairs = read_pairs(real_data / "lfw" / "pairs.txt")
    assert len(pairs) == 6000 and pairs.genuine.sum() == 3000
    assert all((pairs.genuine & (pairs.fold == fold)).sum() == 300 for fold in range(10))


def test_view_1_has_1100_and_500_pairs_of_each_kind_and_no_identity_in_both(real_data):
    train, test = (read_pairs(real_data / "lfw" / f"pairsDev{part}.txt") for part in ("Train", "Test"))
    assert (len(train), len(test)) == (2200, 1000)
    people = [{name.split("/")[0] for name in [*pairs.first, *pairs.second]} for pairs in (train, test)]
    assert not people[0] & people[1]


def test_a_face_is_found_in_nearly_every_image_and_lies_where_lfw_puts_it(sample):
    _, _, landmarks = sample
    assert (landmarks.score > 0.9).mean() > 0.98
    assert landmarks.left_eye_x.median() == pytest.approx(104, abs=5)
    assert landmarks.right_eye_x.median() == pytest.approx(147, abs=5)


def test_the_released_model_verifies_lfw(sample, real_data):
    models = sorted((real_data / "weights").glob("*.onnx"))
    if not models:
        pytest.skip(f"no .onnx model in {real_data / 'weights'}")
    folder, pairs, landmarks = sample
    dataset = PairImages(folder, pairs, landmarks)
    embeddings = verification.embed_images(load_embedder(models[0]), dataset, flip=True)
    scores = verification.pair_scores(embeddings, dataset.first, dataset.second)
    found = measures.measures(scores, pairs.genuine, pairs.fold)
    assert found["accuracy"] > 0.97 and found["auc"] > 0.99  # 99.30 % on all of View 2; these are 300 pairs


def test_the_released_mobilefacenet_is_seen_to_take_rgb(sample, real_data):
    model = real_data / "weights" / "arcface_mobilefacenet_y1.onnx"
    if not model.exists():
        pytest.skip(f"no {model}")
    folder, pairs, landmarks = sample
    embedder = load_embedder(model)
    found = colour_order.check(embedder, PairImages(folder, pairs, landmarks), pairs.genuine)
    assert found["better"] == "RGB" and found["gap"] > 6
    embedder.takes = Input("BGR", embedder.takes.mean, embedder.takes.std)
    wrong = colour_order.check(embedder, PairImages(folder, pairs, landmarks), pairs.genuine)
    assert wrong["declared"] == "BGR" and wrong["better"] == "RGB"


def test_the_released_mobilefacenet_costs_what_its_paper_says(real_data):
    """0.99 million parameters and 221 million multiply-adds (Chen et al. 2018, "MobileFaceNets", table 2)."""
    model = real_data / "weights" / "arcface_mobilefacenet_y1.onnx"
    if not model.exists():
        pytest.skip(f"no {model}")
    counted = flops.count_onnx(model)
    assert counted["parameters"] / 1e6 == pytest.approx(0.99, abs=0.005)
    assert counted["flops"] / 1e6 == pytest.approx(221, abs=0.5)
