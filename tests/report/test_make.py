"""make: one command builds the PDF, and Make knows what depends on what.

On a profile of its own, as small as it gets: two of timm's smallest networks, one epoch, a few synthetic faces.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from facelib.data.layout import list_images
from facelib.synthetic import sets

PROFILE = """
[tiny]
description = "a test of make"
synthetic = false
train_faces = "faces"
lfw = "lfw"
released = "weights/*"
heavy = "iresnet18_025"
light = "mobilenetv3_small_050"
ratios = [1.0]

[tiny.train]
epochs = 1
batch_size = 8
learning_rate = 0.01

[tiny.verify]
flip = false
"""


def make(checkout, *words, check=True):
    # .venv is that of the project itself: here it is never to be set up again.
    command = ["make", "--old-file=.venv/ready", *words]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # -j2 and two threads each would wait for one another
    done = subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=one_thread, check=False
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


@pytest.fixture(scope="module")
def report(checkout, tmp_path_factory):
    """The checkout after `make -j2 report` of the tiny profile, and the words that ask for it. Before, it was killed in
    the first training, which left two files: what make would do then, and the text of a preview.
    """
    data = tmp_path_factory.mktemp("data")
    sets.make_identity_folder(data / "faces", identities=3, images_per_identity=4, seed=5)
    sets.make_lfw(
        data / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2, seed=5, first_identity=99
    )
    with (checkout / "notebooks" / "profiles.toml").open("a") as file:
        file.write(PROFILE)
    words = ["report", "PROFILE=tiny", f"DATA={data}"]
    kill_in_training(checkout, words)
    (checkout / "after the kill.txt").write_text(planned((checkout, words)))
    make(checkout, "preview", *words[1:])
    shutil.copy(checkout / "figures" / "report.tex", checkout / "preview.tex")
    assert (checkout / "report" / "report.pdf").read_bytes().startswith(b"%PDF")
    make(checkout, "-j2", *words)
    return checkout, words


def kill_in_training(checkout, words) -> None:
    """Begin the report, and kill make, the notebook and its kernel once a training has begun."""
    command = ["make", "--old-file=.venv/ready", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=checkout, start_new_session=True, **quiet)
    training = checkout / "build" / "tiny" / "train"
    while not any(training.glob("*.unfinished")) and process.poll() is None:
        time.sleep(0.01)
    for running in [*psutil.Process(process.pid).children(recursive=True), process]:
        running.kill()
    process.wait()


def planned(report, *more) -> str:
    """What make would do now."""
    checkout, words = report
    return make(checkout, "--dry-run", *words, *more).stdout


def runs_in(dry_run: str) -> list[str]:
    return re.findall(r"build/tiny/notebooks/(\S+)\.ipynb", dry_run)


def newer(file):
    """Touch a file so that it is newer than everything built."""
    os.utime(file, (time.time() + 1, time.time() + 1))


def test_the_pdf_is_there_and_says_what_its_data_are(report):
    checkout, words = report
    assert (checkout / "report" / "report.pdf").read_bytes().startswith(b"%PDF")
    numbers = (checkout / "figures" / "report.tex").read_text()
    assert "Put an .onnx file or an insightface .pth checkpoint there" in numbers


def test_executed_copies_hold_their_parameters(report):
    copy = report[0] / "build" / "tiny" / "notebooks" / "train" / "mobilenetv3_small_050-r1.ipynb"
    sources = ["".join(cell["source"]) for cell in json.loads(copy.read_text())["cells"]]
    assert any('backbone = "mobilenetv3_small_050"' in source and "ratio = 1.0" in source for source in sources)


def test_a_launcher_is_put_before_every_notebook_run(report, tmp_path):
    """A stand-in for srun: it notes what it is given and runs it."""
    noted, launcher = tmp_path / "noted.txt", tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$@" >> {noted}\nshift\nexec "$@"\n')
    launcher.chmod(0o755)
    asked = ["NOTEBOOK=figures", f"PARAMS=results=build/tiny output={tmp_path}/figures"]
    make(report[0], "run", *asked, f"LAUNCH={launcher} --gpus=1")
    assert (tmp_path / "figures" / "report.tex").exists()
    assert noted.read_text().startswith("--gpus=1 .venv/bin/python -m notebooks.run figures build/run/figures-")
    lines = planned(report, "--always-make", "--old-file=latex", "LAUNCH=srun --gpus=1").splitlines()
    runs = [line for line in lines if "notebooks.run" in line]
    assert len(runs) > 8 and all("srun --gpus=1 .venv/bin/python -m notebooks.run" in line for line in runs)


def test_a_second_make_does_nothing(report):
    assert make(report[0], "--question", *report[1], check=False).returncode == 0


def test_touching_the_figures_notebook_redraws_and_retypesets_only(report):
    notebook = report[0] / "notebooks" / "figures.ipynb"
    before = notebook.stat()
    newer(notebook)
    due = planned(report)
    os.utime(notebook, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(runs_in(due)) == {"figures"} and "latexmk" in due


def test_changing_one_runs_parameter_reruns_that_run_and_what_needs_it(report):
    parameters = report[0] / "build" / "tiny" / "parameters" / "train" / "iresnet18_025-r1.json"
    before = parameters.stat()
    newer(parameters)
    due = runs_in(planned(report))
    os.utime(parameters, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(due) == {"train/iresnet18_025-r1", "verify/iresnet18_025-r1", "integrity", "statistics", "figures"}


def test_a_changed_list_of_runs_redraws_the_report(report):
    profiles, plan = (report[0] / name for name in ("notebooks/profiles.toml", "build/tiny/plan.json"))
    text, before = profiles.read_text(), plan.stat()
    profiles.write_text(text.replace("a test of make", "another description"))
    due = planned(report)
    profiles.write_text(text)
    planned(report)
    os.utime(plan, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert set(runs_in(due)) == {"figures"}


def test_saving_a_notebook_reruns_nothing_unless_its_code_changed(report):
    notebook = report[0] / "notebooks" / "train.ipynb"
    text = notebook.read_text()
    code = report[0] / "build" / "tiny" / "code" / "train.txt"
    before = code.stat()
    notebook.write_text(
        text.replace('"outputs": []', '"outputs": [], "collapsed": true').replace("# Train", "# To train")
    )
    saved = runs_in(planned(report))
    notebook.write_text(text.replace("metrics = train(", "changed = 1\\nmetrics = train("))
    changed = runs_in(planned(report))
    notebook.write_text(text)
    planned(report)
    os.utime(code, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert saved == []
    assert {"train/iresnet18_025-r1", "train/mobilenetv3_small_050-r1", "figures"} <= set(changed)


def test_changed_code_of_facelib_reruns_what_it_computes_and_changed_words_rerun_nothing(report):
    losses = report[0] / "facelib" / "losses" / "cross_entropy.py"
    code = report[0] / "build" / "tiny" / "code" / "train.txt"
    text, before = losses.read_text(), code.stat()
    losses.write_text(text + "\n# a remark\n")
    remarked = runs_in(planned(report))
    losses.write_text(text + "\nSOMETHING = 1\n")
    changed = runs_in(planned(report))
    losses.write_text(text)
    planned(report)
    os.utime(code, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remarked == []
    trained = {"train/iresnet18_025-r1", "train/mobilenetv3_small_050-r1"}
    verified = {run.replace("train", "verify") for run in trained}
    assert {*changed} == trained | verified | {"integrity", "statistics", "figures"}


def test_another_statistic_embeds_no_image_again(report):
    bootstrap = report[0] / "facelib" / "verification" / "bootstrap.py"
    code = report[0] / "build" / "tiny" / "code" / "statistics.txt"
    text, before = bootstrap.read_text(), code.stat()
    bootstrap.write_text(text.replace("LEVEL = 0.95", "LEVEL = 0.9"))
    due = runs_in(planned(report))
    bootstrap.write_text(text)
    planned(report)
    os.utime(code, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert due == ["statistics", "figures"]


def test_a_parameter_of_one_run_in_the_profile_reruns_that_run_and_what_needs_it(report):
    profiles = report[0] / "notebooks" / "profiles.toml"
    parameters = report[0] / "build" / "tiny" / "parameters" / "train" / "iresnet18_025-r1.json"
    text, before = (
        profiles.read_text(),
        {file: file.stat() for file in (parameters, report[0] / "build/tiny/plan.json")},
    )
    profiles.write_text(text + '\n[tiny.runs."iresnet18_025-r1"]\nseed = 3\n')
    due = runs_in(planned(report))
    profiles.write_text(text)
    planned(report)
    for file, stat in before.items():
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert set(due) == {"train/iresnet18_025-r1", "verify/iresnet18_025-r1", "integrity", "statistics", "figures"}


def test_the_pdf_is_a_goal_of_its_own(report):
    checkout, words = report
    assert make(checkout, "--question", "report/report.pdf", *words[1:], check=False).returncode == 0


def test_an_image_more_among_the_training_faces_trains_again(report):
    checkout, words = report
    faces = next(word for word in words if word.startswith("DATA=")).removeprefix("DATA=") + "/faces"
    listing = checkout / "build" / "tiny" / "parameters" / "train_faces.json"
    before = listing.stat()
    image = Path(faces) / list_images(faces)[0]
    more = image.with_name("more.jpg")
    shutil.copy(image, more)
    due = runs_in(planned(report))
    more.unlink()
    planned(report)
    os.utime(listing, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert {"train/iresnet18_025-r1", "train/mobilenetv3_small_050-r1"} <= set(due) and "flops" not in due


def test_a_killed_run_leaves_nothing_that_passes_for_finished(report):
    due = set(runs_in((report[0] / "after the kill.txt").read_text()))
    assert {"train/iresnet18_025-r1", "train/mobilenetv3_small_050-r1"} <= due and "flops" not in due


def test_a_preview_typesets_what_is_finished_and_names_the_rest(report):
    assert re.search(r"Preview: \d+ runs are not finished", (report[0] / "preview.tex").read_text())
    assert "Preview" not in (report[0] / "figures" / "report.tex").read_text()


def test_a_changed_profile_reruns_only_what_changed(report):
    profiles = report[0] / "notebooks" / "profiles.toml"
    text = profiles.read_text()
    profiles.write_text(text.replace("mobilenetv3_small_050", "mobilenetv3_small_075"))
    due = runs_in(planned(report))
    profiles.write_text(text)
    planned(report)
    assert "train/mobilenetv3_small_075-r1" in due and "flops" in due
    assert not any("iresnet18_025" in name for name in due)


def test_a_corrupt_image_stops_make_before_any_training_and_is_named(report, tmp_path):
    checkout, _ = report
    sets.make_lfw(tmp_path / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2, seed=5)
    sets.make_identity_folder(tmp_path / "faces", identities=3, images_per_identity=4, seed=5)
    (tmp_path / "faces" / "landmarks.csv").unlink()
    culprit = tmp_path / "faces" / list_images(tmp_path / "faces")[5]
    culprit.write_bytes(culprit.read_bytes()[:2000])
    done = make(checkout, "report", "PROFILE=tiny", f"DATA={tmp_path}", check=False)
    assert done.returncode and str(culprit) in done.stderr and "Traceback" not in done.stderr


def test_what_is_wrong_with_the_test_data_stops_make_before_any_training(report, tmp_path):
    checkout, _ = report
    sets.make_identity_folder(tmp_path / "faces", identities=3, images_per_identity=4, seed=5)
    sets.make_lfw(tmp_path / "lfw", identities=8, images_per_identity=2, pairs_per_fold=2, folds=2, seed=5)
    with (tmp_path / "lfw" / "pairs.txt").open("r+") as pairs:
        text = pairs.read().replace("Synthetic_", "Synthetik_", 1)
        pairs.seek(0)
        pairs.write(text)
    done = make(checkout, "report", "PROFILE=tiny", f"DATA={tmp_path}", check=False)
    assert done.returncode and "images that the pairs file names are missing: Synthetik_" in done.stderr
    assert "Traceback" not in done.stderr and not runs_in(done.stdout)


@pytest.mark.parametrize(
    "words, message",
    [
        (["PROFILE=smal"], "PROFILE=smal is unknown"),
        (["PROFILE=small", "DATA=nowhere"], "PROFILE=small needs training images"),
        (["DATA=nowhere"], "DATA=nowhere has no data set for a report: "),
        (["DATA=my data"], "can't handle a path with spaces"),
        (["PYTHON="], "Python 3.11 or newer is needed"),
    ],
)
def test_a_wrong_word_is_answered_with_one_clear_message(checkout, words, message):
    done = make(checkout, "report", *words, check=False)
    assert done.returncode and message in done.stderr and "Traceback" not in done.stderr


def test_without_latex_make_stops_before_computing_with_the_line_to_type(checkout, tmp_path):
    # A PATH with what make needs, but neither latexmk nor apt-get.
    for tool in ("bash", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [shutil.which("make"), "report", f"PYTHON={sys.executable}"]
    path = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, env=path, check=False)
    assert done.returncode and "sudo apt-get install" in done.stderr and "latexmk" in done.stderr


def test_help_lists_the_commands(checkout):
    text = make(checkout, "help").stdout
    assert all(f"make {goal} " in text for goal in ("report", "test", "lab", "run", "preview", "lock"))
