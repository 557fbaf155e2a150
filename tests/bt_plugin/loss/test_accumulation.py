"""Accumulated micro-batches against the whole batch through plain autograd."""

# Annotations are evaluated here: DDP reads those of its hook.

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_projector
from bt_plugin.loss.accumulation import accumulated_backward
from tests.ranks import run_ranks

Views = tuple[Tensor, Tensor]


def small_model(dropout: float = 0.0) -> BarlowTwins:
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(), nn.Linear(144, 6)
    )
    return BarlowTwins(backbone, build_projector(6, [8, 5])).double()


def micro_batches(count: int, n: int = 5) -> list[Views]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for number in range(count):
        images = (1 + number) * torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64) + number
        noise = torch.randn(2, n, 3, 8, 8, generator=generator, dtype=torch.float64)
        batches.append((images + noise[0], images - noise[1]))
    return batches


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters()]


def through_one_graph(model: BarlowTwins, batches: list[Views]) -> Tensor:
    """All micro-batches embedded one by one, kept, and differentiated together."""
    parts = [model(*views) for views in batches]
    loss = BarlowTwinsLoss(0.1)(*(torch.cat(part) for part in zip(*parts)))
    loss.backward()
    return loss


@pytest.mark.parametrize("count", [2, 4])
def test_is_the_gradient_of_the_whole_batch(count: int) -> None:
    batches = micro_batches(count)
    ours, whole = small_model().eval(), small_model().eval()
    terms = accumulated_backward(ours, BarlowTwinsLoss(0.1), batches)
    z = whole(*(torch.cat(part) for part in zip(*batches)))
    loss = BarlowTwinsLoss(0.1)(*z)
    loss.backward()
    torch.testing.assert_close(terms.loss, loss.detach(), rtol=1e-10, atol=0)
    for gradient, expected in zip(gradients(ours), gradients(whole)):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-10)


def test_batchnorm_takes_statistics_by_micro_batch_and_moves_once() -> None:
    batches = micro_batches(3)
    ours, whole = small_model(), small_model()
    accumulated_backward(ours, BarlowTwinsLoss(0.1), batches)
    through_one_graph(whole, batches)
    for gradient, expected in zip(gradients(ours), gradients(whole)):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-10)
    for (name, buffer), expected in zip(ours.named_buffers(), whole.buffers()):
        assert torch.equal(buffer, expected), name
    assert ours.backbone[1].num_batches_tracked == 2 * len(batches)


def test_both_passes_have_the_same_dropout_and_it_is_drawn_once() -> None:
    batches = micro_batches(3)
    ours, whole = small_model(dropout=0.5), small_model(dropout=0.5)
    torch.manual_seed(7)
    accumulated_backward(ours, BarlowTwinsLoss(0.1), batches)
    after_ours = torch.rand(3)
    torch.manual_seed(7)
    through_one_graph(whole, batches)
    assert torch.equal(after_ours, torch.rand(3))
    for gradient, expected in zip(gradients(ours), gradients(whole)):
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-10)


def test_gradients_add_up_and_pass_through_the_callers_backward() -> None:
    batches = micro_batches(2)
    ours, once = small_model().eval(), small_model().eval()
    accumulated_backward(once, BarlowTwinsLoss(0.1), batches)
    for _ in range(2):
        accumulated_backward(ours, BarlowTwinsLoss(0.1), batches, backward=lambda loss: (1024 * loss).backward())
    for gradient, expected in zip(gradients(ours), gradients(once)):
        torch.testing.assert_close(gradient, 2048 * expected)


def rank_gradients(rank: int, count: int) -> tuple[list[Tensor], list[int]]:
    """The gradients after DDP's averaging, and after how many micro-batches each all-reduce came."""
    done: list[int] = []
    reduced_after: list[int] = []
    model = DistributedDataParallel(small_model().eval())

    def hook(_: None, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        reduced_after.append(len(done))
        work = distributed.all_reduce(bucket.buffer().div_(distributed.get_world_size()), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    def backward(loss: Tensor) -> None:
        loss.backward()
        done.append(1)

    model.register_comm_hook(None, hook)
    mine = micro_batches(2 * count)[rank * count : (rank + 1) * count]
    accumulated_backward(
        model, BarlowTwinsLoss(0.1, gather_distributed=True), mine, backward=backward, no_sync=model.no_sync
    )
    return gradients(model.module), reduced_after


@pytest.mark.distributed
def test_ranks_reduce_once_after_the_last_micro_batch() -> None:
    count = 3
    whole = small_model().eval()
    accumulated_backward(whole, BarlowTwinsLoss(0.1), micro_batches(2 * count))
    for ours, reduced_after in run_ranks(2, rank_gradients, count):
        assert reduced_after == [count - 1], "in the last backward pass, once"
        for gradient, expected in zip(ours, gradients(whole)):
            torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-10)
