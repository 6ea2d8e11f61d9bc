"""Softmax and ArcFace against their papers' formulas, written out in float64."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from facelib.losses import LOSSES, ArcFace, Softmax, create_head
from facelib.training.config import Config

LABELS = torch.tensor([0, 3, 3, 6, 1])


def batch(dtype=torch.float64) -> Tensor:
    """Five embeddings of 16 numbers, of lengths far from 1."""
    return (3 * torch.randn(5, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).to(dtype)


def loss_of(kind, dtype=torch.float64, **options):
    """A loss for 7 identities with random weights of lengths far from 1."""
    loss = kind(16, 7, **options).to(dtype)
    with torch.no_grad():
        loss.weight.copy_(torch.randn(7, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64) / 5)
    return loss


def equation_3(x: Tensor, weight: Tensor, labels: Tensor, s: float, m: float) -> Tensor:
    """Equation (3) of Deng et al. 2019, term by term; valid while every target's theta + m <= pi."""
    theta = torch.arccos((x / x.norm(dim=1, keepdim=True)) @ (weight / weight.norm(dim=1, keepdim=True)).T)
    terms = []
    for i, y in enumerate(labels.tolist()):
        assert theta[i, y] + m <= math.pi
        target = torch.exp(s * torch.cos(theta[i, y] + m))
        others = sum(torch.exp(s * torch.cos(theta[i, j])) for j in range(len(weight)) if j != y)
        terms.append(-torch.log(target / (target + others)))
    return torch.stack(terms).mean()


def target_logit(theta: float, scale: float, margin: float, dtype=torch.float64) -> float:
    """The logit that the loss gives the target at angle `theta`, from its value beside one class at a right angle."""
    loss = ArcFace(3, 2, scale, margin).to(dtype)
    with torch.no_grad():
        loss.weight.copy_(torch.tensor([[1, 0, 0], [0, 0, 1]]))
    x = torch.tensor([[math.cos(theta), math.sin(theta), 0]], dtype=dtype)
    return -math.log(math.expm1(loss(x, torch.tensor([0])).item()))  # loss = log(1 + exp(0 - logit))


# --- values and gradients


@pytest.mark.parametrize("scale, margin", [(64, 0.5), (30, 0.2), (8, 1.0)])
def test_arcface_and_its_gradients_equal_equation_3(scale, margin):
    loss = loss_of(ArcFace, scale=scale, margin=margin)
    x, x_reference = batch().requires_grad_(), batch().requires_grad_()
    weight_reference = loss.weight.detach().clone().requires_grad_()
    value, reference = loss(x, LABELS), equation_3(x_reference, weight_reference, LABELS, scale, margin)
    value.backward()
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-9)
    assert torch.allclose(x.grad, x_reference.grad, rtol=1e-7, atol=1e-10)
    assert torch.allclose(loss.weight.grad, weight_reference.grad, rtol=1e-7, atol=1e-10)
    assert x.grad.abs().sum() > 0 and loss.weight.grad.abs().sum() > 0


def test_arcface_defaults_to_the_papers_scale_64_and_margin_one_half():
    reference = equation_3(batch(), loss_of(ArcFace).weight, LABELS, 64, 0.5)
    assert loss_of(ArcFace)(batch(), LABELS).item() == pytest.approx(reference.item(), rel=1e-9)


def test_arcface_gradients_equal_finite_differences():
    loss = loss_of(ArcFace, scale=4, margin=0.5)
    x = batch()
    x[0] = -2 * loss.weight[0].detach() + 0.1 * x[1]  # theta near pi: beyond it with the margin, on the continuation
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: loss(x, LABELS), (x, loss.weight))


def test_arcface_without_margin_is_softmax_of_scaled_cosines():
    loss = loss_of(ArcFace, scale=20, margin=0)
    cosine = F.cosine_similarity(batch()[:, None], loss.weight[None], dim=2)
    assert loss(batch(), LABELS).item() == pytest.approx(F.cross_entropy(20 * cosine, LABELS).item(), rel=1e-9)


def test_arcface_does_not_depend_on_the_lengths_of_embeddings_and_weights():
    loss = loss_of(ArcFace)
    before = loss(batch(), LABELS).item()
    with torch.no_grad():
        loss.weight.mul_(torch.linspace(0.1, 9, 7)[:, None])
    assert loss(batch() * torch.linspace(0.1, 9, 5)[:, None], LABELS).item() == pytest.approx(before, rel=1e-9)


