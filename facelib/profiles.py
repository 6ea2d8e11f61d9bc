"""Which runs a report needs: notebooks/profiles.toml and the data at hand, turned into a plan that Make follows.

    python3 -m facelib.profiles DATA [PROFILE]

prints the profile's name and leaves in build/<profile> what Make compares: plan.mk (the rules), plan.json (for the
figures notebook), a parameter file for each notebook run, the notebooks' code without their prose and outputs, and
which files the data folders hold. A file is rewritten only if its content changes, so that Make reruns only what needs
it. Uses nothing but the standard library: it runs before there is an environment.
"""

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

MODELS = (".onnx", ".pth", ".pt")
# What insightface packs beside its embedders: detectors, landmarks, attributes.
NOT_EMBEDDERS = ("det_", "scrfd", "1k3d68", "2d106det", "genderage")


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
    found = sorted(
        path for path in folder.glob(pattern) if path.suffix in MODELS and not path.name.startswith(NOT_EMBEDDERS)
    )
    if found:
        if len(str(found[0]).split()) > 1:
            raise ValueError(f"{found[0]}: Make can't handle a path with spaces. Rename the file.")
        models["released"] = str(found[0])
        if len(found) > 1:
            others = ", ".join(path.name for path in found[1:])
            left_out.append(f"Of the released models {found[0].name} is shown, the first by name; not {others}.")
    else:
        left_out.append(
            f"The released model's curves are left out: no model in {folder}. Put an .onnx file or an insightface"
            " .pth checkpoint there."
        )
    for model, source in models.items():
        for light in ("normal", "low"):
            runs[f"verify/{model}-{light}"] = {
                "notebook": "verify",
                "parameters": {"model": source, "lfw": lfw, "output": f"{build}/verify/{model}-{light}", "light": light}
                | profile["verify"]
                | ({"flip": True} if model == "released" else {}),
                "needs": ["$(LFW_LANDMARKS)", "$(PAIRS)", source if model == "released" else f"{source}/metrics.json"],
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
        f"RELEASED := {plan['released'] or ''}",
        f"FLOPS := {build}/flops/metrics.json",
        f"TRAIN_LANDMARKS := {build}/landmarks-train.txt",
        f"LFW_LANDMARKS := {build}/landmarks-lfw.txt",
    ]
    if not plan["synthetic"]:
        lines += [f"PAIRS := {plan['lfw']}/pairs.txt", f"CHECKED := {build}/checked.txt"]
    # Speed is measured with all cores, before any other run takes one. What is wrong with the test data should be told
    # before anything is trained.
    before = {"flops": "$(CHECKED)", "train": "$(FLOPS) $(LFW_LANDMARKS)", "verify": "$(FLOPS)"}
    for name, run in plan["runs"].items():
        notebook = run["notebook"]
        copy, parameters = f"{build}/notebooks/{name}.ipynb", f"{build}/parameters/{name}.json"
        result = f"{run['parameters']['output']}/metrics.json"
        needs = " ".join([parameters, f"{build}/code/{notebook}.py", f"$({notebook.upper()}_CODE)", *run["needs"]])
        alone = "env -u OMP_NUM_THREADS " if notebook == "flops" else ""
        lines += [
            "",
            f"RESULTS += {result}",
            f"{result}: {needs} | $(ENVIRONMENT) {before[notebook]}",
            f"\t{alone}$(EXECUTE) {notebook} {copy} --parameters {parameters}",
        ]
    return "\n".join(lines) + "\n"


def code_of(notebook: Path) -> str:
    """The notebook's code cells. Its results depend on them alone, not on prose or outputs that were saved."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code") + "\n"


def listing(folder: Path) -> dict:
    """The folder, and a hash over the paths of all its files: another one where some were added, renamed or removed."""
    digest = hashlib.sha256()
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            digest.update(f"{os.path.relpath(path, folder)}/{name}\n".encode(errors="surrogateescape"))
    return {"folder": str(folder), "files": digest.hexdigest()}


def has_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU. PyTorch, which knows for sure, may not be installed yet."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and listed.stdout.startswith("GPU")


def write_if_changed(file: Path, text: str) -> None:
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text)
        partial.replace(file)


def main(data: str, name: str = "") -> None:
    profiles = read_profiles(Path("notebooks/profiles.toml"))
    folder = Path(data)
    gpu = has_gpu()
    if not name:
        name, line = choose(profiles, folder, gpu)
    elif name not in profiles:
        raise ValueError(f"PROFILE={name} is unknown. notebooks/profiles.toml has: {', '.join(profiles)}")
    else:
        lacks = missing(profiles[name], folder, gpu=True)
        if lacks:
            there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            holds = f"{folder} holds: {', '.join(there) or 'nothing'}" if folder.is_dir() else f"there is no {folder}"
            raise ValueError(f"PROFILE={name} needs {' and '.join(lacks)}; {holds}. Set DATA to the folder with both.")
        line = f"profile {name}: {profiles[name]['description']} (asked for)"
        if profiles[name].get("gpu") and not gpu:
            line += ". No CUDA GPU was found: on a CPU this takes weeks with the real data. PROFILE=small takes hours"
    # However DATA is spelled the parameters stay the same, and moving the repository changes none of those within it.
    base = Path(os.path.abspath(folder))
    made = plan(name, profiles[name], base.relative_to(Path.cwd()) if base.is_relative_to(Path.cwd()) else base)
    build = Path("build") / name
    for run, content in made["runs"].items():
        write_if_changed(build / "parameters" / f"{run}.json", json.dumps(content["parameters"], indent=2) + "\n")
    for notebook in ("flops", "train", "verify"):
        write_if_changed(build / "code" / f"{notebook}.py", code_of(Path("notebooks") / f"{notebook}.ipynb"))
    if not made["synthetic"]:
        for data_set in ("train_faces", "lfw"):
            content = json.dumps(listing(Path(made[data_set])), indent=2) + "\n"
            write_if_changed(build / "parameters" / f"{data_set}.json", content)
    write_if_changed(build / "plan.json", json.dumps(made, indent=2) + "\n")
    write_if_changed(build / "plan.mk", makefile(made))
    print(line, file=sys.stderr)
    print(name)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
