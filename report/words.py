"""Numbers and lists in words, as LaTeX: what the report's tables and claims are made of."""

import numpy as np


def tex(text: str) -> str:
    """Plain text with LaTeX's special characters escaped."""
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text


def percent(share: float) -> str:
    return f"{100 * share:.1f}\\,\\%"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def times(ratio: float) -> str:
    return f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times as slow"


def join(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def points(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}"


def p_words(p: float) -> str:
    return f"$p = {p:.3f}$" if p >= 0.001 else "$p < 0.001$"


def percent_fine(share: float) -> str:
    return f"{100 * share:.2f}\\,\\%"


def interval_words(found: dict | None, scale: float, digits: int) -> str:
    return f"[{scale * found['low']:.{digits}f}, {scale * found['high']:.{digits}f}]" if found else "--"


def spread(values: list[float], scale: float, digits: int) -> str:
    """Mean over seeds and, from two seeds on, their standard deviation (divisor seeds - 1)."""
    if not values:
        return "--"
    words = f"{scale * np.mean(values):.{digits}f}"
    return words + (f" $\\pm$ {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else "")
