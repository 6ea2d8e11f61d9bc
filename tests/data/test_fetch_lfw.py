"""Fetching LFW, with scikit-learn's downloader replaced: no test needs a network."""

from urllib.error import URLError

import pytest

from facelib.data import fetch_lfw, read_pairs
from facelib.data.layout import lfw_images


def test_lfw_lies_where_the_profiles_look_for_it(tmp_path, monkeypatch):
    """scikit-learn leaves lfw_home/lfw_funneled/<Name>/ and the pairs files beside lfw_funneled."""

    def download(subset, data_home):
        person = tmp_path / "lfw_home" / "lfw_funneled" / "Ann"
        person.mkdir(parents=True)
        for n in (1, 2):
            (person / f"Ann_{n:04d}.jpg").touch()
        (tmp_path / "lfw_home" / "pairs.txt").write_text("1\nAnn\t1\t2\nAnn\t1\tAnn\t2\n")

    monkeypatch.setattr(fetch_lfw, "fetch_lfw_pairs", download)
    folder = fetch_lfw.fetch_lfw(tmp_path)
    assert folder == tmp_path / "lfw" and not (tmp_path / "lfw_home").exists()
    assert lfw_images(folder) == folder / "lfw_funneled" and len(read_pairs(folder / "pairs.txt")) == 2


def test_without_a_network_one_sentence_says_what_to_put_where(tmp_path, monkeypatch):
    def download(subset, data_home):
        raise URLError("no network")

    monkeypatch.setattr(fetch_lfw, "fetch_lfw_pairs", download)
    with pytest.raises(OSError, match=r"no network.*lfw_funneled/<Name>/<Name>_0001.jpg and pairs.txt") as refused:
        fetch_lfw.fetch_lfw(tmp_path)
    assert len(str(refused.value).splitlines()) == 1


def test_an_lfw_that_is_there_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_lfw, "fetch_lfw_pairs", None)
    (tmp_path / "lfw").mkdir()
    with pytest.raises(FileExistsError, match="lfw: is there already"):
        fetch_lfw.fetch_lfw(tmp_path)
