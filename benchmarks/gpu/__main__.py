"""Check, time and train on this machine with a kit (benchmarks.gpu.kit): offline, and through in time by itself.

OUT gets right.json, fast.json, grid.json and runs.zip, whose runs are the report's once unpacked into build/<profile>.
What is done is in OUT, whole, even if this is killed. A failure is written down and the rest goes on.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import yaml

# Of the time that is left and in seconds, what each part may take at most; the last one takes all.
PARTS = {"right": (0.25, 120), "fast": (0.3, 150), "grid": (1.0, 3600)}


def install(wheels: Path, folder: str) -> None:
    """Make importable what this machine lacks of the kit's wheels."""
    missing = [str(file) for file in wheels.glob("*.whl") if not importlib.util.find_spec(file.name.split("-")[0])]
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", f"--target={folder}"]
        subprocess.run([*pip, *missing], check=True)
        sys.path.append(folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda", help="or cpu")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=[*PARTS])
    parser.add_argument("--runs", default="*", help="of the grid only these: a pattern, as in 'iresnet50-*'")
    parser.add_argument("--heavy", type=yaml.safe_load, default={}, help="another recipe: '{learning_rate: 0.2}'")
    parser.add_argument("--light", type=yaml.safe_load, default={}, help="the light backbone's")
    asked = parser.parse_args()
    end = (began := time.monotonic()) + 60 * asked.minutes - 10
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        install(asked.kit / "wheels", f"{work}/site")
        from benchmarks.gpu import grid, right, speed  # now that all is there which they import
        from benchmarks.gpu.kit import Kit

        kit = Kit(asked.kit, Path(work), asked.device)
        runs = grid.runs(kit, asked.out, asked.heavy, asked.light, asked.runs)  # a recipe that can't be is told now
        of = {"right": right.checks, "fast": speed.measurements, "grid": partial(grid.train, out=asked.out, runs=runs)}
        for part in asked.parts:
            share, most = PARTS[part] if part != asked.parts[-1] else (1.0, 3600)
            until, found = time.monotonic() + min(share * (end - time.monotonic()), most), {}
            for name, measured in of[part](kit, until):
                found[name] = measured
                unfinished = asked.out / f"{part}.partial"
                unfinished.write_text(json.dumps({"environment": kit.environment} | found, indent=2))
                unfinished.replace(asked.out / f"{part}.json")
                shown = (f"{key} {v:.4g}" if isinstance(v, float) else f"{key} {v}" for key, v in measured.items())
                print(f"{time.monotonic() - began:4.0f} s  {part}: {name}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, ValueError, TypeError, subprocess.CalledProcessError) as error:
        sys.exit(f"\n{error}")
