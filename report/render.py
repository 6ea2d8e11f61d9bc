"""The report's numbers, tables and claims, as LaTeX, from the results on disk.

A number enters the text as `\\val{key}`, a sentence that depends on the results as `\\val{claim...}`: the functions
of the modules report_... choose its words by the numbers. A key that was not written is an error in LaTeX, never a gap.
"""

from pathlib import Path

import torch

from facelib.faces import light as low_light
from facelib.faces.align import SIZE
from facelib.models import iresnet
from facelib.records import DIGITS
from facelib.verification import protocol
from report.facts import alignment as report_alignment
from report.facts import answer as report_answer
from report.facts import bench as report_bench
from report.facts import cost as report_cost
from report.facts import data as report_data
from report.facts import integrity as report_integrity
from report.facts import studies as report_studies
from report.facts import training as report_training
from report.facts import verification as report_verification
from report.words import join, tex

FIGURES = ("block", "architectures", "precision_recall", "roc", "released_precision_recall", "released_roc")
FIGURES += ("auc_against_ratio", "loss", "ladder", "published_precision_recall", "published_roc")
FIGURES += ("det", "scores", "similarity", "cost_against_accuracy")
FIGURES += ("data", "contact_sheet")
FIGURES += ("low_light_example", "low_light_auc", "low_light_accuracy", "repairs")


def values(results: dict) -> dict[str, str]:
    """Every number and claim of the text: key -> LaTeX. What no run has told yet has no key."""
    plan = results["plan"]
    residual = iresnet.IResNet((1, 1, 1, 1), width=8)
    stem = residual.conv1
    found = {
        "heavy": tex(plan["heavy"]),
        "light": tex(plan["light"]),
        "ratios": ", ".join(f"{ratio:g}" for ratio in plan["ratios"]),
        "crop": str(SIZE),
        "stem.kernel": str(stem.kernel_size[0]),
        "stem.stride": str(stem.stride[0]),
        "block.stride": str(residual.layer2[0].conv2.stride[0]),
        "low.factor": str(low_light.LOW_LIGHT_FACTOR),
        "low.bits": str(torch.iinfo(torch.uint8).bits),
        "low.highest": str(int(low_light.published(torch.tensor([255], dtype=torch.uint8)))),
        "digits": str(DIGITS),
        "left.out": " ".join(tex(sentence) for sentence in plan["left_out"]),
        "claim.unfinished": claim_unfinished(results["unfinished"]),
    }
    parts = (report_data, report_bench, report_training, report_cost, report_verification, report_integrity)
    for part in (*parts, report_studies, report_alignment, report_answer):
        found |= part.values(results)
    return found


def claim_unfinished(runs: list[str]) -> str:
    if not runs:
        return ""
    subject = "1 run is" if len(runs) == 1 else f"{len(runs)} runs are"
    kinds = [run.split("/")[0] for run in runs]
    counts = [f"{kinds.count(kind)} of {tex(kind)}" for kind in dict.fromkeys(kinds)]
    return f"Preview: {subject} not finished and left out ({join(counts)}); the last page names them."


def provenance_table(results: dict) -> str:
    """The last page: commit, machine, packages, data, and a row for each training run."""
    runs = {f"train/{k}": v for k, v in results["train"].items()} | {
        f"verify/{k}": v for k, v in results["verify"].items()
    }
    runs |= {name: results[name] for name in ("flops", "statistics") if results[name]}
    commits = sorted({run["environment"]["commit"] for run in runs.values()})
    machines = sorted({run["environment"]["machine"] for run in runs.values()})
    packages = sorted({f"{n} {v}" for run in runs.values() for n, v in run["environment"]["packages"].items()})
    pythons = sorted({run["environment"]["python"] for run in runs.values()})
    verified = [run for key, run in runs.items() if key.startswith("verify/")]
    tested = {
        f"{run['parameters']['images']} {run['environment']['data']}, {run['parameters']['pairs']}" for run in verified
    }
    lines = [
        f"Profile & {tex(results['plan']['profile'])}: {tex(results['plan']['description'])} \\\\",
        f"Commit & {tex(', '.join(commits))} \\\\",
        f"Machine & {tex('; '.join(machines))} \\\\",
        f"Packages & {tex(', '.join(['Python ' + p for p in pythons] + packages))} \\\\",
        f"Test images & {tex('; '.join(sorted(tested)))} \\\\",
    ]
    if "verify/released-normal" in runs:
        released = runs["verify/released-normal"]
        model = f"{Path(released['parameters']['model']).name} {released['environment']['model']}"
        lines.append(f"Released model & {tex(model)} \\\\")
    if results["unfinished"]:
        lines.append(f"Not finished & {tex(', '.join(results['unfinished']))} \\\\")
    for name, run in results["train"].items():
        m, p = run["metrics"], run["parameters"]
        asked = ", ".join(
            f"{key.replace('_', ' ')} {p[key]}"
            for key in p
            if key not in ("data", "output", "cache", "backbone", "ratio") and p[key] != ""
        )
        done = f"computed in {m['precision']}, {m['memory_format'].replace('_', ' ')}, {m['steps']} steps"
        done += f" in {m['seconds'] / 60:.1f} min, {m['images_per_second']:.1f} images/s,"
        done += f" last epoch's loss {m['last_epoch_loss']:.2f}"
        if m["continued_after_steps"]:
            done += f", stopped and continued after step {join([f'{step:,}' for step in m['continued_after_steps']])}"
        lines.append(f"{tex(name)} & data {run['environment']['data']}; {tex(asked)}; {tex(done)} \\\\")
    return "\n".join(lines) + "\n"


def clear(output: Path) -> None:
    """Delete an earlier drawing's figures: one that is not drawn again must not pass for this drawing's."""
    output.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for suffix in (".pdf", ".png"):
            (output / name).with_suffix(suffix).unlink(missing_ok=True)


def write(results: dict, output: Path) -> None:
    """numbers.tex, last, and the tables it announces, into a folder."""
    (output / "table_cost.tex").write_text(report_cost.cost_table(results) if results["flops"] else "")
    for light in protocol.LIGHTS:
        (output / f"table_{light}_light.tex").write_text(report_verification.results_table(results, light))
    (output / "table_calibration.tex").write_text(report_verification.calibration_table(results))
    (output / "table_integrity.tex").write_text(report_integrity.integrity_table(results))
    (output / "table_detectors.tex").write_text(report_alignment.detector_table(results))
    for name, rows in report_studies.tables(results).items():
        (output / f"{name}.tex").write_text(rows)
    (output / "table_provenance.tex").write_text(provenance_table(results))
    lines = ["% Written by the figures notebook from the results of the runs. Do not edit."]
    for name, condition in {
        "synthetic": results["plan"]["synthetic"],
        "released": any(name.startswith("released-") for name in results["verify"]),
        "ladder": bool(results["evaluation_ladder"]),
        "laddertrained": bool(results["ladder_train"]) and bool(results["ladder_verify"]),
        "dark": bool(results["low_light"]),
        "integrity": results["integrity"] is not None,
        "data": results["data"] is not None,
        "detectors": bool(results["detectors"]),
        "calibrated": bool(report_verification.calibrations(results)),
        "preview": bool(results["unfinished"]),
    }.items():
        lines.append(f"\\newif\\if{name}\\{name}{'true' if condition else 'false'}")
    lines += [f"\\setval{{{key}}}{{{value}}}" for key, value in values(results).items()]
    partial = output / "numbers.tex.partial"
    partial.write_text("\n".join(lines) + "\n")
    partial.replace(output / "numbers.tex")
