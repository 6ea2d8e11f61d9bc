"""A test set as RecordIO: the same crops, but for JPEG, and the same pairs as from its folder."""

import torch

from facelib.data import InMemory, PairRecords, RecordIO
from facelib.data.pair_records import write_crops, write_pair_records
from facelib.models.backbones import create_model
from facelib.models.embedder import TorchEmbedder
from facelib.synthetic import sets
from facelib.verification import scores as verification
from facelib.verification.protocol import Protocol
from facelib.verification.testset import open_test

PIXELS = torch.arange(2 * 3 * 112 * 112).reshape(2, 3, 112, 112).div(300, rounding_mode="floor").to(torch.uint8)


def test_it_scores_as_the_folder_that_it_is_from(tmp_path):
    lfw = tmp_path / "lfw"
    sets.make_lfw(lfw, identities=6, images_per_identity=3, pairs_per_fold=3, folds=2)
    test = open_test(lfw)
    crops, pairs = test.crops, test.pairs
    write_pair_records(crops, lfw / "pairs.txt", tmp_path / "records")
    found = PairRecords(tmp_path / "records")
    assert found.images == crops.images and found.pairs.first == pairs.first and found.pairs.second == pairs.second
    assert found.first.tolist() == crops.first.tolist() and found.second.tolist() == crops.second.tolist()
    assert (found.pixels[0].float() - crops[0][0].float()).abs().mean() < 2
    torch.manual_seed(0)
    embedder = TorchEmbedder("toy", create_model("iresnet18_025"))
    scores = [verification.score_pairs(embedder, side, Protocol(flip=True)) for side in (found, crops)]
    assert abs(scores[0] - scores[1]).max() < 0.01


def test_crops_come_back_from_a_file_and_from_memory(tmp_path):
    write_crops([(image, label) for image, label in zip(PIXELS, (7, 3))], tmp_path / "faces")
    records = RecordIO(tmp_path / "faces")
    held = InMemory(records)
    assert records.identities == ["3", "7"] and held.labels.tolist() == [1, 0] and len(held) == 2
    images, labels = held.__getitems__([1, 0])
    assert torch.equal(images, torch.stack([records[1][0], records[0][0]])) and labels.tolist() == [0, 1]
    assert torch.equal(held[1][0], records[1][0]) and (held.pixels.float() - PIXELS.float()).abs().mean() < 2
