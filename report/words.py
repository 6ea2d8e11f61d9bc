"""How the report writes numbers and lists: the filters of report.tex.j2, and the names that figures share."""

from collections.abc import Iterable

# What the rungs of the evaluation ladder are called, in the table and in the figure.
RUNGS = {
    "up/published": "as published",
    "up/order": "+ normalised last",
    "up/light": "+ normal light",
    "up/one crop": "+ centre crop",
    "up/alignment": "+ aligned",
    "up/View 2": "+ View 2",
    "up/folds": "+ threshold of other folds",
    "up/flip": "+ flip-test",
    "down/corrected": "corrected",
    "down/low light, normalised first": "low light, normalised first",
    "down/low light": "low light",
    "down/random crop": "random crop",
    "down/centre crop": "centre crop",
    "down/resized": "whole image resized",
    "down/dev test": "View 1, threshold of same pairs",
    "down/same pairs": "threshold of same pairs",
    "down/no flip": "no flip-test",
}
NONE = "--"  # a table's cell without a number


def tex(text: str) -> str:
    """Plain text with LaTeX's special characters escaped."""
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def number(value: float | None, digits: int = 0, scale: float = 1) -> str:
    """A number with a comma between thousands; a dash for none."""
    return NONE if value is None else f"{scale * value:,.{digits}f}"


def plain(value: float) -> str:
    """A number with no more digits than it needs: 0.25, 16."""
    return f"{value:g}"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\\,\\%"


def points(share: float) -> str:
    """Percentage points, without their sign."""
    return f"{abs(100 * share):.1f}"


def signed(share: float) -> str:
    """Percentage points with their sign."""
    return f"${100 * share:+.1f}$"


def interval(ends: dict | None, digits: int = 3, scale: float = 1) -> str:
    return f"[{scale * ends['low']:.{digits}f}, {scale * ends['high']:.{digits}f}]" if ends else NONE


def spread(values: dict | None, digits: int = 3, scale: float = 1) -> str:
    """Mean and, where there is one, standard deviation."""
    if values is None:
        return NONE
    deviation = values["deviation"]
    plus_minus = "" if deviation is None else f" $\\pm$ {scale * deviation:.{digits}f}"
    return f"{scale * values['mean']:.{digits}f}{plus_minus}"


def times(ratio: float) -> str:
    """A ratio with two digits below one: 3.0 times, 0.33 times."""
    return f"{ratio:.1f} times" if ratio >= 1 else f"{ratio:.2f} times"


def count(amount: int, noun: str) -> str:
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def p_value(p: float) -> str:
    return f"$p = {p:.3f}$" if p >= 0.001 else "$p < 0.001$"


def join(parts: Iterable[str]) -> str:
    """One, two and three."""
    parts = list(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def named(keys: Iterable[str], names: dict[str, str]) -> list[str]:
    """The names of keys, each once and in order; a key without a name stands for itself."""
    return list(dict.fromkeys(names.get(key, tex(key)) for key in keys))


FILTERS = (tex, number, plain, percent, points, signed, interval, spread, times, count, p_value, join, named)
