"""What is said of the data follows its summary."""

from report.facts import data


def metrics(bright: float = 120, faces: int | None = 100, sizes: int = 1) -> dict:
    brightness = {"0.05": 80.0, "0.5": bright, "0.95": 160.0}
    each = {"least": 10, "median": 24.5, "most": 30}
    found = {
        "images": 100,
        "unreadable": 0,
        "identities": 5,
        "images_per_identity": each,
        "sizes": sizes,
        "commonest_size": [250, 200],
    }
    return found | {"faces_found": faces, "brightness": brightness}


def said(train: dict, test: dict) -> str:
    return data.values({"data": {"metrics": {"train": train, "test": test}}, "bench": {}})["claim.data"]


def test_counts_and_the_size_are_told_of_both_folders():
    words = said(metrics(), metrics())
    assert "100 images of 5 identities, 10 to 30 of each (median 24.5), all of 250 $\\times$ 200 pixels" in words
    assert "no face" not in words


def test_several_sizes_and_faces_not_found_are_told():
    words = said(metrics(sizes=7), metrics(faces=97))
    assert "of 7 sizes, mostly 250" in words and "In 3 of them no face is found" in words


def test_of_stored_crops_no_faces_are_counted():
    words = said(metrics(faces=None), metrics())
    assert "aligned crops already" in words and "no face" not in words


def test_the_tests_light_is_held_against_the_trainings_range():
    assert "median brightness, 120 of 255, lies within the range" in said(metrics(), metrics(bright=120))
    assert "40 of 255, lies outside the range of nine tenths of the training crops, 80 to 160" in said(
        metrics(), metrics(bright=40)
    )


def test_before_the_summary_nothing_is_claimed():
    assert data.values({"data": None}) == {}
