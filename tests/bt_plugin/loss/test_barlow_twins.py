"""The objective against a transcription of the paper's formula, in value and gradient, on one rank."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightly.loss import BarlowTwinsLoss as LightlyLoss
from torch import Tensor

from bt_plugin import BarlowTwinsLoss
from tests.bt_plugin.loss.loss_reference import FORMS, cancelled, embeddings, paper_loss
from tests.tolerance import assert_rounded


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


def assert_agree(loss: Tensor, expected: Tensor, z: list[Tensor]) -> None:
    """Two losses of z in float32 and their gradients, of sums of N or D terms."""
    terms = max(z[0].shape)
    assert_rounded(loss, expected, terms=terms, name="loss")
    for part, gradient, other in zip(z, torch.autograd.grad(loss, z), torch.autograd.grad(expected, z), strict=True):
        # Features have scales of their own, and their gradients the inverse.
        assert_rounded(gradient, other, terms=terms, scale=other.abs().amax(0) * cancelled(part), name="gradient")


@pytest.mark.parametrize("form", FORMS)
def test_equals_lightlys_on_one_rank(form: str) -> None:
    z = [tensor.requires_grad_() for tensor in embeddings(32, 256, torch.float32)]
    assert_agree(BarlowTwinsLoss(5e-3, form=form)(*z), LightlyLoss(5e-3)(*z), z)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_float32_inside_whatever_autocast_says(form: str, autocast: torch.dtype) -> None:
    z = [part.requires_grad_() for part in embeddings(32, 64, torch.float32)]
    expected = BarlowTwinsLoss(form=form)(*z)
    with torch.autocast("cpu", autocast):
        loss = BarlowTwinsLoss(form=form)(*z)
        gradients = torch.autograd.grad(loss, z)
    assert loss.dtype == torch.float32
    assert loss.item() == expected.item()
    for gradient, other in zip(gradients, torch.autograd.grad(expected, z)):
        assert torch.equal(gradient, other)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtypes", [(torch.bfloat16,) * 2, (torch.float16,) * 2, (torch.float32, torch.float64)])
def test_embeddings_of_any_dtype(form: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """As if they had been float32 (float64 where one is); the gradient is rounded to their dtype."""
    z = [part.to(dtype).requires_grad_() for part, dtype in zip(embeddings(16, 8), dtypes)]
    wide = [part.detach().to(max((*dtypes, torch.float32), key=lambda d: d.itemsize)).requires_grad_() for part in z]
    loss, expected = BarlowTwinsLoss(form=form)(*z), BarlowTwinsLoss(form=form)(*wide)
    assert loss.item() == expected.item()
    for gradient, other, dtype in zip(torch.autograd.grad(loss, z), torch.autograd.grad(expected, wide), dtypes):
        assert gradient.dtype == dtype
        assert torch.equal(gradient, other.to(dtype))


@pytest.mark.parametrize("form", FORMS)
def test_any_layout_of_memory(form: str) -> None:
    z = embeddings(16, 8)
    expected = BarlowTwinsLoss(form=form)(*z)
    transposed = [part.T.contiguous().T for part in z]
    padded = [torch.cat((part, part + 1), dim=1)[:, : part.shape[1]] for part in z]
    for layout in (transposed, padded):
        assert not layout[0].is_contiguous()
        leaves = [part.requires_grad_() for part in layout]
        loss = BarlowTwinsLoss(form=form)(*leaves)
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            torch.autograd.grad(loss, leaves), torch.autograd.grad(paper_loss(*leaves, 5e-3), leaves)
        )


@pytest.fixture(scope="module")
def inductor_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty cache: the user's may hold code for another ATEN_CPU_CAPABILITY, which does not compile here."""
    return tmp_path_factory.mktemp("inductor")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiles_as_one_graph(form: str, backend: str, inductor_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor finds no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(inductor_cache))
    loss_fn = BarlowTwinsLoss(form=form)
    z = [part.requires_grad_() for part in embeddings(16, 24, torch.float32)]
    assert_agree(torch.compile(loss_fn, backend=backend, fullgraph=True)(*z), loss_fn(*z), z)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_hidden(form: str, bad: float) -> None:
    z_a, z_b = embeddings(8, 5)
    assert BarlowTwinsLoss(form=form).terms(z_a, z_b).finite.tolist() == [True]
    z_b[3, 2] = bad
    terms = BarlowTwinsLoss(form=form).terms(z_a, z_b)
    assert not terms.loss.isfinite()
    assert terms.finite.tolist() == [False]


