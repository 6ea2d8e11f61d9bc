"""What makes a finished run stale: other code or other files, not other words."""

import ast
import json

from empty_files import put

from report import stale
from report.plan import MODULE_OF


def test_a_pack_counts_as_another_one_if_its_index_which_has_the_checksum_changes(tmp_path):
    pack = put(tmp_path / "celeb.pack", "index.json", "images.npy")

    def listed(index: str) -> str:
        (pack / "index.json").write_text(index)
        return stale.listing(pack, tmp_path / "cache.json")["files"]

    first = listed('{"checksum": "1"}')
    put(pack, "faces.txt")
    assert listed('{"checksum": "1"}') == first != listed('{"checksum": "2"}')


def test_a_listing_changes_with_the_names_of_the_files_alone(tmp_path):
    put(tmp_path, "a/1.jpg", "b/1.jpg")
    before = stale.listing(tmp_path)
    put(tmp_path, "a/1.jpg", ".DS_Store", "a/.thumbnails/1.jpg")
    assert stale.listing(tmp_path) == before
    assert stale.listing(put(tmp_path, "a/2.jpg")) != before


def test_a_kept_listing_is_that_of_the_folder_as_it_is_now(tmp_path):
    faces, cache = put(tmp_path / "faces", "a/1.jpg", "b/1.jpg", "b/2.jpg"), tmp_path / "listing.json"
    assert stale.listing(faces, cache) == stale.listing(faces, cache) == stale.listing(faces)
    for change in (
        lambda: put(faces, "a/2.jpg"),
        lambda: (faces / "b/1.jpg").rename(faces / "b/3.jpg"),
        lambda: (faces / "b/2.jpg").unlink(),
        lambda: put(faces, "c/1.jpg"),
        lambda: (faces / "c").rename(faces / "d"),
    ):
        before = stale.listing(faces, cache)
        change()
        assert stale.listing(faces, cache) == stale.listing(faces) != before


def test_a_module_depends_on_what_it_imports_and_what_that_imports_but_not_on_what_records_it(tmp_path, monkeypatch):
    modules = {"a": "from facelib import b, files\nfrom facelib.room.c import x", "b": "import json"}
    modules |= {
        "files": "from facelib import d",
        "d": "",
        "e": "",
        "room/__init__": "",
        "room/c": "x = 1",
        "room/f": "",
    }
    for name, source in modules.items():
        put(tmp_path, f"facelib/{name}.py")
        (tmp_path / f"facelib/{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert stale.modules_behind("facelib.a") == ["facelib.a", "facelib.b", "facelib.room.c"]


def test_the_loss_is_behind_the_training_and_the_pairs_are_behind_the_verification():
    training, verification = (stale.modules_behind(MODULE_OF[name]) for name in ("train", "verify"))
    assert {"facelib.losses", "facelib.models.backbones", "facelib.models.iresnet", "facelib.data"} <= {*training}
    assert {"facelib.models.embedder", "facelib.data.pairs"} <= {*verification} and "facelib.losses" not in verification


def test_words_in_code_are_no_part_of_it():
    code = "def f(x):\n    return x + 1\n"
    told = '"""A module."""\ndef f(x):\n    """One more."""\n    # why\n    return x + 1  # more\n'
    documented = 'def f(x):\n    """One less."""\n    return x + 1\n'

    def without(source: str) -> str:
        return ast.unparse(stale.without_words(source))

    assert without(told) == without(told.replace("One more", "Another")) != without(told.replace("+", "-"))
    assert without(documented) == without(documented.replace("One less", "One more"))
    assert without(code) == without(code.replace("+ 1", "+ 1  # one"))
    refused = code + "def g(x):\n    raise ValueError(f'{x} is wrong')\n"
    assert without(refused) == without(refused.replace("wrong", "too large")) != without(refused.replace("Val", "Type"))


def test_prose_and_outputs_are_no_part_of_a_notebooks_code(tmp_path):
    def code(cells):
        (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
        return stale.code_of(tmp_path / "a.ipynb")

    cell = {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": []}
    prose = {"cell_type": "markdown", "source": ["# Title"]}
    assert code([cell]) == code([prose, cell | {"outputs": [1]}]) == "x = 1\nx\n"
    assert code([cell | {"source": "x = 2"}]) == "x = 2\n"


def test_a_parameter_file_is_rewritten_only_if_its_content_changes(tmp_path):
    file = tmp_path / "parameters.json"
    stale.write_if_changed(file, "1")
    before = file.stat().st_mtime_ns
    stale.write_if_changed(file, "1")
    assert file.stat().st_mtime_ns == before
    stale.write_if_changed(file, "2")
    assert file.read_text() == "2" and json.loads(file.read_text()) == 2
