"""Crops, weights as a trained network has them, and a run's folder."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from insightface_iresnet import BLOCKS, insightface_layout, iresnet_forward, random_state

from facelib.models import create_model


@pytest.fixture(scope="session")
def crops() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 112, 112), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor]:
    return random_state(insightface_layout(BLOCKS["iresnet18"], embedding_size=8))


@pytest.fixture(scope="session")
def expected(state, crops) -> torch.Tensor:
    """The embeddings of the crops by `state`: RGB in [-1, 1]."""
    with torch.no_grad():
        return iresnet_forward(state, (crops.float() - 127.5) / 127.5)


@pytest.fixture(scope="session")
def small_state() -> dict[str, torch.Tensor]:
    return create_model("iresnet18_025", 4).state_dict()


@pytest.fixture
def run(tmp_path, small_state) -> Path:
    folder = tmp_path / "2024-05-01-arcface"
    folder.mkdir()
    (folder / "parameters.json").write_text(json.dumps({"backbone": "iresnet18_025", "embedding_size": 4, "epochs": 1}))
    safetensors.torch.save_file(small_state, folder / "weights.safetensors")
    return folder
