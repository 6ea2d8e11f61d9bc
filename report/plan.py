"""Which runs a report needs: notebooks/profiles.toml and the data at hand, turned into a plan that Make follows.

    python3 -m report.plan DATA [PROFILE]

prints the profile's name and leaves in build/<profile> what Make compares: plan.mk (the rules), plan.json (for the
figures notebook), a parameter file for each notebook run, a fingerprint of each notebook's code and of facelib's behind
it, and which files the data folders hold. A file is rewritten only if its content changes, so that Make reruns only
what needs it. Uses nothing but the standard library: it runs before there is an environment.
"""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

from facelib.data.layout import PACK_INDEX, RECORDS, is_aligned
from facelib.models import MODELS, NOT_EMBEDDERS
from report import training_ladder
from report.stale import code_fingerprint, code_of, fingerprint, listing, modules_behind, write_if_changed

DEFAULT_DATA = Path("data")
LADDER = "ladder-"  # what names of the training ladder's runs begin with
SEED = "-s"  # what stands before a further seed at the end of a run's name
# The module whose code, with all that it imports, decides what comes out of a notebook's run.
MODULE_OF = {
    "flops": "facelib.models.flops",
    "train": "facelib.training.trainer",
    "verify": "facelib.verification.verify",
    "statistics": "facelib.verification.uncertainty",
    "evaluation_ladder": "facelib.verification.ladder",
    "low_light": "facelib.studies.low_light",
    "integrity": "facelib.studies.integrity",
    "detectors": "facelib.studies.detectors",
    "data": "facelib.studies.data_summary",
}
# Notebooks whose results the statistics take up.
FOR_STATISTICS = ("verify", "evaluation_ladder", "low_light", "detectors", "integrity")
PACK = ".pack"


def read_profiles(file: Path) -> dict[str, dict]:
    return tomllib.loads(file.read_text())


def missing(profile: dict, data: Path, gpu: bool) -> list[str]:
    """What this profile lacks, each in words that say what to put where."""
    if profile["synthetic"]:
        return []
    lacks = []
    faces = train_faces(profile, data)
    if not faces.exists():
        lacks.append(f"training images in {faces}/<identity>/<image>.jpg, or {RECORDS} in {faces}, or {faces}{PACK}")
    if not (data / profile["lfw"] / "pairs.txt").is_file():
        lacks.append(f"LFW in {data / profile['lfw']}, with its pairs.txt")
    if profile.get("gpu") and not gpu:
        lacks.append("a CUDA GPU")
    return lacks


def train_faces(profile: dict, base: Path) -> Path:
    """Where the profile's training images are: in the pack of their folder's name beside it, or in the folder."""
    folder = base / profile["train_faces"]
    pack = folder.with_name(folder.name + PACK)
    return pack if (pack / PACK_INDEX).is_file() else folder


