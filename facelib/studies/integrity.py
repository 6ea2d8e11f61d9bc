"""Whether the test is one: folds that share nobody, training faces that are not the test's, no photograph twice.

One check leaves one folder:

    metrics.json       what was found, as counts
    suspects.csv       the training identities that the model takes for an LFW identity
    duplicates.csv     pairs of files that hold one photograph
    similarity.npz     each training identity, the LFW identity nearest to it and their cosine; chance, the cosine of
                       each LFW identity to the nearest other one
    parameters.json    model, training folder, LFW
    environment.json   commit, package versions, machine, fingerprints of data and model

Two identities are as similar as the cosine of their mean embeddings. At the threshold of View 2's single pairs nearly
every training identity is a suspect by chance: it is compared with thousands of strangers, and a mean is nearer to
others than a single embedding. What chance does is measured in LFW itself: how near each of its identities comes to
another one. Suspects beyond CHANCE of those are more than likenesses, unless LFW has many people under two names, which
raise the bar. A single training image of an LFW identity, under a wrong label, hardly moves a mean and is not found.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from facelib import data, records
from facelib.data.landmarks import fingerprint
from facelib.data.pairs import Pairs, identity_of, read_pairs, without
from facelib.devices import choose_device
from facelib.models.pretrained import load_embedder
from facelib.studies.duplicates import count_duplicates, find_duplicates, read_prints
from facelib.verification.measures import best_threshold, measures
from facelib.verification.scores import embed_images, pair_scores
from facelib.verification.testset import open_test
from facelib.verification.verify import model_fingerprint

TABLES = ("suspects.csv", "duplicates.csv", "similarity.npz")
VIEW_1 = ("pairsDevTrain.txt", "pairsDevTest.txt")
NAMED = 20  # at most, of the identities that are where they should not be
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
CHANCE = 0.99  # the share of LFW's identities that are less near to every other one


def check(model: str, train: str, lfw: str, output: str, cache: str = "build/landmarks", device: str = "auto") -> dict:
    """Check training faces and an LFW folder, the faces with the model's eyes, and write the folder `output`.

    `train` is a data set of any format of facelib.data. Where it holds aligned crops by its format, duplicates are
    looked for among crops.

    Returns what metrics.json holds. Raises ValueError or FileNotFoundError, naming what is wrong, before the first
    image is embedded.
    """
    device = choose_device(device)
    embedder = load_embedder(model, device)
    test = open_test(lfw, cache=cache, device=device)
    images, view2 = test.images, test.pairs
    view1 = [read_pairs(Path(lfw) / file) for file in VIEW_1 if (Path(lfw) / file).exists()]
    stored = data.open_images(train)  # before minutes of detection: a data set at all
    asked = {"model": str(model), "train": str(train), "lfw": str(lfw), "images": images.name}
    with records.save_result(output, asked, device, TABLES) as result:
        result.environment |= {"train": data.fingerprint_of(train), "data": fingerprint(images)}
        result.environment |= {"model": model_fingerprint(embedder)}
        faces = data.open_crops(train, cache, device)
        tested = test.crops
        whole = data.open_crops(images, cache, device) if data.is_aligned(train) else data.open_images(images)
        prints = {"train": read_prints(stored), "lfw": read_prints(whole)}

        embeddings = embed_images(embedder, tested)
        scores = pair_scores(embeddings, tested.first, tested.second)
        auc = measures(scores, view2.genuine, view2.fold)["auc"]  # an error where scores aren't numbers
        threshold = best_threshold(scores, view2.genuine)
        lfw_names, labels = np.unique([identity_of(image) for image in tested.images], return_inverse=True)
        lfw_means = identity_means(embeddings, torch.from_numpy(labels))
        cosine, nearest = nearest_identities(identity_means(embed_images(embedder, faces), faces.labels), lfw_means)
        chance = nearest_others(lfw_means)
        limit = float(np.quantile(chance, CHANCE))
        likeness = pd.DataFrame({"train": [*faces.identities], "lfw": lfw_names[nearest], "cosine": cosine})
        likeness = likeness.sort_values("cosine", ascending=False, kind="stable")
        suspects = likeness[likeness.cosine >= threshold]
        suspects.to_csv(result.folder / "suspects.csv", index=False, float_format="%.6f")
        arrays = {"train": np.array([*faces.identities]), "lfw": lfw_names[nearest], "cosine": cosine, "chance": chance}
        np.savez_compressed(result.folder / "similarity.npz", **arrays)

        doubles = find_duplicates(prints)
        doubles.to_csv(result.folder / "duplicates.csv", index=False)
        result.metrics = {
            "train": {"images": len(faces), "identities": len(faces.identities)},
            "lfw": {"images": len(tested), "identities": len(lfw_names), "folder_images": len(prints["lfw"])},
            "folds": {"folds": len(np.unique(view2.fold))} | counted(in_several_folds(view2)),
            "view1": counted(in_both(*view1)) if len(view1) == 2 else None,
            "names": counted(shared_names(faces.identities, {identity_of(image) for image in prints["lfw"].images})),
            "overlap": {
                "auc": auc,
                "pairs": len(view2),
                "threshold": threshold,
                **counted_suspects(suspects, view2),
                "highest": float(cosine.max()),
                "quantiles": quantiles(cosine),
                "beyond_chance": {
                    "threshold": limit,
                    **counted_suspects(likeness[likeness.cosine >= limit], view2),
                    "quantiles": quantiles(chance),
                },
            },
            "duplicates": count_duplicates(doubles, prints),
        }
    return result.metrics


def in_several_folds(pairs: Pairs) -> list[str]:
    """The identities with pairs in more than one fold, sorted."""
    seen = pd.DataFrame({"identity": [identity_of(image) for image in [*pairs.first, *pairs.second]]})
    folds = seen.assign(fold=np.tile(pairs.fold, 2)).groupby("identity").fold.nunique()
    return folds.index[folds > 1].tolist()


def in_both(first: Pairs, second: Pairs) -> list[str]:
    """The identities with pairs in both lists, sorted."""
    one, other = ({identity_of(image) for image in [*pairs.first, *pairs.second]} for pairs in (first, second))
    return sorted(one & other)


def normalise_name(name: str) -> str:
    """A name without case, accents, spaces and punctuation: `Zoë_O'Hara` and `zoe o hara` are one."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return re.sub(r"[\W_]", "", plain.casefold())


