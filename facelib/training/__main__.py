"""Train one backbone by a file of parameters, or say whether runs can be made.

python -m facelib.training run.yaml                                   # lines `parameter: value`
torchrun --nproc-per-node=8 -m facelib.training run.yaml              # on one host or many that share the folders
python -m facelib.training --check PARAMETERS.json ...                # nothing is trained
"""

import argparse
import sys

from facelib.data import open_faces
from facelib.training.config import Config
from facelib.training.machine import Preempted
from facelib.training.trainer import train
from facelib.verification.validation import measures_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m facelib.training", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help="parameters of a run, YAML or JSON")
    parser.add_argument("--check", action="store_true", help="say whether these runs can be made")
    arguments = parser.parse_args()
    if len(arguments.files) > 1 and not arguments.check:
        parser.error("one run at a time is trained")
    for file in arguments.files:
        try:
            check(file) if arguments.check else run(file)
        except KeyboardInterrupt:
            print(f"\n{file}: interrupted. The same command goes on.", file=sys.stderr)
            sys.exit(130)
        except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError, Preempted) as error:
            named = not arguments.check or file in str(error)
            sys.exit(f"\n{error}" if named else f"\n{file}: {error}")


def run(file: str) -> None:
    config = Config.read(file)
    train(config, measures_of(config.validate, config.cache, config.device))


def check(file: str) -> None:
    config = Config.read(file)
    config.check()
    faces = open_faces(config.data, config.ratio, config.seed, config.keep_one)
    print(f"{file}: {len(faces)} images of {len(faces.identities)} identities")


if __name__ == "__main__":
    main()
