"""The objective against a transcription of the paper's formula, in value and gradient, on one rank and several."""

from __future__ import annotations

import pytest
import torch
from lightly.loss import BarlowTwinsLoss as LightlyLoss
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bt_plugin import BarlowTwinsLoss
from tests.ranks import run_ranks

FORMS = ("cross", "gram")


def paper_loss(z_a: Tensor, z_b: Tensor, lambda_param: float) -> Tensor:
    """Equation 1 and 2 of the paper, element by element, with BatchNorm's epsilon."""

    def standardise(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred / (centred.square().mean(0) + 1e-5).sqrt()

    c = standardise(z_a).T @ standardise(z_b) / len(z_a)
    total = torch.zeros((), dtype=z_a.dtype)
    for i in range(len(c)):
        for j in range(len(c)):
            total = total + ((1 - c[i, j]) ** 2 if i == j else lambda_param * c[i, j] ** 2)
    return total


def embeddings(n: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two views that share much, with a mean and a scale of their own in every feature."""
    generator = torch.Generator().manual_seed(n * 1000 + d)
    shared = torch.randn(n, d, generator=generator, dtype=torch.float64)
    z_a = shared + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    z_b = shared + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.1, 30, d, dtype=torch.float64)
    return (z_a * scale + 5).to(dtype), (z_b * scale - 3).to(dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "d"), [(8, 5), (3, 12), (2, 4), (6, 1)])
def test_value_and_gradient_are_the_papers(form: str, n: int, d: int) -> None:
    z = [tensor.requires_grad_() for tensor in embeddings(n, d)]
    reference = paper_loss(*z, 0.3)
    expected = torch.autograd.grad(reference, z)
    loss = BarlowTwinsLoss(0.3, form=form)(*z)
    torch.testing.assert_close(loss, reference, rtol=1e-10, atol=0)
    for gradient, other in zip(torch.autograd.grad(loss, z), expected):
        torch.testing.assert_close(gradient, other, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    z = [tensor.requires_grad_() for tensor in embeddings(6, 4)]
    assert torch.autograd.gradcheck(BarlowTwinsLoss(0.1, form=form), z)


@pytest.mark.parametrize("form", FORMS)
def test_terms_add_up_and_agree_between_forms(form: str) -> None:
    z = embeddings(16, 40)
    terms = BarlowTwinsLoss(0.02, form=form).terms(*z)
    torch.testing.assert_close(terms.loss, terms.invariance + 0.02 * terms.redundancy)
    other = BarlowTwinsLoss(0.02, form="cross").terms(*z)
    torch.testing.assert_close(terms, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_equals_lightlys_on_one_rank(form: str) -> None:
    z = [tensor.requires_grad_() for tensor in embeddings(32, 256, torch.float32)]
    expected = LightlyLoss(5e-3)(*z)
    loss = BarlowTwinsLoss(5e-3, form=form)(*z)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for gradient, other in zip(torch.autograd.grad(loss, z), torch.autograd.grad(expected, z)):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
def test_float32_inside_whatever_autocast_says(form: str) -> None:
    z_a, z_b = embeddings(32, 64, torch.float32)
    expected = BarlowTwinsLoss(form=form)(z_a, z_b)
    with torch.autocast("cpu", torch.bfloat16):
        loss = BarlowTwinsLoss(form=form)(z_a, z_b)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()


def test_gradient_has_the_dtype_of_the_embeddings() -> None:
    z_a, z_b = (z.bfloat16().requires_grad_() for z in embeddings(16, 8))
    BarlowTwinsLoss()(z_a, z_b).backward()
    assert z_a.grad is not None
    assert z_a.grad.dtype == torch.bfloat16
    assert z_a.grad.abs().sum() > 0


@pytest.mark.parametrize("form", FORMS)
def test_constant_features_have_a_finite_gradient(form: str) -> None:
    z_a, z_b = (z.requires_grad_() for z in embeddings(8, 4))
    loss = BarlowTwinsLoss(form=form)(torch.zeros_like(z_a) * z_a + 1, z_b)
    loss.backward()
    assert loss.isfinite()
    assert z_a.grad.isfinite().all()
    assert loss.item() == pytest.approx(4.0), "C is 0 where a feature does not vary"


def test_auto_takes_the_form_with_less_arithmetic() -> None:
    from bt_plugin.loss import cheaper_form

    assert cheaper_form(256, 8192) == "gram"
    assert cheaper_form(8192, 2048) == "cross"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"lambda_param": -1.0}, "lambda_param: -1.0"), ({"form": "dense"}, "form: 'dense'")],
)
def test_bad_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BarlowTwinsLoss(**arguments)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"z_a \(4, 3\) and z_b \(4, 2\)"):
        BarlowTwinsLoss()(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="at least 2"):
        BarlowTwinsLoss()(torch.zeros(1, 3), torch.zeros(1, 3))


# Between ranks. Each rank's data has its own mean and scale: identical data hides per-rank statistics.


def global_batch(world_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    z = embeddings(6 * world_size, 10)
    rank = torch.arange(6 * world_size, dtype=torch.float64).div(6, rounding_mode="floor").unsqueeze(1)
    z_a, z_b = (part * (1 + rank) + 20 * rank for part in z)
    return z_a.to(dtype), z_b.to(dtype)


def rank_result(rank: int, world_size: int, dtype: torch.dtype, form: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The loss, the gradient of a model's weights after DDP's averaging, and of this rank's embeddings."""
    x_a, x_b = (part[6 * rank : 6 * rank + 6] for part in global_batch(world_size, dtype))
    model = DistributedDataParallel(linear(dtype))
    z = [model(x_a), model(x_b)]
    for part in z:
        part.retain_grad()
    loss = BarlowTwinsLoss(0.05, gather_distributed=True, form=form)(*z)
    loss.backward()
    return loss.detach(), model.module.weight.grad, [part.grad for part in z]


def linear(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(10, 7, bias=False, dtype=dtype)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("world_size", "dtype", "form"),
    [(2, torch.float64, "cross"), (2, torch.float64, "gram"), (3, torch.float32, "cross"), (3, torch.float32, "gram")],
)
def test_ranks_equal_one_rank_on_the_whole_batch(world_size: int, dtype: torch.dtype, form: str) -> None:
    model = linear(dtype)
    z = [model(x) for x in global_batch(world_size, dtype)]
    for part in z:
        part.retain_grad()
    expected = BarlowTwinsLoss(0.05, form=form)(*z)
    expected.backward()
    rtol = 1e-10 if dtype == torch.float64 else 1e-5
    results = run_ranks(world_size, rank_result, world_size, dtype, form)
    for rank, (loss, weight_gradient, z_gradients) in enumerate(results):
        torch.testing.assert_close(loss, expected.detach(), rtol=rtol, atol=0)
        scale = model.weight.grad.abs().max().item()
        torch.testing.assert_close(weight_gradient, model.weight.grad, rtol=rtol, atol=100 * rtol * scale)
        for gradient, part in zip(z_gradients, z):
            own = world_size * part.grad[6 * rank : 6 * rank + 6]
            torch.testing.assert_close(gradient, own, rtol=rtol, atol=100 * rtol * own.abs().max().item())


def ungathered(rank: int) -> tuple[Tensor, Tensor]:
    z_a, z_b = (part[6 * rank : 6 * rank + 6] for part in global_batch(2, torch.float64))
    return BarlowTwinsLoss(form="cross")(z_a, z_b), BarlowTwinsLoss(form="gram")(z_a, z_b)


@pytest.mark.distributed
def test_without_gathering_the_loss_is_this_ranks_own() -> None:
    z_a, z_b = global_batch(2, torch.float64)
    for rank, losses in enumerate(run_ranks(2, ungathered)):
        own = paper_loss(z_a[6 * rank : 6 * rank + 6], z_b[6 * rank : 6 * rank + 6], 5e-3)
        for loss in losses:
            torch.testing.assert_close(loss, own)
