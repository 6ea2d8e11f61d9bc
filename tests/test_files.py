"""Results appear whole or not at all, and replace nothing but an earlier result."""

import errno
import json

import pytest

from facelib import records
from facelib.files import whole_folder, written_aside

FILES = ("result", "log")


def test_a_result_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "run", FILES) as folder:
        (folder / "log").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "run", FILES) as folder:
        (folder / "result").write_text("new")
        assert not (tmp_path / "run").exists()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["result"]


def test_what_a_killed_run_left_is_not_taken_over(tmp_path):
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "log").write_text("half")
    with whole_folder(tmp_path / "run", FILES) as folder:
        assert list(folder.iterdir()) == []


def earlier(tmp_path, name="run"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "result").write_text("old")


def test_an_earlier_result_is_replaced_by_a_new_one_and_kept_if_that_fails(tmp_path):
    earlier(tmp_path)
    with pytest.raises(KeyError), whole_folder(tmp_path / "run", FILES):
        raise KeyError
    assert (tmp_path / "run" / "result").read_text() == "old"
    with whole_folder(tmp_path / "run", FILES) as folder:
        (folder / "log").write_text("new")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["log"]


def test_an_earlier_result_survives_a_kill_between_its_renaming_and_the_new_ones(tmp_path):
    earlier(tmp_path, "run.old")
    with pytest.raises(KeyError), whole_folder(tmp_path / "run", FILES):
        raise KeyError
    assert (tmp_path / "run" / "result").read_text() == "old"


@pytest.mark.parametrize("other", ["photo.jpg", "train/weights"])
def test_a_folder_with_anything_else_in_it_is_refused_and_stays(tmp_path, other):
    earlier(tmp_path)
    (tmp_path / "run" / other).parent.mkdir(exist_ok=True)
    (tmp_path / "run" / other).write_text("precious")
    with pytest.raises(FileExistsError, match=f"run: will not be replaced.*{other.split('/')[0]}"):
        with whole_folder(tmp_path / "run", FILES):
            pytest.fail("the expensive step began")
    assert (tmp_path / "run" / other).read_text() == "precious"


def test_a_file_in_the_place_of_the_folder_is_refused_and_stays(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(FileExistsError, match="run: will not be replaced.*a file"):
        with whole_folder(tmp_path / "run", FILES):
            pass
    assert (tmp_path / "run").read_text() == "precious"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, ""), RuntimeError("I/O error: No space left on device (28)")])
def test_a_full_disk_is_told_with_the_folders_name(tmp_path, error):
    with pytest.raises(OSError, match=r"run: no space left on the disk. Make room"):
        with whole_folder(tmp_path / "run", FILES):
            raise error


def test_a_result_has_its_metrics_beside_what_was_asked_for_and_where(tmp_path):
    with records.save_result(tmp_path / "run", {"seed": 3}, more=("log",)) as result:
        (result.folder / "log").write_text("whole")
        result.metrics["auc"] = 0.9
        result.environment["data"] = "0123"
    contents = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "run").glob("*.json")}
    assert contents["metrics"] == {"auc": 0.9} and contents["parameters"] == {"seed": 3}
    assert contents["environment"]["data"] == "0123" and contents["environment"]["device"] == "cpu"
    (tmp_path / "run" / "other").touch()
    with pytest.raises(FileExistsError, match="other"), records.save_result(tmp_path / "run", {}, more=("log",)):
        pytest.fail("the expensive step began")


def test_a_file_is_written_aside_and_an_earlier_one_stays_if_that_fails(tmp_path):
    for content in ("old", "new"):
        with written_aside(tmp_path / "table.csv") as partial:
            partial.write_text(content)
    with pytest.raises(KeyError), written_aside(tmp_path / "table.csv") as partial:
        partial.write_text("half")
        raise KeyError
    assert (tmp_path / "table.csv").read_text() == "new"
    with pytest.raises(OSError, match="nowhere/table.csv: can't be written .No such file.*Name another place"):
        with written_aside(tmp_path / "nowhere" / "table.csv") as partial:
            partial.write_text("x")
