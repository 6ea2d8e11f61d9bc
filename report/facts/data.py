"""What facelib.studies.data_summary found, in words."""

NAMES = {"train": "The training set", "test": "The test's folder"}


def values(results: dict) -> dict[str, str]:
    """The claim on the data: key -> LaTeX; none before the summary has run."""
    if results["data"] is None:
        return {}
    metrics = results["data"]["metrics"]
    sentences = [claim(NAMES[name], of) for name, of in metrics.items()]
    return {"claim.data": " ".join([*sentences, claim_light(metrics)])}


def claim(name: str, found: dict) -> str:
    """How many images of whom, how large, and in how many of them there is a face."""
    each, (width, height) = found["images_per_identity"], found["commonest_size"]
    size = "all of" if found["sizes"] == 1 else f"of {found['sizes']:,} sizes, mostly"
    of_each = f"{each['least']:,} to {each['most']:,} of each (median {each['median']:g})"
    of_each = of_each if each["least"] < each["most"] else f"{each['most']:,} of each"
    sentence = (
        f"{name} has {found['images']:,} images of {found['identities']:,} identities, {of_each}, {size}"
        f" {width} $\\times$ {height} pixels."
    )
    if found["unreadable"]:
        sentence += f" {found['unreadable']:,} more can't be read."
    if found["faces_found"] is None:
        return sentence + " They are aligned crops already, and their landmarks are not known."
    faceless = found["images"] - found["faces_found"]
    return sentence + f" In {faceless:,} of them no face is found." * (faceless > 0)


def claim_light(metrics: dict) -> str:
    """Whether training and test differ in light: by the medians, against the training's spread."""
    train, test = (metrics[name]["brightness"] for name in ("train", "test"))
    inside = train["0.05"] <= test["0.5"] <= train["0.95"]
    verdict = "within" if inside else "outside"
    return (
        f"The test's median brightness, {test['0.5']:.0f} of 255, lies {verdict} the range of nine tenths of the"
        f" training crops, {train['0.05']:.0f} to {train['0.95']:.0f}."
    )