def contents(folder: Path) -> str:
    """What lies in a folder, in words for a message."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "README.md")
    return f"{folder} holds: {', '.join(there[:10]) or 'nothing'}{', ...' if len(there) > 10 else ''}"


def choose(profiles: dict[str, dict], data: Path, gpu: bool) -> tuple[str, str]:
    """The largest profile that data and device allow, and a line that says why. The file lists them smallest first.

    Raises ValueError if a folder other than the default one was named and only synthetic faces would be left.
    """
    reasons = []
    for name, profile in reversed(profiles.items()):
        lacks = missing(profile, data, gpu)
        if not lacks:
            if profile["synthetic"] and data != DEFAULT_DATA:
                raise ValueError(f"DATA={data} has no data set for a report: {'; '.join(reasons)}; {contents(data)}")
            because = f" ({'; '.join([*reasons, contents(data)])})" if reasons else ""
            return name, f"profile {name}: {profile['description']}{because}"
        reasons.append(f"{name} needs {' and '.join(lacks)}")
    raise ValueError("no profile can be computed: " + "; ".join(reasons))


def plan(name: str, profile: dict, data: Path) -> dict:
    """All notebook runs of the profile: name -> {"notebook", "parameters", "needs"}, and what is left out and why.

    Raises ValueError if the profile's `runs` names a run that it doesn't have.
    """
    build = f"build/{name}"
    base = Path() if profile["synthetic"] else data
    faces, lfw = str(train_faces(profile, base)), str(base / profile["lfw"])
    runs = {}
    runs["flops"] = {
        "notebook": "flops",
        "parameters": {"heavy": profile["heavy"], "light": profile["light"], "output": f"{build}/flops"},
        "needs": [],
    }
    models = {}
    for run, parameters in (grid_runs(profile) | training_ladder_runs(profile)).items():
        models[run] = f"{build}/train/{run}"
        runs[f"train/{run}"] = {
            "notebook": "train",
            "parameters": {"data": faces, "output": models[run]} | parameters | profile.get("runs", {}).get(run, {}),
            "needs": ["$(TRAIN_LANDMARKS)"],
        }
    unknown = [run for run in profile.get("runs", {}) if run not in models]
    if unknown:
        raise ValueError(f"[{name}.runs] names {', '.join(unknown)}, but the runs are: {', '.join(models)}")
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
    if "released" in models:
        runs["flops"]["parameters"]["released"] = models["released"]
        runs["flops"]["needs"] = [models["released"]]
    for model, source in models.items():
        lights = ("normal",) if model.startswith(LADDER) else ("normal", "low")
        for light in lights:
            runs[f"verify/{model}-{light}"] = {
                "notebook": "verify",
                "parameters": {"model": source, "lfw": lfw, "output": f"{build}/verify/{model}-{light}", "light": light}
                | profile["verify"]
                | ({"folds": profile["training_ladder"]["folds"]} if model.startswith(LADDER) else {})
                | ({"flip": True} if model == "released" else {}),
                "needs": needs_of(model, source),
            }
        if len(lights) > 1:  # the model and the images are opened once: one run of the notebook leaves both results
            runs[f"verify/{model}-normal"]["given"] = f"light=both output={build}/verify/{model}"
            runs[f"verify/{model}-low"]["made_by"] = f"verify/{model}-normal"
            for light in lights:
                runs[f"verify/{model}-{light}"]["copy"] = f"verify/{model}"
    studies = profile.get("studies", {})  # a profile may do without
    trained = [f"{profile[role]}-r{studies['ratio']:g}" for role in ("light", "heavy") if studies]
    for model in [name for name in (*trained, "released") if name in models and studies]:
        released = model == "released"
        asked = {"model": models[model], "lfw": lfw}
        ladder = {"flip": released or profile["verify"]["flip"], "folds": 0 if released else studies["folds"]}
        # All models on the same pairs, without the flip-test: their curves are compared.
        low_light = {"folds": studies["folds"], "most_stops": studies["most_stops"]}
        low_light["repairs"] = released or "released" not in models
        for study, parameters in (("evaluation_ladder", ladder), ("low_light", low_light)):
            runs[f"{study}/{model}"] = {
                "notebook": study,
                "parameters": asked | parameters | {"output": f"{build}/{study}/{model}"},
                "needs": needs_of(model, models[model]),
            }
    eyes = "released" if "released" in models else f"{profile['heavy']}-r{max(profile['ratios']):g}"
    runs["integrity"] = {
        "notebook": "integrity",
        "parameters": {"model": models[eyes], "train": faces, "lfw": lfw, "output": f"{build}/integrity"},
        "needs": ["$(TRAIN_LANDMARKS)", *needs_of(eyes, models[eyes])],
    }
    runs["data"] = {
        "notebook": "data",  # the integrity check looks for the duplicates
        "parameters": {"train": faces, "test": lfw, "duplicates": False, "output": f"{build}/data_summary"},
        "needs": ["$(TRAIN_LANDMARKS)", "$(LFW_LANDMARKS)"],
    }
    if studies:
        released = eyes == "released"
        runs[f"detectors/{eyes}"] = {
            "notebook": "detectors",
            "parameters": {"model": models[eyes], "lfw": lfw, "output": f"{build}/detectors/{eyes}"}
            | {"folds": 0 if released else studies["folds"], "flip": released or profile["verify"]["flip"]},
            "needs": needs_of(eyes, models[eyes]),
        }
    runs["statistics"] = {
        "notebook": "statistics",
        "parameters": {"results": build, "output": f"{build}/statistics"},
        "needs": [
            f"{run['parameters']['output']}/metrics.json" for run in runs.values() if run["notebook"] in FOR_STATISTICS
        ],
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


def needs_of(model: str, source: str) -> list[str]:
    """What a run that scores pairs with this model depends on."""
    declared = f"{source}.json"  # facelib.models.inputs
    weights = [source, *([declared] if Path(declared).exists() else [])]
    return ["$(LFW_LANDMARKS)", "$(PAIRS)", *(weights if model == "released" else [f"{source}/metrics.json"])]


def grid_runs(profile: dict) -> dict[str, dict]:
    """The runs of each backbone at each ratio: name -> parameters of the train notebook. Those with a further seed,
    for the spread over seeds, have it in their name.
    """
    found = {}
    for role in ("light", "heavy"):
        for ratio in profile["ratios"]:
            run, parameters = f"{profile[role]}-r{ratio:g}", {"backbone": profile[role], "ratio": ratio}
            found[run] = parameters | profile["train"] | profile.get("recipes", {}).get(role, {})
            for seed in profile.get("more_seeds", {}).get(role, []):
                found[f"{run}{SEED}{seed}"] = found[run] | {"seed": seed}
    return found


def training_ladder_runs(profile: dict) -> dict[str, dict]:
    """The runs of the training ladder: name -> parameters of the train notebook."""
    ladder = profile.get("training_ladder", {"light_seeds": [], "heavy_seeds": []})  # a profile may do without
    found = {}
    for role in ("light", "heavy"):
        for seed in ladder[f"{role}_seeds"]:
            for rung in training_ladder.RUNGS:
                parameters = {"backbone": profile[role], "ratio": ladder["ratio"], "epochs": ladder["epochs"]}
                parameters |= training_ladder.recipe(role, rung) | {"seed": seed}
                found[f"{LADDER}{profile[role]}-{rung}{SEED}{seed}"] = parameters
    return found


def makefile(plan: dict) -> str:
    """The plan as rules: each run's results depend on its parameters, notebook and code."""
    build = f"build/{plan['profile']}"
    lines = [
        "# Written by report/plan.py from notebooks/profiles.toml.",
        f"PROFILE := {plan['profile']}",
        f"SYNTHETIC := {'yes' if plan['synthetic'] else ''}",
        f"TRAIN_FACES := {plan['train_faces']}",
        f"LFW := {plan['lfw']}",
        f"RELEASED := {plan['released'] or ''}",
        f"FLOPS := {build}/flops/metrics.json",
        f"TRAIN_ALIGNED := {'yes' if is_aligned(plan['train_faces']) else ''}",
        f"TRAIN_LANDMARKS := {build}/landmarks-train.txt",
        f"LFW_LANDMARKS := {build}/landmarks-lfw.txt",
    ]
    if not plan["synthetic"]:
        trained = [
            f"{build}/parameters/{name}.json" for name, run in plan["runs"].items() if run["notebook"] == "train"
        ]
        lines += [
            f"PAIRS := {plan['lfw']}/pairs.txt",
            f"CHECKED := {build}/checked.txt",
            f"TRAIN_PARAMETERS := {' '.join(trained)}",
        ]
    # Speed is measured with all cores, before any other run takes one. What is wrong with the test data should be told
    # before anything is trained.
    before = {"flops": "$(CHECKED)", "train": "$(FLOPS) $(LFW_LANDMARKS)", "statistics": ""}
    before |= dict.fromkeys((*FOR_STATISTICS, "data"), "$(FLOPS)")

    def result_of(run: dict) -> str:
        return f"{run['parameters']['output']}/metrics.json"

    for name, run in plan["runs"].items():
        maker = run.get("made_by", name)  # the run that is executed for this result
        notebook, given = run["notebook"], plan["runs"][maker].get("given", "")
        copy, parameters = f"{build}/notebooks/{run.get('copy', name)}.ipynb", f"{build}/parameters/{name}.json"
        needs = [parameters, f"{build}/code/{notebook}.txt", *run["needs"]]
        alone = "env -u OMP_NUM_THREADS " if notebook == "flops" else ""
        recipe = f"{alone}$(EXECUTE) {notebook} {copy} --parameters {build}/parameters/{maker}.json {given}".rstrip()
        if maker != name:  # Make before 4.3 knows no rule with two results: the second comes after the first, and may
            needs.append(result_of(plan["runs"][maker]))  # then be there already
            recipe = f"@for need in $^; do test $@ -nt $$need || {{ {recipe} || exit 1; break; }}; done"
        lines += [
            "",
            f"RESULTS += {result_of(run)}",
            f"{result_of(run)}: {' '.join(needs)} | $(ENVIRONMENT) {before[notebook]}".rstrip(),
            f"\t{recipe}",
        ]
    return "\n".join(lines) + "\n"


