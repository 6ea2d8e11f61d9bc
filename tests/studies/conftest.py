"""What the studies are tried on."""

import pytest
import torch

from facelib.models import create_model
from facelib.synthetic import sets


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small LFW of three folds, of 8 pairs each, and an untrained model."""
    folder = tmp_path_factory.mktemp("place")
    sets.make_lfw(folder / "lfw", identities=12, images_per_identity=2, pairs_per_fold=4, folds=3)
    torch.manual_seed(0)
    torch.save(create_model("iresnet18_025", 8).state_dict(), folder / "model.pth")
    return folder
