"""What is said of detectors follows what the study found."""

from report.facts import alignment


def results(mtcnn: float = 0.99, box: float = 0.95, none: float = 0.9) -> dict:
    """Three detectors by which the released model reaches these accuracies; Viola-Jones finds 92 of 100 faces."""
    accuracies, found = (
        {"mtcnn": mtcnn, "viola-jones": box, "none": none},
        {"mtcnn": 100, "viola-jones": 92, "none": 100},
    )
    metrics = {
        name: {"images": 100, "found": found[name], "images_per_second": 20.0, "pairs": 6000}
        | {"accuracy": accuracy, "auc": accuracy}
        for name, accuracy in accuracies.items()
    }
    run = {"metrics": metrics, "parameters": {"model": "weights/some_model.onnx"}}
    interval = {"low": 0.93, "high": 0.96}
    sure = {"metrics": {"detectors": {"released": {"viola-jones": {"accuracy": interval, "auc": interval}}}}}
    return {"detectors": {"released": run}, "statistics": sure}


def test_the_faces_found_are_told_of_those_that_look_for_one():
    said = alignment.values(results())["claim.detectors"]
    assert "MTCNN finds a face in 100 of 100 images and Viola-Jones finds a face in 92 of 100" in said
    assert "none finds" not in said


def test_the_alignments_are_named_from_the_best_to_the_worst():
    said = alignment.values(results(none=0.97))["claim.detectors"]
    assert "Aligned by MTCNN's landmarks 99.0\\,\\%, not at all 97.0\\,\\% and by Viola-Jones' box 95.0\\,\\%" in said


def test_a_row_has_counts_speed_and_measures_with_their_intervals():
    rows = alignment.detector_table(results()).splitlines()
    assert rows[1] == "Viola-Jones & 92 & 20.0 & 95.00 & [93.0, 96.0] & 0.950 & [0.930, 0.960] \\\\"
    assert rows[2] == "none & -- & -- & 90.00 & -- & 0.900 & -- \\\\"


def test_before_the_study_nothing_is_claimed():
    assert alignment.values({"detectors": {}}) == {} and alignment.detector_table({"detectors": {}}) == ""
