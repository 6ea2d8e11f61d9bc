"""How the learning rate changes over a run's steps.

By the linear scaling rule (Goyal et al. 2017) k times the batch wants k times the rate. facelib's batch_size is that of
a step, however many processes and parts it is computed in, so that more of these want no other rate.
"""

import math


def learning_rate(
    step: int, steps: int, highest: float, schedule: str = "polynomial", power: float = 2.0, warmup: float = 0.0
) -> float:
    """The rate of step 0 <= step < steps.

    It rises linearly over the share `warmup` of the steps and falls over the share t of the others that is done:
    polynomial as (1 - t) ** power; cosine as (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017).
    """
    rising = int(warmup * steps)
    if step < rising:
        return highest * (step + 1) / (rising + 1)
    done = (step - rising) / (steps - rising)
    if schedule == "cosine":
        return highest * (1 + math.cos(math.pi * done)) / 2
    return highest * (1 - done) ** power
