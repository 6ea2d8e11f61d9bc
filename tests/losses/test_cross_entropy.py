"""The head over several processes and in little memory, against the whole computed plainly."""

import pytest
import torch
import torch.nn.functional as F
from in_processes import in_processes

from facelib.devices import share, shares
from facelib.losses import ArcFace, MarginLoss, Softmax
from facelib.losses import cross_entropy as identity_cross_entropy

IDENTITIES, SIZE, BATCH = 11, 8, 7


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(BATCH, SIZE, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 10, 4, 4, 5, 9, 3])


def loss_and_gradients(kind, seed: int = 0) -> tuple:
    """The loss of the batch, and the gradients of this process's share of embeddings and of its rows."""
    torch.manual_seed(seed)
    head = kind(SIZE, IDENTITIES).double()
    x, labels = batch()
    mine = share(BATCH)
    x = x[mine].requires_grad_()
    loss = head(x, labels[mine], BATCH)
    loss.backward()
    return loss.item(), x.grad, head.weight.grad, head.weight.detach()


@pytest.mark.parametrize("kind", [ArcFace, Softmax])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_several_processes_have_the_loss_the_rows_and_the_gradients_of_one(kind, processes):
    losses, by_x, by_rows, rows = zip(*in_processes(processes, loss_and_gradients, kind))
    expected = loss_and_gradients(kind)
    assert losses == pytest.approx([expected[0]] * processes, rel=1e-12)
    assert torch.equal(torch.cat(rows), expected[3])
    assert torch.allclose(torch.cat(by_x), expected[1], rtol=1e-9, atol=1e-14)
    assert torch.allclose(torch.cat(by_rows), expected[2], rtol=1e-9, atol=1e-14)


def test_more_processes_than_identities_are_refused():
    def refusal() -> str:
        with pytest.raises(ValueError) as told:
            ArcFace(SIZE, 2)
        return str(told.value)

    assert in_processes(3, refusal) == ["3 processes, but 2 identities: start fewer processes"] * 3


class Lowered(MarginLoss):
    """A margin as another loss might have it: cos(t) - m |x| / max |x|, of the cosine, the norm and the whole batch."""

    def with_margin(self, cosine, norm):
        return cosine - self.margin * norm / norm.max()


def lowered_plainly(x, labels, weight, scale=4.0, margin=0.3):
    """Its loss by F.cross_entropy of all logits; the norms are numbers."""
    norm = x.detach().norm(dim=1)
    cosine = F.normalize(x) @ F.normalize(weight).T
    lowering = F.one_hot(labels, len(weight)) * (margin * norm / norm.max())[:, None]
    return F.cross_entropy(scale * (cosine - lowering), labels)


@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_margin_is_a_function_that_autograd_differentiates(processes, sample_rate):
    """Of the loss with Partial FC, the plain one sees the rows that were drawn."""

    def lowered() -> tuple:
        torch.manual_seed(0)
        head = Lowered(SIZE, IDENTITIES, scale=4.0, margin=0.3, sample_rate=sample_rate).double()
        x, labels = batch()
        if sample_rate < 1:
            head.draw(labels, step=5)
        mine = share(BATCH)
        x = x[mine].requires_grad_()
        loss = head(x, labels[mine], BATCH)
        loss.backward()
        drawn = torch.arange(IDENTITIES) if head.drawn is None else head.drawn
        by_rows = head.weight.grad if head.drawn is None else head.seen.grad
        return loss.item(), x.grad, by_rows, head.weight.detach(), drawn

    losses, by_x, by_rows, rows, drawn = zip(*in_processes(processes, lowered))
    x, labels = batch()
    x.requires_grad_()
    weight = torch.cat(rows)[drawn[0]].requires_grad_()
    expected = lowered_plainly(x, torch.searchsorted(drawn[0], labels), weight)
    expected.backward()
    assert losses == pytest.approx([expected.item()] * processes, rel=1e-12)
    assert torch.allclose(torch.cat(by_x), x.grad, rtol=1e-9, atol=1e-14)
    assert torch.allclose(torch.cat(by_rows), weight.grad, rtol=1e-9, atol=1e-14)
    assert len(weight) == (IDENTITIES if sample_rate == 1 else 6)  # those of the batch: 0, 3, 4, 5, 9, 10


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_it_does_not_matter_how_many_rows_are_computed_at_a_time(monkeypatch, rows):
    expected = loss_and_gradients(ArcFace)
    monkeypatch.setattr(identity_cross_entropy, "ROWS", rows)
    found = loss_and_gradients(ArcFace)
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-14) for a, b in zip(found[1:], expected[1:]))


def test_gradients_are_scaled_by_what_becomes_of_the_loss_and_can_be_asked_for_twice():
    head = Softmax(SIZE, IDENTITIES).double()
    x, labels = batch()
    x.requires_grad_()
    loss = head(x, labels)
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, x)
    assert torch.allclose(thrice, 3 * once)


def test_without_gradients_the_loss_is_the_same():
    torch.manual_seed(0)
    head = Softmax(SIZE, IDENTITIES).double()
    x, labels = batch()
    with torch.no_grad():
        assert head(x, labels).item() == pytest.approx(F.cross_entropy(x @ head.weight.T, labels).item(), rel=1e-12)


def test_logits_of_thousands_do_not_overflow():
    head = Softmax(SIZE, IDENTITIES)
    with torch.no_grad():
        head.weight.mul_(1e5)
    x, labels = (part.float() if part.is_floating_point() else part for part in batch())
    x.requires_grad_()
    loss = head(x, labels)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


@pytest.mark.parametrize("total, processes", [(7, 3), (2, 3), (6, 3), (0, 2)])
def test_shares_are_as_equal_as_can_be_and_make_up_the_whole(total, processes):
    counts = shares(total, processes)
    assert sum(counts) == total and len(counts) == processes and max(counts) - min(counts) <= 1


def test_a_process_holds_only_its_rows_and_they_are_copied_not_a_view_of_all():
    def held() -> tuple:
        head = Softmax(SIZE, IDENTITIES)
        return tuple(head.weight.shape), head.first, head.weight.untyped_storage().nbytes()

    assert in_processes(3, held) == [((4, SIZE), 0, 128), ((4, SIZE), 4, 128), ((3, SIZE), 8, 96)]
