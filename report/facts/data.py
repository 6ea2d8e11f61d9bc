"""What the data are: the summary of training and test, the test's protocol, and what the benchmark measured."""

from report.results import folds, is_synthetic


def facts(results: dict) -> dict:
    found = {"bench": results["bench"]}
    if results["data"] is not None:
        found["data"] = data(results["data"]["metrics"])
    if results["verify"]:
        found["test"] = test(results)
    return found


def data(metrics: dict) -> dict:
    """Images and identities of both sets, and whether the test is as bright as the training: its median brightness
    within the middle nine tenths of the training crops.
    """
    sets = [{"name": name, "faceless": faceless(measured)} | measured for name, measured in metrics.items()]
    train, test_brightness = metrics["train"]["brightness"], metrics["test"]["brightness"]["0.5"]
    inside = train["0.05"] <= test_brightness <= train["0.95"]
    light = {"test": test_brightness, "low": train["0.05"], "high": train["0.95"]}
    return {"sets": sets, "light": light | {"verdict": "within" if inside else "outside"}}


def faceless(measured: dict) -> int | None:
    """How many images no face was found in; None where that isn't known."""
    return None if measured["faces_found"] is None else measured["images"] - measured["faces_found"]


def test(results: dict) -> dict:
    """The test's pairs, and which models were given the flip-test."""
    run = next(iter(results["verify"].values()))
    genuine, images = int(run["genuine"].sum()), run["parameters"]["images"]
    flips = {"released": set(), "trained": set()}
    for name, verified in results["verify"].items():
        flips["released" if name.startswith("released") else "trained"].add(verified["parameters"]["flip"])
    return {
        "faces": "synthetic" if is_synthetic(run) else "deepfunneled" if images == "lfw-deepfunneled" else "lfw",
        "pairs": len(run["genuine"]),
        "genuine": genuine,
        "impostor": len(run["genuine"]) - genuine,
        "images": run["metrics"]["images"],
        "folds": folds(run),
        "flipped": [who for who, used in flips.items() if used == {True}],
        "not_flipped": [who for who, used in flips.items() if used and used != {True}],
    }
