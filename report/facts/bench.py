"""What `make bench` measured, in words: each part is told if it was measured."""

from report.words import join, percent, tex

PARTS = ("loading", "training", "head")


def values(results: dict) -> dict[str, str]:
    """key -> LaTeX, empty for a part that was not measured."""
    bench = results["bench"]
    words = {"loading": claim_loading, "training": claim_training, "head": claim_head}
    return {f"claim.bench_{part}": words[part](bench[part]) if part in bench else "" for part in PARTS}


def faces(bench: dict) -> str:
    return "synthetic faces" if bench["synthetic"] else f"images of the folder {tex(bench['folder'])}"


def claim_loading(bench: dict) -> str:
    """How many images/s were loaded from each format, against the plain pipeline."""
    speeds, ratios = bench["speeds"], bench["ratios"]
    said = {name: f"{speeds[name]:,.0f} ({ratios[name]:.1f} times)" for name in ratios if name in speeds}
    return (
        f"Of {bench['images']:,} {faces(bench)} torchvision's plain pipeline (ImageFolder, two workers) loaded"
        f" {speeds['plain']:,.0f} images/s on {bench['threads']} threads, facelib {said['folder']} from the folder,"
        f" {said['recordio']} from RecordIO and, from one memory-mapped file of aligned crops, {said['pack float32']}"
        f" as normalised numbers and {said['pack uint8']} as bytes, {ratios['pack uint8 to memcpy']:.2f} of what"
        f" a plain copy in memory reaches (medians of {bench['rounds']} rounds, all in one run)."
    )


def claim_training(bench: dict) -> str:
    """How many images/s each backbone was trained with, against the plain loop, and how near that is to the most."""
    sides = join(
        [
            f"{tex(name)} {of['ratio']:.2f} times as fast ({of['facelib']:.1f} images/s instead of {of['plain']:.1f})"
            for name, of in bench["backbones"].items()
        ]
    )
    shares = join([percent(of["arithmetic"]) for of in bench["backbones"].values()])
    loading = max(of["loading"] for of in bench["backbones"].values())
    return (
        f"Against a plain loop of float32 in PyTorch's default memory format, facelib trains {sides}, on"
        f" {faces(bench)}, steps in turns, medians of {bench['rounds']}. Its steps reach {shares} of the floating-point"
        f" operations a second of a product of matrices, and wait for images at most {percent(loading)} of their time."
    )


def claim_head(bench: dict) -> str:
    """What the loss costs at many identities, against the straightforward implementation."""
    plain, ours = bench["straightforward"], bench["facelib"]
    most = max(bench["grown"], key=int)
    grown = bench["grown"][most]
    return (
        f"At {bench['identities']:,} identities and batches of {bench['batch']} the loss and its"
        f" gradients take {ours['seconds']:.2f}\\,s and {ours['bytes'] / 1e6:,.0f}\\,MB of memory; written"
        f" straightforwardly, {plain['seconds']:.2f}\\,s and {plain['bytes'] / 1e6:,.0f}\\,MB; at {int(most):,}"
        f" identities facelib's takes {grown['seconds']:.1f}\\,s and {grown['bytes'] / 1e9:.1f}\\,GB."
    )