def shared_names(first: Iterable[str], second: Iterable[str]) -> list[str]:
    """Those of the first names that are, normalised, among the second, sorted."""
    there = {normalise_name(name) for name in second}
    return sorted(name for name in first if normalise_name(name) in there)


def counted(identities: list[str]) -> dict:
    """How many they are, and the first NAMED of them."""
    return {"identities": len(identities), "named": identities[:NAMED]}


def identity_means(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean of each label's unit embeddings (N, D), labels (N,) from 0, normalised again: (K, D)."""
    sums = torch.zeros(int(labels.max()) + 1, embeddings.shape[1]).index_add_(0, labels, embeddings)
    return F.normalize(sums)


def nearest_identities(first: Tensor, second: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Of each of the unit vectors (N, D) the highest cosine to one of (M, D), and which: (N,) float64 and (N,) int."""
    found = [(rows @ second.T.double()).max(1) for rows in first.double().split(1024)]  # all of CASIA's take 360 MB
    return torch.cat([f.values for f in found]).numpy(), torch.cat([f.indices for f in found]).numpy()


def nearest_others(means: Tensor) -> np.ndarray:
    """Of each of the unit vectors (N, D), two at least, the highest cosine to another of them: (N,) float64."""
    means = means.double()
    # The highest is the vector's own.
    return torch.cat([(rows @ means.T).topk(2).values[:, 1] for rows in means.split(1024)]).numpy()


def quantiles(values: np.ndarray) -> dict[str, float]:
    """QUANTILES of the values (N,), by their share."""
    return {f"{share:g}": float(np.quantile(values, share)) for share in QUANTILES}


def counted_suspects(suspects: pd.DataFrame, pairs: Pairs) -> dict:
    """How many suspects there are, the LFW identities that they resemble, how many pairs show none of these."""
    identities = sorted({*suspects.lfw})
    left = int(without(pairs.first, pairs.second, identities).sum())
    return {"suspects": len(suspects), "suspect_lfw": identities, "pairs_without": left}
