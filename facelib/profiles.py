"""Which runs a report needs: notebooks/profiles.toml and the data at hand, turned into a plan that Make follows.

    python3 -m facelib.profiles DATA [PROFILE]

prints the profile's name and leaves build/<profile>/plan.mk (for Make), plan.json (for the figures notebook) and a
parameter file for each notebook run. A file is rewritten only if its content changes, so that Make reruns only what
needs it. Uses nothing but the standard library: it runs before there is an environment.
"""

import json
import shutil
import sys
import tomllib
from pathlib import Path

MODELS = (".onnx", ".pth", ".pt")


def read_profiles(file: Path) -> dict[str, dict]:
    return tomllib.loads(file.read_text())


def missing(profile: dict, data: Path, gpu: bool) -> list[str]:
    """What this profile lacks, each in words that say what to put where."""
    if profile["synthetic"]:
        return []
    lacks = []
    if not (data / profile["train_faces"]).is_dir():
        lacks.append(f"training images in {data / profile['train_faces']}/<identity>/<image>.jpg")
    if not (data / profile["lfw"] / "pairs.txt").is_file():
        lacks.append(f"LFW in {data / profile['lfw']}, with its pairs.txt")
    if profile.get("gpu") and not gpu:
        lacks.append("a CUDA GPU")
    return lacks


def choose(profiles: dict[str, dict], data: Path, gpu: bool) -> tuple[str, str]:
    """The largest profile that data and device allow, and a line that says why. The file lists them smallest first."""
    reasons = []
    for name, profile in reversed(profiles.items()):
        lacks = missing(profile, data, gpu)
        if not lacks:
            because = f" ({'; '.join(reasons)})" if reasons else ""
            return name, f"profile {name}: {profile['description']}{because}"
        reasons.append(f"{name} needs {' and '.join(lacks)}")
    raise ValueError("no profile can be computed: " + "; ".join(reasons))


def plan(name: str, profile: dict, data: Path) -> dict:
    """All notebook runs of the profile: name -> {"notebook", "parameters", "needs"}, and what is left out and why."""
    build = f"build/{name}"
    base = Path() if profile["synthetic"] else data
    faces, lfw = str(base / profile["train_faces"]), str(base / profile["lfw"])
    runs = {}
    runs["flops"] = {
        "notebook": "flops",
        "parameters": {"heavy": profile["heavy"], "light": profile["light"], "output": f"{build}/flops"},
        "needs": [],
    }
    models = {}
    for backbone in (profile["light"], profile["heavy"]):
        for ratio in profile["ratios"]:
            run = f"{backbone}-r{ratio:g}"
            models[run] = f"{build}/train/{run}"
            runs[f"train/{run}"] = {
                "notebook": "train",
                "parameters": {"data": faces, "output": models[run], "backbone": backbone, "ratio": ratio}
                | profile["train"],
                "needs": ["$(TRAIN_LANDMARKS)"],
            }
    left_out = []
    folder, pattern = data / Path(profile["released"]).parent, Path(profile["released"]).name
    found = sorted(path for path in folder.glob(pattern) if path.suffix in MODELS)
    if found:
        models["released"] = str(found[0])
        if len(found) > 1:
            others = ", ".join(path.name for path in found[1:])
            left_out.append(f"Of the released models {found[0].name} is shown, the first by name; not {others}.")
    else:
        here = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        left_out.append(
            f"The released model's curves are left out: no model in {here}. Put an .onnx file or an insightface"
            " .pth checkpoint there."
        )
    for model, source in models.items():
        for light in ("normal", "low"):
            runs[f"verify/{model}-{light}"] = {
                "notebook": "verify",
                "parameters": {"model": source, "lfw": lfw, "output": f"{build}/verify/{model}-{light}", "light": light}
                | profile["verify"]
                | ({"flip": True} if model == "released" else {}),
                "needs": ["$(LFW_LANDMARKS)", source if model == "released" else f"{source}/metrics.json"],
            }
    return {
        "profile": name,
        "description": profile["description"],
        "synthetic": profile["synthetic"],
        "heavy": profile["heavy"],
        "light": profile["light"],
        "ratios": profile["ratios"],
        "train_faces": faces,
        "lfw": lfw,
        "released": models.get("released"),
        "left_out": left_out,
        "runs": runs,
    }


def makefile(plan: dict) -> str:
    """The plan as rules: each run's results depend on its parameters, notebook and code."""
    build = f"build/{plan['profile']}"
    lines = [
        "# Written by facelib/profiles.py from notebooks/profiles.toml.",
        f"PROFILE := {plan['profile']}",
        f"SYNTHETIC := {'yes' if plan['synthetic'] else ''}",
        f"TRAIN_FACES := {plan['train_faces']}",
        f"LFW := {plan['lfw']}",
        f"FLOPS := {build}/flops/metrics.json",
        f"TRAIN_LANDMARKS := {build}/landmarks-train.txt",
        f"LFW_LANDMARKS := {build}/landmarks-lfw.txt",
    ]
    for name, run in plan["runs"].items():
        copy, parameters = f"{build}/notebooks/{name}.ipynb", f"{build}/parameters/{name}.json"
        result = f"{run['parameters']['output']}/metrics.json"
        needs = " ".join(
            [parameters, f"notebooks/{run['notebook']}.ipynb", f"$({run['notebook'].upper()}_CODE)", *run["needs"]]
        )
        # Speed is measured with all cores, before any other run takes one.
        alone = "env -u OMP_NUM_THREADS " if name == "flops" else ""
        after = "" if name == "flops" else " $(FLOPS)"
        lines += [
            "",
            f"RESULTS += {result}",
            f"{result}: {needs} | $(ENVIRONMENT){after}",
            f"\t{alone}$(EXECUTE) {run['notebook']} {copy} --parameters {parameters}",
        ]
    return "\n".join(lines) + "\n"


def write_if_changed(file: Path, text: str) -> None:
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text)
        partial.replace(file)


def main(data: str, name: str = "") -> None:
    profiles = read_profiles(Path("notebooks/profiles.toml"))
    folder = Path(data)
    gpu = shutil.which("nvidia-smi") is not None
    if not name:
        name, line = choose(profiles, folder, gpu)
    elif name not in profiles:
        raise ValueError(f"PROFILE={name} is unknown. notebooks/profiles.toml has: {', '.join(profiles)}")
    else:
        lacks = [lack for lack in missing(profiles[name], folder, True)]
        if lacks:
            there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            holds = f"{folder} holds: {', '.join(there) or 'nothing'}" if folder.is_dir() else f"there is no {folder}"
            raise ValueError(f"PROFILE={name} needs {' and '.join(lacks)}; {holds}. Set DATA to the folder with both.")
        line = f"profile {name}: {profiles[name]['description']} (asked for)"
    made = plan(name, profiles[name], folder.resolve())  # however DATA is spelled, the parameters stay the same
    build = Path("build") / name
    for run, content in made["runs"].items():
        write_if_changed(build / "parameters" / f"{run}.json", json.dumps(content["parameters"], indent=2) + "\n")
    where = {"train_faces": made["train_faces"], "lfw": made["lfw"]}
    write_if_changed(build / "parameters" / "data.json", json.dumps(where, indent=2) + "\n")
    write_if_changed(build / "plan.json", json.dumps(made, indent=2) + "\n")
    write_if_changed(build / "plan.mk", makefile(made))
    print(line, file=sys.stderr)
    print(name)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
