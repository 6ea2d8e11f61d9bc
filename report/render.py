"""The report's text: facts from the results on disk, put into the template report.tex.j2.

python -m report.render FIGURES renders FIGURES/report.tex from FIGURES/facts.json anew, after an edit of the template.
"""

import json
import re
import sys
from pathlib import Path

import jinja2

from facelib.files import written_aside
from report import words
from report.facts import answer, cost, data, integrity, setting, studies, training, verification

FOLDER = Path(__file__).parent
PARTS = (setting, data, cost, training, verification, studies, integrity, answer)


def facts(results: dict) -> dict:
    """What the template may say: numbers, rows and verdicts. What no run has measured has no key."""
    merged = {}
    for part in PARTS:
        merged |= part.facts(results)
    return merged


def render(values: dict, template: str = "report.tex.j2") -> str:
    """LaTeX of the template with these facts. Raises ValueError that names a missing one."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {function.__name__: function for function in words.FILTERS}
    environment.globals["RUNGS"] = words.RUNGS
    try:
        return environment.get_template(template).render(values)
    except jinja2.UndefinedError as error:
        raise ValueError(f"report/{template}: {error.message}. Run make report.") from error


def clear(output: Path) -> None:
    """Delete an earlier drawing's figures: one that is not drawn again must not pass for this drawing's."""
    output.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r"\\drawn\{(\w+)\}", (FOLDER / "report.tex.j2").read_text()):
        for suffix in (".pdf", ".png"):
            (output / name).with_suffix(suffix).unlink(missing_ok=True)


def write(results: dict, output: Path) -> None:
    """facts.json and the text made of it, report.tex, into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts(results), indent=1, sort_keys=True, allow_nan=False)
    with written_aside(output / "facts.json") as partial:
        partial.write_text(text + "\n")
    typeset(output)


def typeset(folder: Path) -> None:
    """Render the folder's report.tex from its facts.json."""
    text = render(json.loads((folder / "facts.json").read_text()))
    with written_aside(folder / "report.tex") as partial:
        partial.write_text(text)


if __name__ == "__main__":
    typeset(Path(sys.argv[1]))
