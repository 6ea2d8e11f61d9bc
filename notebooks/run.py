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

import nbformat

from facelib import ROOT
from facelib.training.parameters import TYPES, convert


def declared_parameters(notebook: Path) -> dict[str, tuple[type, object]]:
    """Name -> (type, default) of the cell tagged `parameters`. Raises ValueError if it declares anything else."""
    cells = nbformat.read(notebook, as_version=4).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{notebook}: {len(tagged)} cells are tagged `parameters`, there must be one")
    found = {}
    for line in ast.parse(tagged[0]).body:
        if not isinstance(line, ast.AnnAssign) or ast.unparse(line.annotation) not in TYPES:
            kinds = ", ".join(TYPES)
            raise ValueError(f"{notebook}: `{ast.unparse(line)}` should be `name: type = default`, type {kinds}")
        found[line.target.id] = TYPES[ast.unparse(line.annotation)], ast.literal_eval(line.value)
    return found


def check_parameters(notebook: Path, given: dict[str, object]) -> dict[str, object]:
    """The given parameters in their declared types; strings, as a command line gives them, are converted.

    A notebook that declares `more: str` takes the parameters that it does not declare in there, as lines of YAML.
    Raises ValueError, listing what the notebook declares, for an undeclared name or a value of the wrong type.
    """
    declared = declared_parameters(notebook)
    listing = "\n".join(f"  {name}: {kind.__name__} = {default!r}" for name, (kind, default) in declared.items())
    checked = {}
    for name, value in (with_more(given, declared) if "more" in declared else given).items():
        if name not in declared:
            raise ValueError(f"{notebook.name} has no parameter {name!r}. It declares:\n{listing}")
        kind = declared[name][0]
        try:
            checked[name] = convert(value, kind)
        except ValueError:
            raise ValueError(
                f"{notebook.name}: parameter {name} must be {kind.__name__}, found {value!r}. It declares:\n{listing}"
            ) from None
    return checked


def with_more(given: dict[str, object], declared: dict) -> dict[str, object]:
    """The given parameters, those that are not declared as lines of YAML in one of them, `more`."""
    lines = [f"{name}: {json.dumps(value)}" for name, value in given.items() if name not in declared]
    if not lines:
        return given
    more = "\n".join(filter(None, [given.get("more"), *lines]))
    return {name: value for name, value in given.items() if name in declared} | {"more": more}


def run_notebook(notebook: Path, output: Path, given: dict[str, object]) -> None:
    """Execute the notebook, from the repository's root, into the copy `output`. Raises RuntimeError if a cell fails."""
    # Here, because they are slow to import and a wrong parameter should be told at once.
    import papermill
    import psutil

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
            stdout_file=sys.stdout, stderr_file=sys.stderr,
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
    notebook = Path(arguments.notebook)
    if notebook.suffix != ".ipynb":
        notebook = ROOT / "notebooks" / f"{arguments.notebook}.ipynb"
    try:
        if not notebook.is_file():
            there = ", ".join(sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")))
            raise ValueError(f"no notebook {arguments.notebook!r}. There are: {there}")
        given = json.loads(arguments.parameters.read_text()) if arguments.parameters else {}
        for word in arguments.given:
            name, equals, value = word.partition("=")
            if not equals:
                raise ValueError(f"{word!r} is not name=value")
            given[name] = value
        run_notebook(notebook, arguments.output, given)
    except (ValueError, RuntimeError, OSError) as error:
        sys.exit(f"\n{error}")
    except KeyboardInterrupt:
        sys.exit(f"\n{notebook.name}: interrupted. Finished runs are kept; the same command goes on with this one.")


if __name__ == "__main__":
    main()