def test_softmax_is_cross_entropy_of_plain_products():
    loss = loss_of(Softmax)
    x, x_reference = batch().requires_grad_(), batch().requires_grad_()
    weight = loss.weight.detach().clone().requires_grad_()
    value, reference = loss(x, LABELS), F.cross_entropy(x_reference @ weight.T, LABELS)
    value.backward()
    reference.backward()
    assert value.item() == pytest.approx(reference.item(), rel=1e-9)
    assert torch.allclose(x.grad, x_reference.grad) and torch.allclose(loss.weight.grad, weight.grad)


@pytest.mark.parametrize("kind", [Softmax, ArcFace])
def test_the_one_parameter_has_a_row_for_each_identity(kind):
    assert {name: tuple(p.shape) for name, p in kind(512, 10).named_parameters()} == {"weight": (10, 512)}


@pytest.mark.parametrize("kind", [Softmax, ArcFace])
def test_gradient_descent_through_embeddings_and_weight_lowers_the_loss(kind):
    torch.manual_seed(0)
    loss, x = kind(16, 7), batch(torch.float32).requires_grad_()
    start = [x.detach().clone(), loss.weight.detach().clone()]
    optimizer = torch.optim.SGD([x, *loss.parameters()], lr=0.05)
    values = []
    for _ in range(50):
        value = loss(x, LABELS)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    assert not torch.equal(x, start[0]) and not torch.equal(loss.weight, start[1])


def test_training_knows_each_loss_by_its_name():
    assert {*LOSSES} == {*get_args(get_type_hints(Config)["loss"])}
    head = create_head("arcface", 16, 7, scale=30, margin=0.2, sample_rate=0.5, seed=3)
    assert (type(head), head.scale, head.margin, head.sample_rate, head.seed) == (ArcFace, 30, 0.2, 0.5, 3)
    assert type(create_head("softmax", 16, 7, scale=30, margin=0.2, sample_rate=1.0, seed=0)) is Softmax


# --- the angle from 0 to pi


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_target_logit_is_cos_of_theta_plus_margin_and_linear_in_cos_theta_beyond_pi(margin):
    for step in range(201):
        theta = math.pi * step / 200
        beyond = theta + margin > math.pi
        expected = math.cos(theta) - margin * math.sin(margin) if beyond else math.cos(theta + margin)
        assert target_logit(theta, 8, margin) / 8 == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.5, 1.0])
def test_target_logit_falls_monotonically_from_0_to_pi(margin):
    logits = [target_logit(math.pi * step / 200, 8, margin) for step in range(201)]
    assert all(after < before for before, after in zip(logits, logits[1:]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16 under autocast"])
@pytest.mark.parametrize("sign, name", [(1, "0"), (-1, "pi")])
@pytest.mark.parametrize("rows", ["random", "on the axes"])
def test_loss_and_gradients_are_finite_where_theta_is_exactly_0_or_pi(precision, sign, name, rows):
    loss = loss_of(ArcFace, torch.float32)
    if rows == "on the axes":  # normalised without any rounding: the cosine is exactly 1
        with torch.no_grad():
            loss.weight.copy_(torch.eye(7, 16))
    low = precision != "float32"
    with torch.no_grad():
        if low:
            loss.weight.copy_(loss.weight.bfloat16())  # so that bf16 embeddings can be equal to the rows
        x = sign * loss.weight[LABELS]
        x = (x.bfloat16() if low else x).clone()
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        value = loss(x, LABELS)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all() and torch.isfinite(loss.weight.grad).all()


def test_loss_at_theta_0_is_that_of_cos_m():
    assert target_logit(0.0, 4, 0.5, torch.float32) == pytest.approx(4 * math.cos(0.5), abs=4e-3)


# --- mixed precision


@pytest.mark.parametrize("kind", [Softmax, ArcFace])
def test_under_autocast_only_the_embeddings_are_rounded(kind):
    """The loss of bf16 embeddings under autocast is the float32 loss of these embeddings: no logit is bf16."""
    loss, x = loss_of(kind, torch.float32), batch(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, LABELS)
    exact, weight = x.double(), loss.weight.detach().double()
    if kind is ArcFace:
        reference = equation_3(exact, weight, LABELS, 64, 0.5)
    else:
        reference = F.cross_entropy(exact @ weight.T, LABELS)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference.item(), rel=2e-6)


@pytest.mark.parametrize("kind", [Softmax, ArcFace])
def test_gradients_under_autocast_come_in_the_types_of_their_tensors(kind):
    loss, x = loss_of(kind, torch.float32), batch(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(x, LABELS)
    value.backward()
    assert x.grad.dtype == torch.bfloat16 and loss.weight.grad.dtype == torch.float32
    assert x.grad.abs().sum() > 0 and loss.weight.grad.abs().sum() > 0
