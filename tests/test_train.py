"""Training: the schedule, what a run leaves, and what it refuses before the first step."""

import json
import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facelib import ROOT, run_state, synthetic
from facelib import train as train_module
from facelib.pretrained import load_embedder
from facelib.train import train
from facelib.training_config import Config
from facelib.validation import measures_of
from facelib.verification import verify


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "faces"
    synthetic.make_identity_folder(folder, identities=4, images_per_identity=4, seed=3)
    return folder


def config(faces, folder, **other):
    small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 3, "batch_size": 8, "learning_rate": 0.02}
    return Config(**({"data": str(faces), "output": str(folder)} | small | other))


def test_a_decay_as_long_as_if_all_images_were_seen_hardly_lowers_the_rate_of_a_small_share(faces, tmp_path):
    """The published run's schedule: of 16 images a ratio of 0.5 keeps 8, so its decay is half done at the end."""
    train(config(faces, tmp_path / "run", ratio=0.5, batch_size=2, epochs=1, power=1.0, decay_over="full"))
    rates = pd.read_csv(tmp_path / "run" / "log.csv").learning_rate
    assert list(rates) == pytest.approx([0.02 * (1 - step / 8) for step in range(4)])


def test_a_run_leaves_a_folder_that_says_how_to_repeat_it_and_embeds(faces, tmp_path):
    metrics = train(config(faces, tmp_path / "run"))
    files = {file.name for file in (tmp_path / "run").iterdir()}
    expected = {
        "weights.safetensors",
        "head.safetensors",
        "parameters.json",
        "metrics.json",
        "log.csv",
        "environment.json",
        "tensorboard",
    }
    assert files == expected
    assert json.loads((tmp_path / "run" / "parameters.json").read_text())["backbone"] == "iresnet18_025"
    assert metrics["images"] == 16 and metrics["identities"] == 4 and metrics["steps"] == 6
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(environment["data"]) == 12
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert list(log.step) == list(range(1, 7))
    assert load_embedder(tmp_path / "run").embed(torch.zeros(2, 3, 112, 112, dtype=torch.uint8)).shape == (2, 32)


@pytest.mark.parametrize("loss", ["arcface", "softmax"])
def test_training_lowers_the_loss(faces, tmp_path, loss):
    metrics = train(config(faces, tmp_path / "run", loss=loss, epochs=8, scale=16.0, margin=0.2))
    assert metrics["last_epoch_loss"] < 0.7 * metrics["first_loss"]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(faces, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(faces, tmp_path / name, epochs=1, seed=seed))
        weights.append(safetensors.torch.load_file(tmp_path / name / "weights.safetensors")["fc.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_autocast_to_bf16_trains_too(faces, tmp_path):
    metrics = train(config(faces, tmp_path / "run", epochs=1, batch_size=4, precision="bf16"))
    assert metrics["precision"] == "bf16" and np.isfinite(metrics["last_epoch_loss"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"loss": "cosface"}, "loss must be one of arcface, softmax"),
        ({"optimizer": "lamb"}, "optimizer must be one of"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"margin": -0.1}, r"margin must be in \[0, pi/2\]"),
        ({"margin": 28.6}, r"margin must be in \[0, pi/2\] radians"),
        ({"seed": -1}, "seed must not be below 0"),
        ({"seed": 2**63}, "seed must be below 2.63"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number, found inf"),
        ({"data": ""}, "data is empty: name a folder"),
        ({"output": ""}, "output is empty: name a folder"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"ratio": 0.1}, "ratio 0.1 leaves 0 of 4 identities.*raise ratio, or set keep_one"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\]"),
        ({"backbone": "efficientnet_b33"}, "efficientnet_b3"),
        ({"device": "cuda"}, "no CUDA GPU"),
    ],
)
def test_a_wrong_parameter_is_told_before_training_and_leaves_nothing(faces, tmp_path, wrong, message):
    if wrong == {"device": "cuda"} and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ValueError, match=message):
        train(config(faces, tmp_path / "run", **wrong))
    assert not (tmp_path / "run").exists()


