"""What makes a finished run stale: the code behind it, without its words, and the files that its data folders hold.

Uses nothing but the standard library, as report.plan does.
"""

import ast
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from facelib.data.layout import PACK_INDEX

WRITERS = {"facelib.files", "facelib.records"}  # modules that only write down what comes out


def code_of(notebook: Path) -> str:
    """The notebook's code cells. Its results depend on them alone, not on prose or outputs that were saved."""
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code") + "\n"


def modules_behind(module: str) -> list[str]:
    """The modules of facelib that decide what this one computes: itself and all that it imports, sorted."""
    behind, unread = set(), {module}
    while unread:
        behind |= unread
        imported = set()
        for name in unread:
            for node in ast.walk(read_module(name)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "facelib":
                    imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        unread = {name for name in imported if name != "facelib" and file_of(name).exists()} - behind - WRITERS
    return sorted(behind)


def file_of(module: str) -> Path:
    """Where a module's code is, a room's in its __init__.py."""
    path = Path(module.replace(".", "/"))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def without_words(source: str) -> ast.Module:
    """Python source without comments, docstrings and what errors say: what can change a result."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body[0].value.value = ""
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc.args = []
    return tree


@functools.cache
def read_module(module: str) -> ast.Module:
    return without_words(file_of(module).read_text())


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def code_fingerprint(module: str) -> str:
    """A line: the module's name and the fingerprint of its code."""
    return f"{module} {fingerprint(ast.unparse(read_module(module)))}\n"


def listing(folder: Path, cache: Path | None = None) -> dict:
    """The folder, and a hash over the paths of all its files: another one where some were added, renamed or removed.
    Of a pack, over its index, which has a checksum of all its images.

    Each of these changes the modification time of the folder that it happens in. With `cache`, a file, all files are
    only listed again if such a time is another than when the cache was written.
    """
    if cache is not None and cache.exists():
        known = json.loads(cache.read_text())
        if known["times"] == times_of(folder, known["times"]):
            return known["listing"]
    digest = hashlib.sha256()
    if (folder / PACK_INDEX).is_file():
        digest.update((folder / PACK_INDEX).read_bytes())
        return {"folder": str(folder), "files": digest.hexdigest()}
    places = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        places.append(os.path.relpath(path, folder))
        for name in sorted(name for name in files if not name.startswith(".")):
            digest.update(f"{os.path.relpath(path, folder)}/{name}\n".encode(errors="surrogateescape"))
    found = {"folder": str(folder), "files": digest.hexdigest()}
    if cache is not None:
        write_if_changed(cache, json.dumps({"listing": found, "times": times_of(folder, places)}))
    return found


def times_of(folder: Path, places: Iterable[str]) -> dict[str, int]:
    """Place within the folder -> when files were last added, renamed or removed there, in ns; 0 where it is gone."""
    times = {}
    for place in places:
        try:
            times[place] = os.stat(os.path.join(folder, place)).st_mtime_ns
        except OSError:
            times[place] = 0
    return times


def write_if_changed(file: Path, text: str) -> None:
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text)
        partial.replace(file)
