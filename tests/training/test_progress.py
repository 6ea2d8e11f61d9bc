"""What is seen of a run: its curves, and a loss that is no number."""

import numpy as np
import pandas as pd
import pytest
from small_runs import config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from facelib.training import train
from facelib.training.trainer import Run


def test_tensorboard_gets_the_curves_of_the_log(faces, tmp_path):
    train(config(faces, tmp_path / "run"))
    curves = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    for name in ("loss", "learning_rate", "images_per_second"):
        points = curves.Scalars(name)
        assert [point.step for point in points] == log.step.tolist()
        assert [point.value for point in points] == pytest.approx(log[name].tolist(), rel=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_tells_the_step(faces, tmp_path):
    with pytest.raises(FloatingPointError, match="step 2 of 6, learning rate"):
        train(config(faces, tmp_path / "run", learning_rate=1e30, clip=0.0, checkpoint_minutes=60.0))
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_keeps_the_last_good_checkpoint_and_names_the_images(faces, tmp_path, monkeypatch):
    step = Run.step

    def breaking(run, images, labels):
        loss = step(run, images, labels)
        return loss * float("nan") if run.done == 4 else loss

    monkeypatch.setattr(Run, "step", breaking)
    with pytest.raises(
        FloatingPointError, match="became nan at step 4 of 6, learning rate 0.00.*The batch's images: Synth"
    ) as told:
        train(config(faces, tmp_path / "run"))
    monkeypatch.undo()
    assert str(told.value).count(".jpg") == 8
    listed = (tmp_path / "run.unfinished" / "not-finite.txt").read_text().split()
    images = sorted(str(file.relative_to(faces)) for file in faces.glob("*/*.jpg"))
    shuffled = np.arange(16)
    np.random.default_rng([0, 1]).shuffle(shuffled)  # of the second epoch
    assert listed == [images[i] for i in shuffled[8:]]
    assert train(config(faces, tmp_path / "run"))["continued_after_steps"] == [3]
