"""Any test set opens to the same noun: a folder, a verification file, a folder of records."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from facelib.data.pair_records import write_pair_records
from facelib.models import create_model
from facelib.studies import low_light
from facelib.synthetic import sets
from facelib.verification import ladder
from facelib.verification.protocol import Protocol
from facelib.verification.testset import open_test
from facelib.verification.validation import Validation


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same 40 pairs held in three ways: name -> path."""
    place = tmp_path_factory.mktemp("sets")
    sets.make_lfw(place / "lfw", identities=20, images_per_identity=3, pairs_per_fold=2, folds=10)
    test = open_test(place / "lfw")
    write_pair_records(test.crops, place / "lfw" / "pairs.txt", place / "records")
    encoded = []
    for i in np.stack([test.crops.first, test.crops.second], 1).reshape(-1):
        Image.fromarray(test.crops[i][0].permute(1, 2, 0).numpy()).save(png := io.BytesIO(), "PNG")
        encoded.append(png.getvalue())
    (place / "lfw.bin").write_bytes(pickle.dumps((encoded, test.pairs.genuine.tolist())))
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025").state_dict(), place / "model.pth")
    (place / "model.pth.json").write_text('{"backbone": "iresnet18_025"}')
    return {"folder": place / "lfw", "file": place / "lfw.bin", "records": place / "records"}


KINDS = ("folder", "file", "records")


@pytest.mark.parametrize("kind", KINDS)
def test_the_pairs_and_their_faces_are_the_same_however_they_are_held(sources, kind):
    truth, found = open_test(sources["folder"]), open_test(sources[kind])
    assert len(found) == 40 and found.pairs.genuine.tolist() == truth.pairs.genuine.tolist()
    assert found.pairs.fold.tolist() == truth.pairs.fold.tolist()
    for side in ("first", "second"):
        crops, others = (torch.stack([t.crops[i][0] for i in getattr(t.crops, side)]) for t in (found, truth))
        assert (crops.float() - others.float()).abs().mean() < 2  # records are JPEG


@pytest.mark.parametrize("kind", KINDS)
def test_studies_and_validation_take_any_of_them(sources, tmp_path, kind):
    model, test = str(sources["folder"].parent / "model.pth"), str(sources[kind])
    lights = low_light.study(model, test, str(tmp_path / "light"), most_stops=0, repairs=False)
    rungs = ladder.climb(model, test, str(tmp_path / "ladder"))
    assert lights["pairs"] == 40 and np.isfinite(lights["conditions"]["normal"]["auc"])
    cuts = {protocol.crop for name, protocol in ladder.rungs().items() if name in rungs}
    assert cuts == ({"aligned", "random", "centre", "resized"} & cuts if kind == "folder" else {"aligned"})
    assert len(rungs) == len(ladder.rungs()) or kind != "folder"
    assert 0 <= Validation(test, "", "cpu").measure(create_model("iresnet18_025"), "toy")["auc"] <= 1


@pytest.mark.parametrize("kind", ["file", "records"])
def test_stored_crops_refuse_a_protocol_that_wants_others(sources, kind):
    with pytest.raises(ValueError, match="crop must be aligned for .*, whose images are stored as crops"):
        open_test(sources[kind], Protocol(crop="random"))
    with pytest.raises(ValueError, match="pairs must stay pairs.txt for"):
        open_test(sources[kind], Protocol(pairs="pairsDevTrain.txt"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_folds_are_kept(sources, kind):
    assert len(open_test(sources[kind], Protocol(folds=3))) == 12


def test_pairs_of_one_kind_are_refused_by_the_source(tmp_path, sources):
    with sources["file"].open("rb") as file:
        images, genuine = pickle.load(file)
    (tmp_path / "one.bin").write_bytes(pickle.dumps((images, [True] * len(genuine))))
    with pytest.raises(ValueError, match="one.bin: all 40 pairs are genuine, both kinds are needed"):
        open_test(tmp_path / "one.bin")
