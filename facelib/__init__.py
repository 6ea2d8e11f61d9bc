"""facelib: train face-verification backbones with the ArcFace loss and evaluate them on LFW."""

from pathlib import Path

ROOT = Path(__file__).parent.parent  # the repository: relative paths in notebooks and profiles start here