def test_squares_that_overflow_are_told() -> None:
    """The loss is D then, as if nothing correlated."""
    z_a, z_b = embeddings(8, 5, torch.float32)
    assert BarlowTwinsLoss().terms(z_a * 1e30, z_b).finite.tolist() == [False]


def test_only_one_of_the_two_needs_a_gradient() -> None:
    z_a, z_b = embeddings(8, 5)
    z_a.requires_grad_()
    (gradient,) = torch.autograd.grad(BarlowTwinsLoss(0.1)(z_a, z_b), z_a)
    (expected,) = torch.autograd.grad(paper_loss(z_a, z_b, 0.1), z_a)
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_can_be_taken_twice() -> None:
    z = [part.requires_grad_() for part in embeddings(8, 5)]
    loss = 3 * BarlowTwinsLoss(0.1)(*z)
    first, second = (torch.autograd.grad(loss, z, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    torch.testing.assert_close(first, torch.autograd.grad(3 * paper_loss(*z, 0.1), z))


def test_auto_lambda_is_one_over_d() -> None:
    z = embeddings(8, 20)
    assert BarlowTwinsLoss("auto")(*z).item() == BarlowTwinsLoss(1 / 20)(*z).item()


@pytest.mark.parametrize("form", FORMS)
def test_constant_features_have_a_finite_gradient(form: str) -> None:
    z_a, z_b = (z.requires_grad_() for z in embeddings(8, 4))
    loss = BarlowTwinsLoss(form=form)(torch.zeros_like(z_a) * z_a + 1, z_b)
    loss.backward()
    assert loss.isfinite()
    assert z_a.grad.isfinite().all()
    assert loss.item() == pytest.approx(4.0), "C is 0 where a feature does not vary"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"lambda_param": -1.0}, "lambda_param: -1.0"),
        ({"lambda_param": float("nan")}, "lambda_param: nan"),
        ({"lambda_param": "1/D"}, "lambda_param: '1/D'.*or \"auto\""),
        ({"form": "dense"}, "form: 'dense'"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BarlowTwinsLoss(**arguments)


@pytest.mark.parametrize(
    ("z_a", "z_b", "named"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), r"z_a \(4, 3\) and z_b \(4, 2\)"),
        (torch.zeros(4), torch.zeros(4), r"z_a \(4,\)"),
        (torch.zeros(4, 3).long(), torch.zeros(4, 3).long(), r"torch.int64.*call \.float"),
        (torch.zeros(1, 3), torch.zeros(1, 3), r"a batch of 1 sample\(s\) has no variance"),
        (torch.zeros(0, 3), torch.zeros(0, 3), "a batch of 0 sample"),
    ],
)
@pytest.mark.filterwarnings("ignore:var_mean")
def test_bad_embeddings_are_named(z_a: Tensor, z_b: Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BarlowTwinsLoss()(z_a, z_b)


# What Lightly's own tests of its loss ask for, besides.


@pytest.mark.parametrize("available", [True, False])
def test_gathering_asks_once_whether_it_can(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.distributed, "is_available", lambda: asked.append(1) or available)
    if available:
        BarlowTwinsLoss(gather_distributed=True)
    else:
        with pytest.raises(ValueError, match="gather_distributed: True"):
            BarlowTwinsLoss(gather_distributed=True)
    assert len(asked) == 1


def test_gathering_without_a_group_is_one_rank() -> None:
    z = embeddings(8, 5)
    assert BarlowTwinsLoss(gather_distributed=True)(*z).item() == BarlowTwinsLoss()(*z).item()


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_offset_of_the_embeddings_do_not_matter(form: str) -> None:
    z_a, z_b = embeddings(32, 64, torch.float32)
    loss_fn = BarlowTwinsLoss(form=form)
    assert loss_fn(z_a, 2 * z_b + 4).item() == pytest.approx(loss_fn(z_a, z_b).item(), rel=1e-3)