def test_a_missing_data_folder_is_named_with_what_is_beside_it(faces, tmp_path):
    with pytest.raises(FileNotFoundError, match="facess: no such data folder.*faces"):
        train(config(faces.with_name("facess"), tmp_path / "run"))


def test_a_ratio_that_leaves_nothing_is_told_before_faces_are_detected(faces, tmp_path, monkeypatch):
    def detect(*_):
        raise AssertionError("detection takes minutes")

    monkeypatch.setattr(train_module, "find_landmarks", detect)
    with pytest.raises(ValueError, match="ratio 0.1 leaves 0 of 4 identities"):
        train(config(faces, tmp_path / "run", ratio=0.1))


def test_faces_not_found_are_counted_only_where_they_were_detected(faces, tmp_path):
    assert train(config(faces, tmp_path / "run", epochs=1))["faces_not_found"] is None  # landmarks came with them


def test_a_folder_that_is_not_an_earlier_run_is_not_replaced(faces, tmp_path):
    with pytest.raises(FileExistsError, match="faces: will not be replaced.*Synthetic_"):
        train(config(faces, faces))
    assert list(faces.glob("*/*.jpg"))


def test_a_loss_that_is_not_finite_stops_the_run_and_tells_the_step(faces, tmp_path):
    with pytest.raises(FloatingPointError, match="step 2 of 6, learning rate"):
        train(config(faces, tmp_path / "run", learning_rate=1e30, clip=0.0))
    assert not (tmp_path / "run").exists()


def test_weights_that_the_last_step_breaks_are_not_kept(faces, tmp_path):
    # Two steps an epoch: the second's loss is still that of weights which the first left finite.
    with pytest.raises(FloatingPointError, match="not finite after the last step. Lower learning_rate"):
        train(config(faces, tmp_path / "run", epochs=1, batch_size=16, learning_rate=1e38, weight_decay=1e38, clip=0.0))
    assert not (tmp_path / "run").exists()


def check(*parameters) -> subprocess.CompletedProcess:
    """What the check of runs says before anything is computed."""
    return subprocess.run(
        [sys.executable, "-m", "facelib.train", "--check", *parameters], cwd=ROOT, capture_output=True, text=True
    )


