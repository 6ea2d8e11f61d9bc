"""Notebooks are committed clean, declare typed parameters, and take no others."""

import json
import subprocess
import sys

import nbformat
import pytest

from facelib import ROOT
from facelib.training import Config
from notebooks.run import check_parameters, declared_parameters, run_notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_holds_no_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_declares_its_parameters_with_types_and_tells_its_story(path):
    declared = declared_parameters(path)
    assert declared
    assert all(type(default) is kind for kind, default in declared.values())
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# ")


@pytest.fixture
def notebook(tmp_path):
    """A notebook that writes its parameters into a file, or fails if asked to."""
    book = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell(
        "ratio: float = 0.5\nepochs: int = 2\nname: str = 'a'\nflip: bool = False\noutput: str = ''"
    )
    parameters.metadata["tags"] = ["parameters"]
    code = nbformat.v4.new_code_cell(
        "if name == 'fail': raise ValueError('name must not be fail')\n"
        "open(output, 'w').write(repr((ratio, epochs, name, flip)))"
    )
    book.cells = [parameters, code]
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(book, tmp_path / "example.ipynb")
    return tmp_path / "example.ipynb"


def test_parameters_are_converted_to_their_declared_types(notebook):
    given = {"ratio": "0.25", "epochs": "3", "name": "3", "flip": "true"}
    assert check_parameters(notebook, given) == {"ratio": 0.25, "epochs": 3, "name": "3", "flip": True}
    assert check_parameters(notebook, {"ratio": 1}) == {"ratio": 1.0}


def test_an_undeclared_parameter_is_an_error_that_lists_the_declared_ones(notebook):
    with pytest.raises(ValueError, match=r"no parameter 'ratoi'(.|\n)*ratio: float = 0.5(.|\n)*epochs: int = 2"):
        check_parameters(notebook, {"ratoi": "0.25"})


def test_what_train_does_not_declare_goes_into_more_and_is_checked_there():
    path = ROOT / "notebooks" / "train.ipynb"
    given = {"epochs": "3", "more": "clip: 1", "ema": "0.9", "aligned": False}
    checked = check_parameters(path, given)
    assert checked == {"epochs": 3, "more": 'clip: 1\nema: "0.9"\naligned: false'}
    config = Config.parse(checked["more"], data="a", output="b")
    assert (config.clip, config.ema, config.aligned) == (1.0, 0.9, False)
    assert {*declared_parameters(path)} - {"more"} <= {*Config.__dataclass_fields__}


@pytest.mark.parametrize(
    "name, value", [("epochs", "two"), ("epochs", 2.5), ("epochs", True), ("flip", "yes"), ("ratio", None), ("name", 3)]
)
def test_a_parameter_of_the_wrong_type_is_an_error_that_names_it(notebook, name, value):
    with pytest.raises(ValueError, match=f"example.ipynb: {name} must be"):
        check_parameters(notebook, {name: value})


def test_the_executed_copy_holds_the_parameters_and_the_original_stays_clean(notebook, tmp_path):
    before = notebook.read_bytes()
    run_notebook(notebook, tmp_path / "copy.ipynb", {"ratio": "0.25", "output": str(tmp_path / "result")})
    assert (tmp_path / "result").read_text() == "(0.25, 2, 'a', False)"
    assert "ratio = 0.25" in (tmp_path / "copy.ipynb").read_text()
    assert notebook.read_bytes() == before


def test_a_failed_notebook_leaves_no_copy_that_passes_for_finished_and_tells_the_cause(notebook, tmp_path):
    with pytest.raises(RuntimeError, match="example.ipynb: name must not be fail"):
        run_notebook(notebook, tmp_path / "copy.ipynb", {"name": "fail"})
    assert not (tmp_path / "copy.ipynb").exists()
    assert (tmp_path / "copy.failed.ipynb").exists()


# flops as it stands takes a minute: see test_make. So do the studies, but for few pairs and little light.
SHORT = {
    "evaluation_ladder": ["folds=2", "flip=false"],
    "low_light": ["folds=2", "most_stops=0"],
    "detectors": ["folds=2"],
}


@pytest.mark.parametrize("name", ["train", "verify", "explore", "integrity", "data", *SHORT])
def test_a_notebook_runs_as_it_stands_with_no_data_present(name, checkout):
    command = [sys.executable, "-m", "notebooks.run", name, f"build/run/{name}.ipynb", *SHORT.get(name, [])]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (checkout / "build" / "run" / f"{name}.ipynb").exists()
    assert not (checkout / "build" / "demo" / "plan.json").exists()


@pytest.mark.parametrize("name", ["figures", "statistics"])
def test_without_results_it_is_told_where_some_come_from(name, checkout):
    command = [sys.executable, "-m", "notebooks.run", name, f"build/run/{name}.ipynb"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "`make report PROFILE=demo` leaves some in build/demo" in done.stderr


def test_parameters_of_a_file_may_be_changed_on_the_command_line(tmp_path):
    (tmp_path / "run.json").write_text('{"epochs": 3, "seed": 4}')
    command = [sys.executable, "-m", "notebooks.run", "train", str(tmp_path / "copy.ipynb")]
    command += ["--parameters", str(tmp_path / "run.json"), "epochs=many"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "epochs must be int, found 'many'" in done.stderr