def has_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU. PyTorch, which knows for sure, may not be installed yet."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and listed.stdout.startswith("GPU")


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
            raise ValueError(
                f"PROFILE={name} needs {' and '.join(lacks)}; {contents(folder)}. Set DATA to the folder with both."
            )
        line = f"profile {name}: {profiles[name]['description']} (asked for)"
        if profiles[name].get("gpu") and not gpu:
            line += ". No CUDA GPU was found: on a CPU this takes weeks with the real data. PROFILE=small takes hours"
    # However DATA is spelled the parameters stay the same, and moving the repository changes none of those within it.
    base = Path(os.path.abspath(folder))
    made = plan(name, profiles[name], base.relative_to(Path.cwd()) if base.is_relative_to(Path.cwd()) else base)
    build = Path("build") / name
    for run, content in made["runs"].items():
        write_if_changed(build / "parameters" / f"{run}.json", json.dumps(content["parameters"], indent=2) + "\n")
    for notebook, module in MODULE_OF.items():
        lines = f"{notebook}.ipynb {fingerprint(code_of(Path(f'notebooks/{notebook}.ipynb')))}\n"
        lines += "".join(map(code_fingerprint, modules_behind(module)))
        write_if_changed(build / "code" / f"{notebook}.txt", lines)
    if made["synthetic"]:
        modules = ["facelib.studies.demo", "facelib.synthetic.sets", *modules_behind("facelib.synthetic.draw")]
        drawing = map(code_fingerprint, modules)
        write_if_changed(build / "code" / "faces.txt", "".join(drawing))
    else:
        for data_set in ("train_faces", "lfw"):
            found = listing(Path(made[data_set]), build / f"listing-{data_set}.json")
            write_if_changed(build / "parameters" / f"{data_set}.json", json.dumps(found, indent=2) + "\n")
    write_if_changed(build / "plan.json", json.dumps(made, indent=2) + "\n")
    write_if_changed(build / "plan.mk", makefile(made))
    print(line, file=sys.stderr)
    print(name)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(str(error))
