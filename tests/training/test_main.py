"""The command: a run by a file of parameters, what a SIGTERM leaves, and runs that are only checked."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small_runs import config

from facelib import ROOT
from facelib.training import checkpoint
from facelib.training.__main__ import main

COMMAND = [sys.executable, "-m", "facelib.training"]


def test_a_sigterm_leaves_a_checkpoint_and_one_sentence(faces, tmp_path):
    asked = config(faces, tmp_path / "run", epochs=400, checkpoint_minutes=60.0)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(vars(asked)))
    running = subprocess.Popen([*COMMAND, tmp_path / "run.yaml"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "run.unfinished" / "tensorboard").glob("*")):
        time.sleep(0.1)
        assert running.poll() is None
    time.sleep(1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1 and "Traceback" not in said
    step = int(re.search(r"ended by SIGTERM after step (\d+) of 800. The same command goes on", said)[1])
    (file,) = checkpoint.saved(tmp_path / "run.unfinished" / "checkpoints")
    assert file.name == f"step-{step:08d}.safetensors"


def test_runs_are_checked_all_at_once_without_training(faces, tmp_path, monkeypatch, capsys):
    files = {}
    for name, other in {"good": {}, "wrong": {"epochs": 0}, "misspelt": {"epoch": 3}, "empty": {"ratio": 0.1}}.items():
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps({"data": str(faces), "output": str(tmp_path / "run"), **other}))
    for name, message in {"wrong": "epochs must be above 0", "misspelt": "epoch", "empty": "ratio 0.1 leaves"}.items():
        monkeypatch.setattr(sys, "argv", ["facelib.training", "--check", str(files["good"]), str(files[name])])
        with pytest.raises(SystemExit, match=f"{name}.json: .*{message}"):
            main()
        assert "good.json: 16 images of 4 identities" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
