"""The training ladder: the published recipe, and what is mended in it, one thing after the other.

Uses nothing but the standard library, as report.plan, which plans its runs.
"""

# The published report's code: CASIA-WebFace as it is, the centre cropped; SGD whose configured momentum never reaches
# the optimiser; a decay as long as if all images were seen, whatever the share. Scale, margin and weight decay, of
# which nothing is known, are ArcFace's.
PUBLISHED = {
    "loss": "arcface",
    "scale": 64.0,
    "margin": 0.5,
    "aligned": False,
    "optimizer": "sgd",
    "momentum": 0.0,
    "weight_decay": 5e-4,
    "clip": 5.0,
    "power": 2.0,
    "decay_over": "full",
    "warmup": 0.0,
    "precision": "float32",
}
PUBLISHED_OF = {  # role of the backbone
    "heavy": {"learning_rate": 0.01, "batch_size": 64},
    "light": {"learning_rate": 0.1, "batch_size": 32},
}
# Each rung keeps the mends of those before it.
RUNGS = {
    "published": {},
    "momentum": {"momentum": 0.9},
    "schedule": {"decay_over": "run"},
    "alignment": {"aligned": True},
}


def recipe(role: str, rung: str) -> dict:
    """Parameters of facelib.training.Config on this rung. `role` is heavy or light."""
    found = PUBLISHED | PUBLISHED_OF[role]
    for name, mend in RUNGS.items():
        found |= mend
        if name == rung:
            return found
    raise ValueError(f"the training ladder has no rung {rung!r}. It has: {', '.join(RUNGS)}")
