"""The declared protocol: its choices, the crops, and the published order of normalisation."""

import numpy as np
import pytest
import torch
from PIL import Image

from facelib.data import PairImages, Pairs
from facelib.models import Embedder, create_model
from facelib.synthetic import sets
from facelib.verification import ladder, published
from facelib.verification.protocol import Protocol
from facelib.verification.verify import verify


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"crop": "center"}, "crop must be one of aligned, centre, random, resized, found 'center'"),
        ({"light": "dark"}, "light must be one of normal, low"),
        ({"normalise": "never"}, "normalise must be one of last, first"),
        ({"threshold": "best"}, "threshold must be one of folds, same pairs"),
    ],
)
def test_a_wrong_choice_is_told_by_its_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**wrong).check()


# --- crops


@pytest.fixture
def ramp(tmp_path) -> tuple[str, Pairs]:
    """Two images of 120 x 160 pixels in which red is the column and green the row."""
    row, column = np.indices((120, 160), dtype=np.uint8)
    for name in ("a/a_0001", "b/b_0001"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.stack([column, row, 0 * row], axis=2)).save(tmp_path / f"{name}.png")
    return tmp_path, Pairs(["a/a_0001"] * 2, ["b/b_0001"] * 2, np.array([False, False]), np.array([0, 0]))


def test_the_centre_crop_is_the_middle_112_pixels(ramp):
    image, _ = PairImages(*ramp, crop="centre")[0]
    assert (int(image[0].min()), int(image[0].max())) == (24, 135)
    assert (int(image[1].min()), int(image[1].max())) == (4, 115)


def test_the_resized_crop_is_the_whole_image(ramp):
    image, _ = PairImages(*ramp, crop="resized")[0]
    assert image.shape == (3, 112, 112) and image[0].min() <= 1 and image[0].max() >= 158


def test_a_random_crop_is_drawn_for_each_image_of_each_pair_and_repeats_by_its_seed(ramp):
    drawn, again, other = (PairImages(*ramp, crop="random", seed=seed) for seed in (0, 0, 1))
    assert len(drawn) == 4 and drawn.first.tolist() == [0, 1] and drawn.second.tolist() == [2, 3]
    corners = [[int(data[i][0][c, 0, 0]) for c in (0, 1)] for data in (drawn, again, other) for i in range(4)]
    assert corners[:4] == corners[4:8] != corners[8:]
    assert len({tuple(corner) for corner in corners[:4]}) > 1


def test_an_image_smaller_than_the_crop_is_named(ramp):
    folder, pairs = ramp
    Image.new("RGB", (100, 100)).save(folder / "a" / "a_0001.png")
    with pytest.raises(ValueError, match="a_0001.png: images of 100x100 pixels are smaller than the crop"):
        PairImages(folder, pairs, crop="random")[0]


def test_the_first_folds_are_those_of_the_file():
    pairs = Pairs(["a"] * 6, ["b"] * 6, np.ones(6, bool), np.repeat([0, 1, 2], 2))
    assert pairs.first_folds(2).fold.tolist() == [0, 0, 1, 1] and len(pairs.first_folds(0)) == 6
    with pytest.raises(ValueError, match="folds must be 0, for all, or from 2 to the 3"):
        pairs.first_folds(4)


# --- the published order


def test_normalised_first_all_but_white_is_lost():
    """sqrt((x - 127.5) / 127.5) is not a number below 127.5, below 1 for x < 255 and 1 for 255; doubled: 0 or 2."""
    values = torch.arange(256, dtype=torch.uint8)
    assert published.low_light_after_normalisation(values).tolist() == [0] * 255 + [2]


class Echo(Embedder):
    """Embeds an image as the mean of what reaches the network."""

    def _embed(self, values):
        return values.mean(dim=(1, 2, 3))[:, None]


def test_in_the_published_order_the_network_gets_those_numbers_and_otherwise_the_embedder_normalises():
    white = torch.full((1, 3, 112, 112), 255, dtype=torch.uint8)
    assert published.embed(Echo("echo"), white).item() == 2
    assert Echo("echo").embed(white).item() == 1


# --- the ladder


def test_the_ladder_goes_from_the_published_protocol_to_the_corrected_one_a_defect_at_a_time():
    rungs = ladder.rungs()
    up = [protocol for name, protocol in rungs.items() if name.startswith("up/")]
    assert up[0] == ladder.PUBLISHED and up[-1] == ladder.CORRECTED == rungs["down/corrected"]
    for before, after in zip(up, up[1:]):
        assert sum(vars(before)[field] != vars(after)[field] for field in vars(before)) == 1
    fewer = ladder.rungs(flip=False, folds=2)
    assert not any(protocol.flip for protocol in fewer.values()) and fewer["down/corrected"].folds == 2
    for protocol in [*rungs.values(), *fewer.values()]:
        protocol.check()


def test_a_rung_gives_what_verify_gives_under_its_protocol(tmp_path):
    sets.make_lfw(tmp_path / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2)
    torch.save(create_model("iresnet18_025", 8).state_dict(), tmp_path / "model.pth")
    model, lfw = str(tmp_path / "model.pth"), str(tmp_path / "lfw")
    found = ladder.climb(model, lfw, str(tmp_path / "ladder"), flip=False)
    protocols = ladder.rungs(flip=False)
    for name in ("up/published", "up/one crop", "down/random crop", "down/low light"):
        alone = verify(model, lfw, str(tmp_path / "verify"), protocols[name])
        assert alone.pop("images") and alone.pop("colour_order") and found[name] == alone, name
