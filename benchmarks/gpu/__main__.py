"""Check, time and train on this machine with a kit (benchmarks.gpu.kit): offline, and through in time by itself.

OUT gets log.txt, right.json, fast.json and runs-1.zip, whose runs are the report's once unpacked into build/<profile>.
What is done is in OUT, whole, even if this is killed. A failure is written down and the rest goes on.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# Of the time that is left and in seconds, what each part may take at most; the last one takes all.
SHARES = {"right": (0.25, 120), "fast": (0.3, 150), "grid": (1.0, 3600)}


def read_kit(kit: Path) -> dict:
    """kit.json. Raises ValueError, naming the piece, for a file that is missing or not as it was packed."""
    try:
        about = json.loads((kit / "code" / "kit.json").read_text())
        for name, digest in about["files"].items():
            if hashlib.sha256((kit / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{kit / name}: damaged. Send the kit's piece {name.split('/')[0]} again.")
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: missing. Name the folder with all of the kit's pieces.") from None
    return about


def install(wheels: Path, folder: Path) -> None:
    """Make importable what this machine lacks of the kit's wheels."""
    missing = [str(file) for file in wheels.glob("*.whl") if not importlib.util.find_spec(file.name.split("-")[0])]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", f"--target={folder}"]
        subprocess.run([*pip, *missing], check=True)
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="auto", help="cuda or cpu")
    parser.add_argument("--parts", nargs="+", default=[*SHARES], choices=[*SHARES])
    parser.add_argument("--heavy", default="", help='another recipe: "learning_rate=0.2 epochs=6"')
    parser.add_argument("--light", default="", help="the light backbone's")
    parser.add_argument("--runs", default="*", help="of the grid only these: a pattern, as in 'iresnet50-*'")
    asked = parser.parse_args()
    end = time.monotonic() + 60 * asked.minutes - 10
    about = read_kit(asked.kit)
    with tempfile.TemporaryDirectory() as work:
        install(asked.kit / "wheels", Path(work) / "site")
        from benchmarks.gpu import fast, grid, right  # now that all is there which they import
        from benchmarks.gpu.bench import Bench

        bench = Bench(asked.kit, about, asked.out, Path(work), asked.device)
        runs = partial(grid.runs, heavy=grid.recipe(asked.heavy), light=grid.recipe(asked.light), only=asked.runs)
        runs(bench)  # a recipe that can't be is told now
        # A part's names -> the seconds that it needs and what to call; the grid's when it is known what is fast.
        parts = {"right": right.checks, "fast": fast.measurements, "grid": runs}
        for part in asked.parts:
            share, most = SHARES[part] if part != asked.parts[-1] else (1.0, 3600)
            bench.until = time.monotonic() + min(share * (end - time.monotonic()), most)
            for name, (seconds, call) in parts[part](bench).items():
                bench.measure(part, name, seconds, call)
        bench.say("through")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        sys.exit(f"\n{error}")
