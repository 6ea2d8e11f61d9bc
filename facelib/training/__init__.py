"""A run of training: its parameters, its one loop, what it leaves, and how it goes on after a kill.

It knows data, models and losses, but nothing of pairs: what measures a backbone after an epoch is handed in.
`python -m facelib.training run.yaml` makes a run; trainer.py is the file to read.
"""

import importlib

PLACES = {"Config": "config", "train": "trainer"}
__all__ = [*PLACES]


def __getattr__(name: str):
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
