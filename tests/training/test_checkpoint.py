"""A run is never lost: what stops it, what is kept, what goes on from it and what is refused."""

import json
import subprocess
import sys

import kill_trial
import pandas as pd
import pytest
import safetensors.torch
from small_runs import config, unfinished, weights

from facelib import ROOT
from facelib.synthetic import sets
from facelib.training import checkpoint, train
from facelib.training.trainer import Run


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_bits():
    """tests/training/kill_trial.py, at a size for every day; its own is 50 kills."""
    counts = kill_trial.main(kills=8, seed=1)
    assert sum(counts.values()) - counts["runs"] == 8


OPTIONS = [
    {"optimizer": "adamw", "learning_rate": 1e-3},
    {"ema": 0.9, "schedule": "cosine"},
    {"accumulate": 2, "precision": "bf16"},
    {"sample_rate": 0.75},
    {"workers": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: next(iter(options)))
def test_with_every_option_a_run_goes_on_as_if_it_had_not_been_stopped(faces, tmp_path, options):
    unfinished(faces, tmp_path / "run", number=3, **options)
    metrics = train(config(faces, tmp_path / "run", **options))
    train(config(faces, tmp_path / "whole", **options))
    assert metrics["continued_after_steps"] == [3] and metrics["steps"] == 6
    for name in ("weights", "head"):
        assert weights(tmp_path / "run", name) == weights(tmp_path / "whole", name)
    losses = [pd.read_csv(tmp_path / name / "log.csv").loss.tolist() for name in ("run", "whole")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


def test_two_checkpoints_are_kept_while_it_runs_and_none_afterwards(faces, tmp_path):
    left = unfinished(faces, tmp_path / "run")
    assert [file.name for file in checkpoint.saved(left)] == ["step-00000003.safetensors", "step-00000004.safetensors"]
    train(config(faces, tmp_path / "run"))
    assert not (tmp_path / "run.unfinished").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(faces, tmp_path, capsys):
    last = checkpoint.saved(unfinished(faces, tmp_path / "run"))[-1]
    content = bytearray(last.read_bytes())
    content[-9] ^= 1
    last.write_bytes(content)
    metrics = train(config(faces, tmp_path / "run"))
    assert f"{last}: a damaged checkpoint" in capsys.readouterr().out
    assert metrics["continued_after_steps"] == [3]
    train(config(faces, tmp_path / "whole"))
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut off", "empty", "no safetensors"])
def test_where_all_are_damaged_the_run_begins_anew_and_says_so(faces, tmp_path, capsys, damage):
    for file in checkpoint.saved(unfinished(faces, tmp_path / "run")):
        content = file.read_bytes()
        file.write_bytes({"cut off": content[:-100], "empty": b"", "no safetensors": b"\x80\x04nonsense" * 9}[damage])
    assert train(config(faces, tmp_path / "run"))["continued_after_steps"] == []
    assert "no checkpoint is whole, the run begins anew" in capsys.readouterr().out


def test_a_checkpoint_is_a_safetensors_file_with_json(faces, tmp_path):
    """Nothing in it is a program, and all that a run draws by chance is there."""
    file = checkpoint.saved(unfinished(faces, tmp_path / "run"))[-1]
    with safetensors.safe_open(file, "pt") as opened:
        names, state = {*opened.keys()}, json.loads(opened.metadata()["state"])
    assert {"random.flips", "random.torch", "log", "head.weight", "backbone.fc.weight"} <= names
    assert "optimizer.head.weight.momentum_buffer" in names
    assert state["step"] == 4 and state["config"]["batch_size"] == 8 and "scaler" in state


def test_other_parameters_are_refused_by_name_but_for_those_that_change_no_result(faces, tmp_path):
    unfinished(faces, tmp_path / "run")
    with pytest.raises(
        ValueError, match="run.unfinished: holds an unfinished run.*learning_rate 0.02, now 0.5; seed 0, now 3"
    ):
        train(config(faces, tmp_path / "run", learning_rate=0.5, seed=3))
    metrics = train(config(faces, tmp_path / "run", workers=1, checkpoint_minutes=7.0))
    assert metrics["continued_after_steps"] == [4]


def test_another_data_set_is_refused(tmp_path):
    folder = tmp_path / "faces"
    sets.make_identity_folder(folder, identities=3, images_per_identity=4, seed=5)
    unfinished(folder, tmp_path / "run", number=1)
    image = next(folder.glob("*/*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="data set [0-9a-f]{12}, now [0-9a-f]{12}"):
        train(config(folder, tmp_path / "run"))


def test_a_second_run_into_the_same_folder_is_refused(faces, tmp_path, monkeypatch):
    class Nested(Exception):
        pass

    def second(run, *batch) -> None:
        command = [sys.executable, "-m", "facelib.training", tmp_path / "run.json"]
        (tmp_path / "run.json").write_text(json.dumps(vars(config(faces, tmp_path / "run"))))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "run: another run is training into it. Wait for it, or name another output" in done.stderr
        raise Nested

    monkeypatch.setattr(Run, "step", second)
    with pytest.raises(Nested):
        train(config(faces, tmp_path / "run"))


def test_a_folder_that_is_no_run_of_ours_is_left_as_it_is(faces, tmp_path):
    (tmp_path / "run.unfinished").mkdir()
    (tmp_path / "run.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"run.unfinished: will not be replaced.*thesis.txt"):
        train(config(faces, tmp_path / "run"))
    assert (tmp_path / "run.unfinished" / "thesis.txt").read_text() == "mine"


def test_what_a_kill_left_half_written_is_cleared_away(faces, tmp_path):
    """safetensors writes into .tmp<letters> and renames."""
    unfinished(faces, tmp_path / "run")
    for name in (".tmpAbC123", "validation.partial", "checkpoints/.tmpXyZ789", "checkpoints/step-00000005.partial"):
        (tmp_path / "run.unfinished" / name).write_text("half")
    train(config(faces, tmp_path / "run"))
    whole = {"weights.safetensors", "head.safetensors", "parameters.json", "metrics.json", "log.csv"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == whole | {"environment.json", "tensorboard"}


def test_others_may_read_the_weights_as_they_may_the_other_files(faces, tmp_path):
    train(config(faces, tmp_path / "run", epochs=1))
    assert len({file.stat().st_mode for file in (tmp_path / "run").iterdir() if file.is_file()}) == 1
