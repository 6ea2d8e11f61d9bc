"""Files without content, for what looks at names alone."""

from pathlib import Path


def put(folder: Path, *names: str) -> Path:
    """The folder, in which there are empty files of these names."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    return folder
