"""Whether the test was one: facelib.studies.integrity's findings in words, and the results without what it suspects."""

from pathlib import Path

from facelib.studies.integrity import CHANCE
from report.facts.verification import compare
from report.results import run_name
from report.words import count, join, percent, tex

MOVED = 0.005  # of accuracy: half a point more or less is called a change


def values(results: dict) -> dict[str, str]:
    """Claims on integrity: key -> LaTeX; nothing before the check has run."""
    if results["integrity"] is None:
        return {}
    return {
        "claim.folds": claim_folds(results),
        "claim.overlap": claim_overlap(results),
        "claim.without": claim_without(results),
        "claim.duplicates": claim_duplicates(results),
    }


def claim_folds(results: dict) -> str:
    """Whether folds, View 1's lists and names are disjoint."""
    found = results["integrity"]["metrics"]
    shared, names = found["folds"]["identities"], found["names"]["identities"]
    sentence = f"The {found['folds']['folds']} folds share no identity"
    if shared:
        sentence = f"{shared:,} of {found['lfw']['identities']:,} identities are in more than one of the folds"
    if found["view1"]:
        sentence += f"; View~1's two lists share {found['view1']['identities'] or 'none'}"
    return (
        sentence
        + f"; of the training folder's names {names or 'none'} {'is' if names < 2 else 'are'} among the test's."
    )


def claim_overlap(results: dict) -> str:
    """How near the training identities come to the test's, and how many come nearer than chance explains."""
    found = results["integrity"]["metrics"]
    overlap, beyond = found["overlap"], found["overlap"]["beyond_chance"]
    model, count = Path(results["integrity"]["parameters"]["model"]).stem, found["train"]["identities"]
    expected, more = (1 - CHANCE) * count, beyond["suspects"]
    verdict = "no more than chance explains" if more <= 3 * expected + 3 else "more than chance explains"
    return (
        f"With the eyes of {tex(model)} each of {count:,} training identities is compared with all"
        f" {found['lfw']['identities']:,} of the test, by the cosine of their mean embeddings (highest"
        f" {overlap['highest']:.3f}). {overlap['suspects']:,} reach {overlap['threshold']:.3f}, the threshold of single"
        f" pairs. But strangers do: of the test's own identities one in {1 / (1 - CHANCE):.0f} comes nearer than"
        f" {beyond['threshold']:.3f} to another one. Of the training identities {f'{more:,}' if more else 'none'} come"
        f" that near, {verdict}"
        f" ({expected:.1f} expected)."
    )


def rows_of(results: dict) -> list[tuple[str, str, dict, dict]]:
    """(backbone, ratio, measures on all pairs, limit -> measures without suspects), in normal light, of the trained
    models at the compared ratio and of the released one.
    """
    compared, names = compare(results), {"released": ("released", "--")}
    if compared:
        ratio = compared["ratio"]
        backbones = [results["plan"][role] for role in ("light", "heavy")]
        names = {run_name(backbone, ratio): (backbone, f"{ratio:g}") for backbone in backbones} | names
    without = results["statistics"]["metrics"].get("without_suspects", {}) if results["statistics"] else {}
    rows = []
    for name, (label, ratio) in names.items():
        left = without.get(f"{name}-normal")
        if left and all("accuracy" in measured for measured in left.values()):
            rows.append((label, ratio, results["verify"][f"{name}-normal"]["metrics"], left))
    return rows


def integrity_table(results: dict) -> str:
    """Accuracy and AUC on all pairs and without the suspects of either limit, with the pairs that are left."""
    rows = []
    for label, ratio, every, left in rows_of(results):
        cells = [tex(label), ratio, f"{100 * every['accuracy']:.2f}", f"{every['auc']:.3f}"]
        for limit in ("threshold", "chance"):
            found = left.get(limit)
            measured = [f"{100 * found['accuracy']:.2f}", f"{found['auc']:.3f}"] if found else ["--", "--"]
            cells += [f"{found['pairs']:,}" if found else "--", *measured]
        rows.append(" & ".join(cells) + " \\\\")
    return "\n".join(rows) + "\n"


def claim_without(results: dict) -> str:
    """Whether the results stand without the suspects."""
    moves = {}
    for label, _, every, left in rows_of(results):
        found = max(left.values(), key=lambda found: abs(found["accuracy"] - every["accuracy"]))
        moves[tex(label)] = found["accuracy"] - every["accuracy"], found["pairs"]
    if not moves:
        return ""
    moved = [
        f"{label} by ${100 * move:+.1f}$ points (on the {pairs:,} pairs left)"
        for label, (move, pairs) in moves.items()
        if abs(move) >= MOVED
    ]
    if moved:
        return f"Without suspects the accuracy moves: {join(moved)}."
    return f"Without suspects, of either kind, no accuracy moves by as much as {percent(MOVED)}."


def claim_duplicates(results: dict) -> str:
    """How many photographs are there twice, and under how many wrong labels."""
    found = results["integrity"]["metrics"]["duplicates"]
    if not any(here[kind] for here in found.values() for kind in ("exact", "near")):
        return "No photograph is there twice, neither as equal images nor saved again."
    sentences = []
    for place, words in (("train", "within training"), ("lfw", "within the test's folder")):
        here = found[place]
        both = here["exact_of_two_identities"] + here["near_of_two_identities"]
        sentences.append(
            f"{words} {count(here['exact'], 'pair')} of equal images and {here['near']:,} of one photograph saved again"
            f" ({both:,} of them under two names)"
        )
    sentences.append(f"across both {found['across']['exact']:,} and {found['across']['near']:,}")
    return f"Of duplicates there are {join(sentences)}."
