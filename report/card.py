"""What is to be known of a trained model before it is used (Mitchell et al. 2019), from its run's own numbers."""

import json
from pathlib import Path

from facelib.data.landmarks import fingerprint
from facelib.verification.protocol import Protocol
from facelib.verification.uncertainty import read_scores, uncertainty, with_identities

RESAMPLES, SEED = 2000, 0
RELIABLE = 0.99  # AUC below which the card says that the model is none to rely on
RECIPE = (
    "loss scale margin sample_rate epochs batch_size accumulate optimizer learning_rate momentum weight_decay"
    " clip schedule power decay_over warmup ema seed"
).split()
# What one loss, optimizer or schedule alone has.
ONLY_OF = {"scale": "arcface", "margin": "arcface", "sample_rate": "arcface", "momentum": "sgd"}
ONLY_OF |= {"power": "polynomial"}


def card(run: Path, verifications: list[Path]) -> str:
    """The card of a run's folder, in Markdown, with a row for each folder of a verification of it.

    Raises FileNotFoundError or ValueError, naming the folder, if one is none of its kind, or of other weights.
    """
    parameters, metrics, environment = (read(run / f"{name}.json") for name in ("parameters", "metrics", "environment"))
    results = [result(run, folder) for folder in verifications]
    data = Path(parameters["data"]).name
    chosen = {parameters[name] for name in ("loss", "optimizer", "schedule")}
    recipe = [name for name in RECIPE if ONLY_OF.get(name) in (None, *chosen)]
    face = "an aligned face" if parameters["aligned"] else "the middle of a photograph, not aligned"
    lines = [
        f"# {parameters['backbone']}, trained with {parameters['loss']} by facelib",
        "",
        f"Maps {face}, 112x112 RGB in [-1, 1], to {parameters['embedding_size']} numbers. Two faces are taken"
        " for one person if the cosine of their embeddings exceeds a threshold.",
        "",
        "## Data",
        "",
        f"{metrics['images']:,} images of {metrics['identities']:,} identities of `{data}` (fingerprint"
        f" {environment['data']}), a share of {parameters['ratio']:g} of each identity's images.",
        "",
        "## Recipe",
        "",
        ", ".join(f"{name} {parameters[name]}" for name in recipe)
        + f"; {metrics['steps']:,} steps in {metrics['precision']}, last epoch's loss {metrics['last_epoch_loss']:.2f}."
        f" facelib at commit {environment['commit']}; {environment['machine']}.",
        "",
        "## Results",
        "",
        *(table(results) if results else ["None was given to this card."]),
        "",
        "## Limits",
        "",
        *limits(results, data),
        "",
        "## Terms",
        "",
        f"The code's: MIT. The weights were learned from `{data}`: what its owners allow may be done with them.",
        "Most face data sets are for non-commercial research alone, and the people in them were not asked.",
    ]
    return "\n".join(lines) + "\n"


def read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except OSError:
        raise FileNotFoundError(f"{file.parent}: is no result of facelib's, {file.name} is missing") from None
    except ValueError:
        raise ValueError(f"{file}: is damaged, it is no JSON") from None


def result(run: Path, folder: Path) -> dict:
    """What one verification's folder tells, with intervals at 95 % by people."""
    parameters = read(folder / "parameters.json")
    if read(folder / "environment.json")["model"] != fingerprint(run / "weights.safetensors"):
        raise ValueError(f"{folder}: is a verification of {parameters['model']} with other weights than those of {run}")
    pairs = with_identities(read_scores(folder))
    sure, _ = uncertainty(pairs, RESAMPLES, SEED)
    return {"parameters": parameters, "metrics": read(folder / "metrics.json"), "sure": sure}


def table(results: list[dict]) -> list[str]:
    rows = ["| test | light | pairs | accuracy (%) | AUC |", "|---|---|---|---|---|"]
    for found in results:
        asked, metrics, sure = found["parameters"], found["metrics"], found["sure"]
        accuracy = f"{100 * metrics['accuracy']:.2f} {interval(sure.get('accuracy'), 100, 1)}"
        auc = f"{metrics['auc']:.3f} {interval(sure.get('auc'), 1, 3)}"
        test = ", ".join([Path(asked["images"]).name, asked["pairs"], *["flip-test"] * asked["flip"], *changes(asked)])
        rows.append(f"| {test} | {asked['light']} | {metrics['pairs']:,} | {accuracy} | {auc} |")
    return [*rows, "", f"In brackets: intervals at 95 %, bootstrap over people, {RESAMPLES:,} resamples."]


def changes(asked: dict) -> list[str]:
    """Where a verification's protocol is another one than LFW's own on aligned faces."""
    words = {"crop": "{} crop", "normalise": "normalised {}", "threshold": "threshold of the {}", "folds": "{} folds"}
    return [said.format(asked[name]) for name, said in words.items() if asked[name] != getattr(Protocol, name)]


def interval(found: dict | None, scale: float, digits: int) -> str:
    return f"[{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]" if found else ""


def limits(results: list[dict], data: str) -> list[str]:
    """What the numbers forbid to hope, and what no number here tells. A changed protocol's numbers forbid nothing."""
    said = []
    unchanged = [found for found in results if not changes(found["parameters"])]
    normal = [found for found in unchanged if found["parameters"]["light"] == "normal"]
    low = [found for found in unchanged if found["parameters"]["light"] == "low"]
    if not normal:
        said.append("- It was not tested in normal light by LFW's protocol: nothing is known of how well it verifies.")
    elif (auc := min(found["metrics"]["auc"] for found in normal)) < RELIABLE:
        said.append(f"- It is no verifier to rely on: its AUC is {auc:.3f} in normal light.")
    if normal and low:
        lost = normal[0]["metrics"]["auc"] - low[0]["metrics"]["auc"]
        said.append(f"- In simulated low light its AUC changes by {-lost:+.3f}.")
    if any("synthetic" in found["parameters"]["images"] for found in results):
        said.append("- The test's faces are synthetic: of real ones nothing is known.")
    said.append(
        f"- It knows faces like those of `{data}`; of other ages, origins, poses and cameras nothing was measured."
    )
    said.append("- A threshold chosen on one kind of images does not hold on another: choose it on your own.")
    said.append("- Not for identifying people who did not agree to it.")
    return said
