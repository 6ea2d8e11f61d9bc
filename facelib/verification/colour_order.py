"""Does a model take RGB or BGR? A model fed in the wrong order still embeds, only worse, and nothing else tells.

The images of a few genuine pairs are embedded in the declared order and in the other one. In which order the model
tells people apart better is judged by the gap: how many standard deviations of the impostor scores lie between their
mean and the mean of the genuine ones. All pairs of these images count, some ten thousand impostors, since a pair costs
nothing once its images are embedded. The difference of the two gaps has a standard error by leaving out one person at
a time (the jackknife, Efron and Stein 1981): pairs that share a person are not independent.

Of the released MobileFaceNet "y1", which takes RGB, four times 150 pairs of LFW have a gap of 6.9 to 7.1 in RGB and 6.5
to 6.6 in BGR: 4.7 to 8.3 standard errors apart. The area under their ROC curves is 0.9988 in both, which tells nothing.
18 untrained networks, which have no order, came to 2.8 standard errors at most, and to a gap of 0.8. The 250 images of
150 pairs cost 500 embeddings, 3 % of a verification on View 2 with flip-test.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Subset
from tqdm import tqdm

from facelib.data.loader import Loader
from facelib.data.pairs import PairImages
from facelib.models.embedder import Embedder

PAIRS = 150  # genuine ones at most, of 300 images, each of which is embedded twice
PEOPLE = 20  # at least: of fewer the standard error is a guess
CLEAR = 3  # standard errors by which an order must be better
LEAST_GAP = 1  # in the better order: a model that hardly tells people apart tells nothing of colours either
UNKNOWN = "can't be told"


def check(embedder: Embedder, dataset: PairImages, genuine: np.ndarray) -> dict:
    """The order in which the model tells people apart, on the first PAIRS of the genuine pairs (P,) of the dataset.

    Returns `declared`, RGB or BGR, and `better`, RGB, BGR or UNKNOWN; where there are PEOPLE enough also the gaps in
    the declared order and in the other (`gap`, `swapped_gap`), the `standard_error` of their difference, and how many
    `images` and `people` there were. The same every time, and without effect on anything else.
    """
    declared = embedder.takes.colours
    pairs = np.flatnonzero(genuine)[:PAIRS]
    chosen = np.unique([dataset.first[pairs], dataset.second[pairs]])
    people, person = np.unique([dataset.images[i].split("/")[0] for i in chosen], return_inverse=True)
    found = {"declared": declared, "better": UNKNOWN}
    if len(people) < PEOPLE:
        return found
    parts = []
    batches = Loader(Subset(dataset, chosen.tolist()), 64)
    for images, _ in tqdm(batches, desc=f"colour order of {embedder.name}", mininterval=5):
        parts.append((embedder.embed(images), embedder.embed(images.flip(1))))
    own, swapped = (gaps(F.normalize(torch.cat(embeddings)).double().numpy(), person) for embeddings in zip(*parts))
    difference = swapped - own
    left_out = difference[1:]
    error = np.sqrt((len(people) - 1) / len(people) * ((left_out - left_out.mean()) ** 2).sum())
    if not np.isfinite(error):  # all impostor pairs score alike
        return found
    if abs(difference[0]) > CLEAR * error and max(own[0], swapped[0]) > LEAST_GAP:
        found["better"] = declared if difference[0] < 0 else other(declared)
    measured = {"gap": float(own[0]), "swapped_gap": float(swapped[0]), "standard_error": float(error)}
    return found | measured | {"images": len(chosen), "people": len(people)}


def gaps(embeddings: np.ndarray, person: np.ndarray) -> np.ndarray:
    """The gap of embeddings (N, D) of unit length and, person by person, without that one's images: (1 + people,).

    `person` (N,) counts from 0.
    """
    cosine = embeddings @ embeddings.T
    same = person[:, None] == person
    np.fill_diagonal(cosine, 0)
    genuine = same & ~np.eye(len(person), dtype=bool)

    def sums(values: np.ndarray, twice: bool) -> np.ndarray:
        """Over all pairs, and over those without each person. A genuine pair has two rows of its person, else one."""
        of_person = np.bincount(person, values.sum(1)) / (2 if twice else 1)
        total = of_person.sum() / (1 if twice else 2)
        return np.concatenate([[total], total - of_person])

    genuine_mean = sums(genuine * cosine, True) / sums(genuine, True)
    count = sums(~same, False)
    mean, square = (sums(~same * cosine**power, False) / count for power in (1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (genuine_mean - mean) / np.sqrt(square - mean**2)


def other(colours: str) -> str:
    return {"RGB": "BGR", "BGR": "RGB"}[colours]


def warn(embedder: Embedder, found: dict) -> None:
    """Print a sentence that says what to declare where, if the other order is clearly the better one."""
    if found["better"] == other(found["declared"]):
        print(
            f"{embedder.name} looks as if it takes {found['better']}, not {found['declared']}: genuine pairs lie"
            f" {found['swapped_gap']:.2f} standard deviations above impostor pairs in that order, {found['gap']:.2f} in"
            f' the other. Declare {{"colours": "{found["better"]}"}} in {embedder.declaration}.'
        )
