"""What facelib.studies.detectors found, as a table and in words."""

from pathlib import Path

from report.facts.studies import in_a_sentence, sure
from report.words import interval_words, join, percent, tex

NAMES = {"mtcnn": "MTCNN", "viola-jones": "Viola-Jones", "none": "none"}
BY = {"mtcnn": "by MTCNN's landmarks", "viola-jones": "by Viola-Jones' box", "none": "not at all"}


def study(results: dict) -> tuple[str, dict] | None:
    """The model and its study; the plan has one."""
    return next(iter(results["detectors"].items()), None)


def values(results: dict) -> dict[str, str]:
    """Claims on detectors: key -> LaTeX; nothing before the study has run."""
    found = study(results)
    if found is None:
        return {}
    model, run = found
    metrics = run["metrics"]
    pairs = next(iter(metrics.values()))["pairs"]
    name = in_a_sentence(model, tex(Path(run["parameters"]["model"]).name))
    return {"detectors.pairs": f"{pairs:,}", "detectors.model": name, "claim.detectors": claim(metrics)}


def claim(metrics: dict[str, dict]) -> str:
    """How many faces each detector finds, and what the model reaches with its alignment, the best one first."""
    found = [
        f"{NAMES[name]} finds a face in {of['found']:,} of {of['images']:,} images"
        for name, of in metrics.items()
        if name != "none"
    ]
    ordered = sorted(metrics, key=lambda name: -metrics[name]["accuracy"])
    reached = [f"{BY[name]} {percent(metrics[name]['accuracy'])}" for name in ordered]
    return f"{join(found)}. Aligned {join(reached)} of the pairs are judged rightly."


def detector_table(results: dict) -> str:
    """A row a detector: faces found, images/s, accuracy and AUC with their intervals."""
    if study(results) is None:
        return ""
    model, run = study(results)
    rows = []
    for name, of in run["metrics"].items():
        intervals = sure(results, "detectors", model, name)
        cells = [NAMES[name], "--" if name == "none" else f"{of['found']:,}"]
        cells += ["--" if name == "none" else f"{of['images_per_second']:.1f}"]
        cells += [f"{100 * of['accuracy']:.2f}", interval_words(intervals.get("accuracy"), 100, 1)]
        cells += [f"{of['auc']:.3f}", interval_words(intervals.get("auc"), 1, 3)]
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"
