"""What the report is about and how it was made: the plan, constants of the method, and every run's provenance."""

from collections import Counter
from pathlib import Path

import torch

from facelib.faces import light
from facelib.faces.align import SIZE
from facelib.models import iresnet
from facelib.records import DIGITS
from facelib.verification import bootstrap, comparison, measures

NOT_A_RECIPE = ("data", "output", "cache", "backbone", "ratio")


def facts(results: dict) -> dict:
    """The plan, the method's constants, what is unfinished and provenance."""
    plan = results["plan"]
    residual = iresnet.IResNet((1, 1, 1, 1), width=8)
    keys = ("profile", "description", "heavy", "light", "ratios", "synthetic", "left_out")
    return {key: plan[key] for key in keys} | {
        "crop": SIZE,
        "stem": {"kernel": residual.conv1.kernel_size[0], "stride": residual.conv1.stride[0]},
        "block_stride": residual.layer2[0].conv2.stride[0],
        "low_light_factor": light.LOW_LIGHT_FACTOR,
        "low_light_highest": int(light.published(torch.tensor([255], dtype=torch.uint8))),
        "sensor": {"well": light.FULL_WELL, "noise": light.READ_NOISE},
        "level": bootstrap.LEVEL,
        "digits": DIGITS,
        "far": measures.FAR,
        "power": comparison.POWER,
        "unfinished": results["unfinished"],
        "unfinished_kinds": [
            {"kind": kind, "runs": runs}
            for kind, runs in Counter(name.split("/")[0] for name in results["unfinished"]).items()
        ],
        "resamples": results["statistics"]["metrics"]["resamples"] if results["statistics"] else None,
        "provenance": provenance(results),
    }


def provenance(results: dict) -> dict:
    """Commits, machines, packages and data of all runs, and a row for each training run."""
    verified = list(results["verify"].values())
    others = [results[name] for name in ("flops", "statistics") if results[name]]
    environments = [run["environment"] for run in [*results["train"].values(), *verified, *others]]
    tests = [
        f"{run['parameters']['images']} {run['environment']['data']}, {run['parameters']['pairs']}" for run in verified
    ]
    released = results["verify"].get("released-normal")
    return {
        "commits": sorted({environment["commit"] for environment in environments}),
        "machines": sorted({environment["machine"] for environment in environments}),
        "pythons": sorted({environment["python"] for environment in environments}),
        "packages": sorted({f"{n} {v}" for environment in environments for n, v in environment["packages"].items()}),
        "tests": sorted(set(tests)),
        "released": released and f"{Path(released['parameters']['model']).name} {released['environment']['model']}",
        "runs": [training_run(name, run) for name, run in results["train"].items()],
    }


def training_run(name: str, run: dict) -> dict:
    """What was asked of a training run and what it took."""
    measured, parameters = run["metrics"], run["parameters"]
    asked = {key: value for key, value in parameters.items() if key not in NOT_A_RECIPE and value != ""}
    keys = ("precision", "memory_format", "steps", "seconds", "images_per_second", "last_epoch_loss")
    return {key: measured.get(key) for key in (*keys, "continued_after_steps")} | {
        "name": name,
        "data": run["environment"]["data"],
        "asked": [f"{key} {value}" for key, value in asked.items()],
    }