def test_runs_are_checked_all_at_once_without_training(faces, tmp_path):
    for name, other in {"good": {}, "wrong": {"epochs": 0}, "misspelt": {"epoch": 3}, "empty": {"ratio": 0.1}}.items():
        asked = {"data": str(faces), "output": str(tmp_path / "run"), **other}
        (tmp_path / f"{name}.json").write_text(json.dumps(asked))
    good = check(tmp_path / "good.json")
    assert good.returncode == 0 and "good.json: 16 images of 4 identities" in good.stdout
    for name, message in {"wrong": "epochs must be above 0", "misspelt": "epoch", "empty": "ratio 0.1 leaves"}.items():
        done = check(tmp_path / "good.json", tmp_path / f"{name}.json")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert f"{name}.json" in done.stderr and message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_file_system_that_takes_no_file_of_that_size_is_told_before_training(faces, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError, match="run: no space left on the disk .* Make room and run it again"):
            train(config(faces, tmp_path / "run"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_training(faces, tmp_path):
    """On a real file system of one megabyte, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(OSError, match="run: no space left on the disk .* Make room and run it again"):
            train(config(faces, disk / "run", cache=str(tmp_path)))
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_measures_after_each_epoch_are_written_down_and_choose_nothing(faces, tmp_path):
    synthetic.make_lfw(
        tmp_path / "lfw", identities=6, images_per_identity=2, pairs_per_fold=2, folds=2, seed=4, first_identity=9
    )
    options = {"cache": str(tmp_path), "checkpoint_minutes": 0.0}
    looked = config(faces, tmp_path / "looked", validate=str(tmp_path / "lfw"), **options)
    with pytest.raises(ValueError, match="validate is set: hand"):
        train(looked)
    train(looked, measures_of(looked))
    train(config(faces, tmp_path / "not", **options))
    looked, blind = (safetensors.torch.load_file(tmp_path / of / "weights.safetensors") for of in ("looked", "not"))
    assert all(torch.equal(looked[name], blind[name]) for name in blind)
    table = pd.read_csv(tmp_path / "looked" / "validation.csv")
    assert table.epoch.tolist() == [1, 2, 3] and table.auc.between(0, 1).all() and (table.pairs == 8).all()
    last = verify(str(tmp_path / "looked"), str(tmp_path / "lfw"), str(tmp_path / "verified"))
    assert last["auc"] == pytest.approx(table.auc.iloc[-1])


def test_tensorboard_gets_the_curves_of_the_log(faces, tmp_path):
    train(config(faces, tmp_path / "run"))
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    for name in ("loss", "learning_rate", "images_per_second"):
        points = curves.Scalars(name)
        assert [point.step for point in points] == log.step.tolist()
        assert [point.value for point in points] == pytest.approx(log[name].tolist(), rel=1e-6)


def test_a_moving_average_is_what_is_kept_of_a_run_that_asks_for_one(faces, tmp_path):
    """w = d w + (1 - d) v after every step, from the first step's weights on."""
    seen = []
    step = run_state.Run.train_step
    with pytest.MonkeyPatch.context() as patched:

        def watched(run, *batch):
            loss = step(run, *batch)
            seen.append(run.backbone.state_dict()["fc.weight"].clone())
            return loss

        patched.setattr(run_state.Run, "train_step", watched)
        train(config(faces, tmp_path / "run", ema=0.75))
    expected = seen[0]
    for weights in seen[1:]:
        expected = 0.75 * expected + 0.25 * weights
    kept = safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors")["fc.weight"]
    assert torch.allclose(kept, expected, atol=1e-7) and not torch.allclose(kept, seen[-1], atol=1e-5)


def test_weights_decay_but_norms_and_biases_only_if_asked(faces, tmp_path):
    """With a decay that is all there is, since the rate is next to nothing otherwise."""
    shrunk = {}
    for decay_norms in (True, False):
        options = {
            "weight_decay": 5.0,
            "learning_rate": 1e-2,
            "clip": 1e-12,
            "momentum": 0.0,
            "decay_norms": decay_norms,
        }
        train(config(faces, tmp_path / f"{decay_norms}", epochs=1, **options))
        shrunk[decay_norms] = safetensors.torch.load_file(tmp_path / f"{decay_norms}" / "weights.safetensors")
    assert (shrunk[True]["bn1.weight"] < 0.99).all() and torch.allclose(shrunk[False]["bn1.weight"], torch.ones(1))
    assert torch.allclose(shrunk[True]["conv1.weight"], shrunk[False]["conv1.weight"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs: 3", "data is missing"),
        ("data: a\noutput: b\nepoch: 3", "there is no parameter 'epoch'"),
        ("data: a\noutput: b\nepochs: many", "epochs must be int, found 'many'"),
        ("data: a\noutput: b\nlearning_rate: 1" + 400 * "0", "learning_rate must be float"),
        ("- a\n- b", "expected lines `parameter: value`"),
    ],
)
def test_a_file_of_parameters_that_does_not_fit_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"run.yaml: {message}"):
        Config.read(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    "content", [b"data: [a\noutput: x\n", b'{"data": "a"', b"data:\ta: b", b"data: \xe9", b"a: \0"]
)
def test_what_is_neither_yaml_nor_json_is_told_with_its_file(tmp_path, content):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"run.yaml(, line \d)?: is neither YAML nor JSON \(.+\)"):
        Config.read(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match="nothing.yaml: can't be read .No such file"):
        Config.read(tmp_path / "nothing.yaml")


def test_a_file_of_parameters_may_write_numbers_as_people_do(tmp_path):
    (tmp_path / "run.yaml").write_text("data: a\noutput: b\nlearning_rate: 1e-3\nepochs: 3\nratio: 1\naligned: false\n")
    found = Config.read(tmp_path / "run.yaml")
    assert (found.learning_rate, found.epochs, found.ratio, found.aligned) == (1e-3, 3, 1.0, False)
