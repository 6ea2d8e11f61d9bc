"""How the learning rate changes over a run's steps.

By the linear scaling rule (Goyal et al. 2017) k times the batch wants k times the rate. facelib's batch_size is that of
a step, however many processes and parts it is computed in, so that more of these want no other rate.
"""

import math

NAMES = ("polynomial", "cosine", "step")


def learning_rate(
    step: int, steps: int, highest: float, schedule: str = "polynomial", power: float = 2.0, drops: str = "",
    warmup: float = 0.0,
) -> float:  # fmt: skip
    """The rate of step 0 <= step < steps.

    It rises linearly over the share `warmup` of the steps and falls over the share t of the others that is done:
    polynomial as (1 - t) ** power; cosine as (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017); step to a tenth at each
    of the shares in `drops`, numbers in text.
    """
    rising = int(warmup * steps)
    if step < rising:
        return highest * (step + 1) / (rising + 1)
    done = (step - rising) / (steps - rising)
    if schedule == "cosine":
        return highest * (1 + math.cos(math.pi * done)) / 2
    if schedule == "step":
        return highest * 0.1 ** sum(done >= drop for drop in parse_drops(drops))
    return highest * (1 - done) ** power


def parse_drops(drops: str) -> list[float]:
    """`0.5 0.75` -> [0.5, 0.75]. Raises ValueError if they are no shares of the run."""
    try:
        found = [float(word) for word in drops.replace(",", " ").split()]
    except ValueError:
        found = [math.nan]
    if not all(0 < drop < 1 for drop in found):
        raise ValueError(f"drops must be shares of the run as in '0.5 0.75 0.9', found {drops!r}")
    return found
