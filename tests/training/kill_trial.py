"""Kill a run again and again, wherever it is, until it ends: its weights are those of the run that was never killed.

    python tests/training/kill_trial.py [KILLS] [SEED]    # 50 kills take two minutes

Each process of the run is killed by SIGKILL at a point that is drawn: before or after a step, before, amid or after the
writing of a file, before or after any call that syncs, renames or deletes one, or after a time, wherever that is. The
next process goes on, and is killed too, until as many died as were asked for and the last run of them is finished.
The weights are compared bit for bit, and so is the log but for its times.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch

from facelib.synthetic import sets
from facelib.training import Config, train
from facelib.training.trainer import Run

POINTS = ((Run, "step"), (os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "unlink"))
POINTS += ((shutil, "rmtree"), (safetensors.torch, "save_file"))


class Points:
    """Counts the points where a process can be killed, names each, and kills it at the one numbered `at`."""

    def __init__(self, at: int | None, say: Callable[[str], None]):
        self.at, self.say, self.seen = at, say, []
        for owner, name in POINTS:
            setattr(owner, name, self.around(getattr(owner, name), name))

    def around(self, function, name: str):
        def called(*arguments, **options):
            self.reach(f"before {name}")
            if name == "save_file" and self.reach(f"amid {name}", kill=False):
                function(*arguments, **options)
                os.truncate(arguments[1], os.path.getsize(arguments[1]) // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            found = function(*arguments, **options)
            self.reach(f"after {name}")
            return found

        return called

    def reach(self, what: str, kill: bool = True) -> bool:
        self.seen.append(what)
        reached = len(self.seen) == self.at
        if reached:
            self.say(what)
        if reached and kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return reached


def in_child(config: Config, at: int | None = None, seconds: float | None = None) -> tuple[bool, list[str]]:
    """Train in a forked process, which is killed at a point or after so many seconds. Whether it was; its points."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        code = 1
        try:
            points = Points(at, lambda what: os.write(write, f"{what}\n".encode()))
            train(config)
            points.say("\n".join(points.seen))
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as said:
        lines = said.read().splitlines()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"the run failed: {lines[-3:]}")
    return killed, [line for line in lines if line.startswith(("before", "amid", "after"))]


def main(kills: int = 50, seed: int = 0) -> dict[str, int]:
    """Returns how many were killed at which kind of point. Raises AssertionError if a run ends otherwise."""
    torch.set_num_threads(1)  # forked processes can't share a pool of threads
    draw, where, ends = random.Random(seed), {}, 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sets.make_identity_folder(folder / "faces", identities=4, images_per_identity=4, seed=3)

        def config(name: str) -> Config:
            small = {"backbone": "iresnet18_025", "embedding_size": 32, "epochs": 3, "batch_size": 6, "ema": 0.9}
            return Config(
                str(folder / "faces"), str(folder / name), str(folder / "cache"), checkpoint_minutes=0, **small
            )

        began = time.perf_counter()
        _, points = in_child(config("whole"))
        seconds = time.perf_counter() - began
        expected = outcome(folder / "whole")
        steps = [k for k, what in enumerate(points, 1) if what.endswith(" step")]
        # The first and the last step, the first checkpoint's writing and the last file's, then any.
        first = [steps[0], steps[1], steps[-2], steps[-1], steps[1] + 1, steps[1] + 2, steps[1] + 4, len(points)]
        first = [*first, *(k for k, what in enumerate(points, 1) if what == "amid save_file")][: max(1, kills // 2)]
        while sum(where.values()) < kills:
            shutil.rmtree(folder / "run", ignore_errors=True)
            killed = True
            while killed:  # this run, until it is finished
                if sum(where.values()) >= kills:
                    at, after = None, None
                elif first:
                    at, after = first.pop(), None
                elif draw.random() < 0.3:
                    at, after = None, draw.uniform(0, seconds)
                else:
                    at, after = draw.randint(1, len(points)), None
                killed, said = in_child(config("run"), at, after)
                if killed:
                    what = "after a time" if at is None else said[-1]
                    where[what] = where.get(what, 0) + 1
            assert outcome(folder / "run") == expected, f"after {sum(where.values())} kills the run ended otherwise"
            assert not list(folder.glob("run.*")), "something was left beside the run"
            ends += 1
    return where | {"runs": ends}


def outcome(run: Path) -> tuple:
    """The weights' bytes, the head's and the log without its times."""
    log = pd.read_csv(run / "log.csv")[["step", "epoch", "learning_rate", "loss"]]
    files = [safetensors.torch.load_file(run / name) for name in ("weights.safetensors", "head.safetensors")]
    return log.to_csv(), *({name: tensor.numpy().tobytes() for name, tensor in found.items()} for found in files)


if __name__ == "__main__":
    for what, count in main(*map(int, sys.argv[1:])).items():
        print(f"{count:4d} {what}")
