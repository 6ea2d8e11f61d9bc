"""Parameters of a run: what a file or a notebook gives, and what is refused."""

import pytest

from facelib.training import Config


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs: 3", "data is missing"),
        ("", "data is missing"),
        ("data: a\noutput: b\nepoch: 3", "there is no parameter 'epoch'"),
        ("data: a\noutput: b\nepochs: many", "epochs must be int, found 'many'"),
        ("data: a\noutput: b\nlearning_rate: 1" + 400 * "0", "learning_rate must be float"),
        ("- a\n- b", "expected lines `parameter: value`"),
    ],
)
def test_a_file_of_parameters_that_does_not_fit_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ValueError, match=f"run.yaml: {message}"):
        Config.read(tmp_path / "run.yaml")


@pytest.mark.parametrize(
    "content", [b"data: [a\noutput: x\n", b'{"data": "a"', b"data:\ta: b", b"data: \xe9", b"a: \0"]
)
def test_what_is_neither_yaml_nor_json_is_told_with_its_file(tmp_path, content):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"run.yaml: can't be read as YAML or JSON \(.+\)"):
        Config.read(tmp_path / "run.yaml")
    with pytest.raises(ValueError, match="nothing.yaml: can't be read .*No such file"):
        Config.read(tmp_path / "nothing.yaml")


def test_a_file_of_parameters_may_write_numbers_as_people_do(tmp_path):
    (tmp_path / "run.yaml").write_text("data: a\noutput: b\nlearning_rate: 1e-3\nepochs: 3\nratio: 1\naligned: false\n")
    config = Config.read(tmp_path / "run.yaml")
    assert (config.learning_rate, config.epochs, config.ratio, config.aligned) == (1e-3, 3, 1.0, False)


def test_more_parameters_are_lines_that_stand_in_the_place_of_the_others():
    config = Config.parse("ema: '0.9'\nepochs: 7", data="a", output="b", epochs=3, seed=1)
    assert config == Config("a", "b", epochs=7, ema=0.9, seed=1)
    assert Config.parse("", data="a", output="b") == Config("a", "b")
    with pytest.raises(ValueError, match="more: there is no parameter 'emma'"):
        Config.parse("emma: 0.9", data="a", output="b")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"loss": "cosface"}, "loss must be one of arcface, softmax"),
        ({"optimizer": "lamb"}, "optimizer must be one of"),
        ({"schedule": "step"}, "schedule must be one of polynomial, cosine"),
        ({"memory_format": "auto"}, "memory_format must be one of channels_last, contiguous"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"margin": -0.1}, r"margin must be in \[0, pi/2\]"),
        ({"margin": 28.6}, r"margin must be in \[0, pi/2\] radians"),
        ({"seed": -1}, r"seed must be in \[0, 2"),
        ({"seed": 2**63}, r"seed must be in \[0, 2"),
        ({"learning_rate": float("inf")}, "learning_rate must be a finite number above 0, found inf"),
        ({"data": ""}, "data is empty: name a folder"),
        ({"output": ""}, "output is empty: name a folder"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\)"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\]"),
        ({"sample_rate": 0.5, "optimizer": "adamw"}, "sample_rate below 1 is Partial FC's"),
    ],
)
def test_a_parameter_out_of_range_is_told_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"data": "a", "output": "b"} | wrong).check()
    Config("a", "b").check()
