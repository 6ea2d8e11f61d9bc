"""Cost against accuracy: what was measured, what others published, and what the sentences make of it."""

import pytest

from report.facts import answer
from report.figures import curves


def cost(backbone: str, parameters: float, flops: float, speed: float, latency: float) -> dict:
    return {
        "backbone": backbone,
        "parameters": parameters,
        "flops": flops,
        "inference_speed": {"contiguous": speed / 2, "channels last": speed},
        "latency": {"contiguous": latency, "channels last": 2 * latency},
    }


def results(synthetic: bool = False, **ladder) -> dict:
    """ResNet-50 with 90 % and EfficientNet-B3 with 80 % accuracy at two ratios, and a released model of 99 %."""
    accuracies = {"iresnet50-r1": 0.9, "iresnet50-r0.1": 0.85, "efficientnet_b3-r1": 0.8, "released": 0.99}
    verify = {f"{name}-normal": {"metrics": {"accuracy": accuracy}} for name, accuracy in accuracies.items()}
    intervals = {name: {"accuracy": {"low": 0.7, "high": 0.95}} for name in verify}
    costs = {
        "heavy": cost("iresnet50", 43.6e6, 6.3e9, 20, 0.05),
        "light": cost("efficientnet_b3", 11.5e6, 0.27e9, 100, 0.02),
        "released": cost("arcface_mobilefacenet_y1", 1e6, 0.22e9, 100, 0.01),
    }
    return {
        "plan": {"heavy": "iresnet50", "light": "efficientnet_b3", "ratios": [0.1, 1.0], "synthetic": synthetic},
        "verify": verify,
        "flops": {"metrics": costs},
        "statistics": {"metrics": {"verify": intervals}},
        "evaluation_ladder": {name: {"metrics": metrics} for name, metrics in ladder.items()},
    }


def test_every_verified_model_is_a_point_at_its_measured_cost_with_its_interval():
    points = [point for point in answer.points_of(results()) if not point.get("published")]
    assert [point["accuracy"] for point in points] == [0.85, 0.9, 0.8, 0.99]
    assert {name: points[1][name] for name in curves.COSTS} == pytest.approx(
        {"parameters": 43.6, "flops": 6.3, "speed": 20, "latency": 50}
    )
    assert all((point["low"], point["high"]) == (0.7, 0.95) for point in points)


def test_published_points_are_the_cited_figures_and_never_have_a_speed():
    """Deng et al. 2019: 99.53 %; insightface's zoo: 99.45 % and 99.50 %; FaceX-Zoo: 99.55 % and 99.78 %."""
    points = [point for point in answer.points_of(results()) if point.get("published")]
    assert [(point["accuracy"], point["cite"]) for point in points] == [
        (0.9953, "arcface"),
        (0.9945, "insightface"),
        (0.9950, "insightface"),
        (0.9955, "facexzoo"),
        (0.9978, "facexzoo"),
    ]
    assert not any({"speed", "latency", "low"} & point.keys() for point in points)
    assert points[0]["flops"] == pytest.approx(6.3)  # the same network, counted here


def test_published_points_of_real_faces_do_not_stand_beside_synthetic_ones():
    found = results(synthetic=True)
    assert not any(point.get("published") for point in answer.points_of(found))
    assert "left out" in answer.claim_published_points(found)
    assert "not measured here" in answer.claim_published_points(results())


def test_before_anything_is_verified_there_are_no_points():
    assert answer.points_of(results() | {"verify": {}}) == []
    assert answer.points_of(results() | {"flops": None}) == []


def rungs(published: float, corrected: float) -> dict:
    return {"up/published": {"auc": published}, "down/corrected": {"auc": corrected, "accuracy": 0.99}}


def test_the_protocol_is_blamed_only_if_it_alone_puts_a_good_model_at_chance():
    assert "its protocol is what broke: a released model" in answer.claim_broke(results(released=rungs(0.5, 0.999)))
    not_alone = answer.claim_broke(results(released=rungs(0.8, 0.999)))
    assert "its protocol alone does not explain that" in not_alone and "AUC of 0.80" in not_alone
    assert "does not explain" in answer.claim_broke(results(released=rungs(0.5, 0.52)))
    best = answer.claim_broke(results(a=rungs(0.5, 0.7), b=rungs(0.5, 0.9)))
    assert "a trained model (b)" in best
    assert answer.claim_broke(results()) == ""
