"""In how many parts a training step must be computed to fit into memory, by trial (gradient accumulation)."""

import dataclasses
import json
import subprocess
import sys

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facelib import ROOT, freed_memory
from facelib.embedder import SIZE, create_model
from facelib.run_state import Run, create_head
from facelib.training_config import Config

# Bytes of address space that a run on a CPU has and a trial has not: threads, logs, gaps in its heap.
BESIDES = 3 * 2**27


class Blank(Dataset):
    """As many black images of so many identities."""

    def __init__(self, images: int, identities: int):
        self.images, self.identities, self.available = images, range(identities), images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), index % len(self.identities)


def parts_that_fit(run: Run, images: int) -> int:
    """The least accumulation, by doubling, with which the run's step of so many images fits; 0 if none does."""
    parts, most = run.config.accumulate, images // 2
    while parts < most:
        parts = min(2 * parts, most)
        if fits(run, images, parts):
            return parts
    return 0


def fits(run: Run, images: int, parts: int) -> bool:
    """Two steps are made, of two such parts each, in a new process: in the run's own one lies what the step that failed
    has left.
    """
    config = dataclasses.replace(run.config, accumulate=2, batch_size=2 * -(-images // parts), workers=0)
    of = [dataclasses.asdict(config), images, len(run.dataset.identities), run.device, run.precision, run.memory_format]
    command = [sys.executable, "-m", "facelib.accumulation_trial", json.dumps(of)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 0


def make_steps(config: Config, images: int, identities: int, device: str, precision: str, layout: str) -> None:
    """Raises RuntimeError or MemoryError where they do not fit."""
    if device == "cpu":
        freed_memory.keep()  # as in the run
    _besides = torch.empty(BESIDES if device == "cpu" else 0, dtype=torch.uint8)
    faces = Blank(config.batch_size, identities)
    backbone, head = create_model(config.backbone, config.embedding_size), create_head(config, identities)
    run = Run(config, faces, "", backbone, head, device, precision, layout)
    _whole_batch = torch.zeros(images, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
    for _ in range(2):  # from the second one on there is what the optimizer keeps
        for batch in run.loader:
            run.train_step(*batch)


if __name__ == "__main__":
    import facelib.train  # noqa: F401  what a run has imported takes memory too

    config, *others = json.loads(sys.argv[1])
    make_steps(Config(**config), *others)
