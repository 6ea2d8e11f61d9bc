"""What is said of speed follows what `make bench` measured."""

from report.facts import bench as report_bench

ABOUT = {"synthetic": True, "folder": "some_faces", "threads": 2, "rounds": 5, "images": 1200}


def said(part: str, found: dict) -> str:
    return report_bench.values({"bench": {part: ABOUT | found}})[f"claim.bench_{part}"]


def test_what_was_not_measured_is_not_told():
    assert set(report_bench.values({"bench": {}}).values()) == {""}


def test_speeds_of_loading_are_told_and_whose_faces_they_were():
    speeds = {"plain": 2000.0, "folder": 4000.0, "recordio": 3900.0, "pack float32": 40000.0, "pack uint8": 2e5}
    ratios = {name: speed / 2000 for name, speed in speeds.items() if name != "plain"} | {"pack uint8 to memcpy": 0.75}
    bench = {"speeds": speeds, "ratios": ratios}
    words = said("loading", bench)
    assert "1,200 synthetic faces" in words and "2,000 images/s on 2 threads" in words
    assert "4,000 (2.0 times) from the folder" in words and "200,000 (100.0 times) as bytes, 0.75 of" in words
    assert "1,200 images of the folder some\\_faces" in said("loading", bench | {"synthetic": False})


def test_speeds_of_training_are_told_against_the_plain_loop_and_the_most_that_could_be():
    light = {"plain": 20.0, "facelib": 31.0, "ratio": 1.55, "loading": 0.009, "arithmetic": 0.16}
    heavy = {"plain": 4.0, "facelib": 5.0, "ratio": 1.25, "loading": 0.001, "arithmetic": 0.7}
    words = said("training", {"backbones": {"a_b": light, "c": heavy}})
    assert "a\\_b 1.55 times as fast (31.0 images/s instead of 20.0) and c 1.25 times as fast (5.0 images/s" in words
    assert "16.0\\,\\% and 70.0\\,\\% of the" in words and "at most 0.9\\,\\% of their time" in words


def test_the_heads_time_and_memory_are_told_with_how_they_grow():
    sides = {"straightforward": {"seconds": 1.3, "bytes": 957e6}, "facelib": {"seconds": 0.8, "bytes": 383e6}}
    grown = {"10000": {"seconds": 0.1, "bytes": 2e7}, "1000000": {"seconds": 11.4, "bytes": 4.1e9}}
    words = said("head", sides | {"identities": 93431, "batch": 512, "grown": grown})
    assert "93,431 identities and batches of 512" in words and "0.80\\,s and 383\\,MB" in words
    assert "1.30\\,s and 957\\,MB; at 1,000,000 identities facelib's takes 11.4\\,s and 4.1\\,GB" in words
