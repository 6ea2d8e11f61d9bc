"""The training data and the recipe, in words, from the runs themselves."""

from collections.abc import Callable
from pathlib import Path

from report.plan import PACK
from report.words import join, tex

PRECISIONS = {"bf16": "bf16 autocast", "fp16": "fp16 autocast", "float32": "float32"}


def values(results: dict) -> dict[str, str]:
    """The training data and the recipe, from the runs themselves."""
    if not results["train"]:
        return {}
    runs = sorted(results["train"].values(), key=lambda run: run["metrics"]["ratio"])
    keys = ("epochs", "batch_size", "learning_rate", "clip", "scale", "margin", "embedding_size")
    found = {f"train.{key}": told(runs, lambda run, key=key: f"{run['parameters'][key]:g}") for key in keys}
    found["train.optimizer"] = told(runs, optimizer_words)
    found["train.schedule"] = told(runs, schedule_words)
    found["train.warmup"] = told(runs, warmup_words)
    found["train.precision"] = told(runs, lambda run: PRECISIONS[run["metrics"]["precision"]])
    found["claim.options"] = claim_options(runs)
    found["claim.continued"] = claim_continued(runs)
    found["train.seeds"] = told(runs, lambda run: f"{run['parameters']['seed']}")

    by_ratio = {f"{run['metrics']['ratio']:g}": run["metrics"] for run in runs}
    sizes = [f"{m['images']:,} images of {m['identities']:,} identities at $r = {r}$" for r, m in by_ratio.items()]
    dropped = [f"{m['dropped_identities']:,} at $r = {r}$" for r, m in by_ratio.items() if m["dropped_identities"]]
    found["train.sizes"] = join(sizes)
    found["claim.dropped"] = (
        f"Identities that the share leaves without an image are dropped: {join(dropped)}."
        if dropped
        else "No identity loses all its images."
    )

    faces, synthetic = Path(runs[0]["parameters"]["data"]).name.removesuffix(PACK), results["plan"]["synthetic"]
    known = {"casia-webface": "those of CASIA-WebFace~\\cite{casia}"}
    source = "synthetic, drawn by facelib" if synthetic else known.get(faces, f"those of the folder {tex(faces)}")
    found["claim.training_data"] = f"The training faces are {source}."
    not_found = [run["metrics"]["faces_not_found"] for run in runs]
    summary = results["data"]
    stored = summary is not None and summary["metrics"]["train"]["faces_found"] is None
    found["claim.landmarks"] = "before they were stored" if stored else "which came with the images"
    if None not in not_found:
        images = f"all but {max(not_found)} images" if max(not_found) else "every image"
        found["claim.landmarks"] = f"which MTCNN~\\cite{{mtcnn}} finds in {images}"
    return found


def told(runs: list[dict], words: Callable[[dict], str]) -> str:
    """What the words say of the training runs: once if it is the same of all, else of which runs each."""
    said: dict[str, list[str]] = {}
    for run in runs:
        said.setdefault(words(run), []).append(run_words(run))
    return next(iter(said)) if len(said) == 1 else join([f"{word} ({', '.join(of)})" for word, of in said.items()])


def run_words(run: dict) -> str:
    return f"{tex(run['parameters']['backbone'])} at $r = {run['parameters']['ratio']:g}$"


def optimizer_words(run: dict) -> str:
    recipe = run["parameters"]
    if recipe["optimizer"] == "sgd":
        return f"SGD (momentum {recipe['momentum']:g}, weight decay {recipe['weight_decay']:g})"
    return f"AdamW (weight decay {recipe['weight_decay']:g})"


def warmup_words(run: dict) -> str:
    share = run["parameters"]["warmup"]
    return f"after a warm-up over the first {100 * share:g}\\,\\% of the steps" if share else "without warm-up"


def schedule_words(run: dict) -> str:
    recipe = run["parameters"]
    over = {"run": "over the steps that are run", "full": "over the steps of a run at $r = 1$"}[recipe["decay_over"]]
    if recipe["schedule"] == "cosine":
        return f"falls by half a cosine {over}"
    return f"decays polynomially with power {recipe['power']:g} {over}"


def claim_options(runs: list[dict]) -> str:
    """What the recipe has beyond the plain one."""
    words = {
        "sample_rate": lambda share: f"a step's loss sees {100 * share:g}\\,\\% of the identities~\\cite{{partialfc}}",
        "ema": lambda decay: f"evaluated is a moving average of the weights (decay {decay:g})",
    }
    plain = {"sample_rate": 1, "ema": 0}
    found: dict[str, list[str]] = {}
    for run in runs:
        for name, say in words.items():
            if run["parameters"][name] != plain[name]:
                found.setdefault(say(run["parameters"][name]), []).append(run_words(run))
    said = [words if len(of) == len(runs) else f"{words} ({', '.join(of)})" for words, of in found.items()]
    return f"Besides, {join(said)}." if said else ""


def claim_continued(runs: list[dict]) -> str:
    """Which runs were stopped, and after which steps they went on."""
    said = [
        f"{run_words(run)} after step {join([f'{step:,}' for step in run['metrics']['continued_after_steps']])} of"
        f" {run['metrics']['steps']:,}"
        for run in runs
        if run["metrics"]["continued_after_steps"]
    ]
    return f"Stopped and continued from a checkpoint: {join(said)}." if said else ""
