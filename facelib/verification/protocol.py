"""How a verification is done, declared: crop, light, order, pairs, flip-test and threshold."""

from dataclasses import dataclass

from facelib.data.pairs import CROPS

LIGHTS = ("normal", "low")
ORDERS = ("last", "first")
THRESHOLDS = ("folds", "same pairs")


@dataclass(frozen=True)
class Protocol:
    """The defaults are LFW's own protocol on aligned faces (Huang et al. 2007).

    >>> facelib.Protocol(light="dark").check()
    Traceback (most recent call last):
    ValueError: light must be one of normal, low, found 'dark'
    """

    crop: str = "aligned"  # or centre, random, resized: see facelib.data.PairImages; of a .bin: as stored
    light: str = "normal"  # or low: x -> 2 sqrt(x) on the 8-bit image
    normalise: str = "last"  # or first, before the light is changed: facelib.verification.published
    pairs: str = "pairs.txt"  # file in the LFW folder; a .bin has its own
    folds: int = 0  # the first so many folds of it; 0: all
    flip: bool = False  # add the mirrored image's embedding
    threshold: str = "folds"  # each fold's is best on the others; or same pairs: best of 50 on the pairs judged by it
    far: float = 0.01  # at which TAR is measured

    def check(self) -> None:
        """Raise ValueError, naming the parameter, if one is not among its choices."""
        choices = {"crop": CROPS, "light": LIGHTS, "normalise": ORDERS, "threshold": THRESHOLDS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}")
