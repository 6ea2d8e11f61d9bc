"""Run one notebook with other parameters, by papermill, with those checks that papermill leaves out.

    python -m notebooks.run train build/train.ipynb ratio=0.25 backbone=efficientnet_b3
    python -m notebooks.run train build/train.ipynb --parameters file.json

A notebook's first code cell, tagged `parameters`, declares them: `name: type = default`, the type int, float, str or
bool. The executed copy appears when the notebook has run to its end; a failed one is left as `<output>.failed.ipynb`.
"""

import argparse
import ast
import json
import os
import signal
import sys
from pathlib import Path

import papermill
import psutil

from facelib import ROOT
from facelib.training.config import convert

QUIET = ["--log-level=CRITICAL"]  # of the kernel, which else tells in every run that nothing is encrypted
TYPES = {"int": int, "float": float, "str": str, "bool": bool}


def declared_parameters(notebook: Path) -> dict[str, tuple[type, object]]:
    """Name -> (type, default) of the cell tagged `parameters`."""
    declared = papermill.inspect_notebook(str(notebook)).values()
    return {one["name"]: (TYPES[one["inferred_type_name"]], ast.literal_eval(one["default"])) for one in declared}


def check_parameters(notebook: Path, given: dict[str, object]) -> dict[str, object]:
    """The given parameters in their declared types; strings, as a command line gives them, are converted.

    A notebook that declares `more: str` takes the parameters that it does not declare in there, as lines of YAML.
    Raises ValueError for an undeclared name or a value of the wrong type.
    """
    declared = declared_parameters(notebook)
    others = [name for name in given if name not in declared]
    if others and "more" not in declared:
        listing = "\n".join(f"  {name}: {kind.__name__} = {default!r}" for name, (kind, default) in declared.items())
        raise ValueError(f"{notebook.name} has no parameter {others[0]!r}. It declares:\n{listing}")
    kept = {name: value for name, value in given.items() if name in declared}
    if others:
        lines = [f"{name}: {json.dumps(given[name])}" for name in others]
        kept["more"] = "\n".join(filter(None, [given.get("more"), *lines]))
    return {name: convert(value, declared[name][0], f"{notebook.name}: {name}") for name, value in kept.items()}


def run_notebook(notebook: Path, output: Path, given: dict[str, object]) -> None:
    """Execute the notebook, from the repository's root, into the copy `output`. Raises RuntimeError if a cell fails."""
    parameters = check_parameters(notebook, given)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Warnings of packages about each other are none of the reader's business.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    partial, failed = output.with_suffix(".partial.ipynb"), output.with_suffix(".failed.ipynb")
    # A SIGTERM is the kernel's business: a run that is trained there leaves a checkpoint and ends.
    before = signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in psutil.Process().children()])
    try:
        papermill.execute_notebook(
            notebook, partial, parameters, kernel_name="python3", language="python", cwd=ROOT, progress_bar=False,
            stdout_file=sys.stdout, stderr_file=sys.stderr, extra_arguments=QUIET,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        partial.replace(failed)
        if error.ename == "Preempted":
            raise RuntimeError(error.evalue) from None
        raise RuntimeError(f"{notebook.name}: {error.evalue}\n({error.ename}; the executed copy is {failed})") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    failed.unlink(missing_ok=True)
    partial.replace(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", help="name of a notebook in notebooks/, or its path")
    parser.add_argument("output", type=Path, help="where the executed copy goes")
    parser.add_argument("given", nargs="*", metavar="name=value", help="parameters")
    parser.add_argument("--parameters", type=Path, metavar="FILE", help="parameters from a JSON file")
    arguments = parser.parse_intermixed_args()
    name = arguments.notebook
    notebook = Path(name if name.endswith(".ipynb") else ROOT / "notebooks" / f"{name}.ipynb")
    try:
        given = json.loads(arguments.parameters.read_text()) if arguments.parameters else {}
        if wrong := [word for word in arguments.given if "=" not in word]:
            raise ValueError(f"{wrong[0]!r} is not name=value")
        given |= dict(word.split("=", 1) for word in arguments.given)
        run_notebook(notebook, arguments.output, given)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{notebook.name}: interrupted. Finished runs are kept; the same command goes on with this one.")


if __name__ == "__main__":
    main()
