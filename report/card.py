"""A trained run as files for others: ONNX, safetensors, and a model card written from the run's own numbers.

    python -m report.card RUN TARGET [VERIFICATION ...]

RUN is a folder of facelib.training, TARGET the new folder with the files of facelib.models.export and README.md, the
card, with the results of each VERIFICATION, a verification's folder. `verify` takes both models as any other.
"""

import json
import sys
from pathlib import Path

import torch

from facelib.data.landmarks import fingerprint
from facelib.files import whole_folder
from facelib.models.export import FILES, export_model
from facelib.models.pretrained import load_run
from facelib.verification.protocol import Protocol
from facelib.verification.uncertainty import read_scores, uncertainty, with_identities
from report.facts.verification import ends
from report.render import render

RESAMPLES, SEED = 2000, 0
RELIABLE = 0.99  # AUC below which the card says that the model is not reliable
RECIPE = "loss scale margin sample_rate epochs batch_size accumulate optimizer learning_rate momentum weight_decay"
RECIPE += " clip schedule power decay_over warmup ema seed"
# What one loss, optimizer or schedule alone has.
ONLY_OF = {"scale": "arcface", "margin": "arcface", "sample_rate": "arcface", "momentum": "sgd", "power": "polynomial"}


def export(run: str | Path, target: str | Path, verifications: tuple[str | Path, ...] = ()) -> None:
    """Write the target. Raises FileNotFoundError or ValueError, naming the folder, if one is none of its kind."""
    run, target = Path(run), Path(target)
    model = load_run(run, "cpu").model.to(memory_format=torch.contiguous_format)
    text = card(run, [Path(folder) for folder in verifications])
    with whole_folder(target, (*FILES, "README.md")) as folder:
        export_model(model, read(run / "parameters.json")["backbone"], folder)
        (folder / "README.md").write_text(text)


def card(run: Path, verifications: list[Path]) -> str:
    """The card of a run's folder, in Markdown, with a row for each folder of a verification of it.

    Raises FileNotFoundError or ValueError, naming the folder, if one is none of its kind, or of other weights.
    """
    facts = {name: read(run / f"{name}.json") for name in ("parameters", "metrics", "environment")}
    parameters, results = facts["parameters"], [result(run, folder) for folder in verifications]
    chosen = {parameters[name] for name in ("loss", "optimizer", "schedule")}
    names = [n for n in RECIPE.split() if n in parameters and ONLY_OF.get(n) in (None, *chosen)]
    facts["recipe"] = [f"{name} {parameters[name]}" for name in names]
    facts |= {
        "data": Path(parameters["data"]).name,
        "results": results,
        "limits": limits(results),
        "resamples": RESAMPLES,
    }
    return render(facts, "model_card.md.j2")


def read(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except OSError:
        raise FileNotFoundError(f"{file.parent}: is no result of facelib's, {file.name} is missing") from None
    except ValueError:
        raise ValueError(f"{file}: is damaged, it is no JSON") from None


def result(run: Path, folder: Path) -> dict:
    """What one verification's folder tells, with intervals by people, and where its protocol is not LFW's own."""
    asked = read(folder / "parameters.json")
    if read(folder / "environment.json")["model"] != fingerprint(run / "weights.safetensors"):
        raise ValueError(f"{folder}: is a verification of {asked['model']} with other weights than those of {run}")
    sure, _ = uncertainty(with_identities(read_scores(folder)), RESAMPLES, SEED)
    row = {key: asked[key] for key in ("pairs", "flip", "light")} | {"images": Path(asked["images"]).name}
    row |= {"metrics": read(folder / "metrics.json"), "changes": changes(asked)}
    return row | {key: ends(sure.get(key)) for key in ("accuracy", "auc")}


def changes(asked: dict) -> dict:
    names = ("crop", "normalise", "threshold", "folds")
    return {name: asked[name] for name in names if asked[name] != getattr(Protocol, name)}


def limits(results: list[dict]) -> dict:
    """What the numbers forbid to hope. A changed protocol's numbers forbid nothing."""
    aucs = {light: [r["metrics"]["auc"] for r in results if r["light"] == light and not r["changes"]]
            for light in ("normal", "low")}  # fmt: skip
    normal = min(aucs["normal"], default=None)
    return {
        "normal": normal,
        "verdict": "unreliable" if normal is not None and normal < RELIABLE else "good",
        "low_change": aucs["low"][0] - aucs["normal"][0] if aucs["low"] and aucs["normal"] else None,
        "synthetic": any("synthetic" in row["images"] for row in results),
    }


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        export(sys.argv[1], sys.argv[2], tuple(sys.argv[3:]))
    except (OSError, ValueError) as error:
        sys.exit(f"\n{error}")
    print(f"{sys.argv[2]}: {', '.join((*FILES, 'README.md'))}")
