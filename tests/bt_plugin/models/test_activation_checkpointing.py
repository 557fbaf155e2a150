"""Recomputed activations change nothing but the memory: gradients, statistics, random states, names, on ranks too."""

# Annotations are evaluated here: torch reads those of functions that ranks import.

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from bt_plugin import BarlowTwins, BarlowTwinsLoss, build_backbone, build_projector
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.models.activation_checkpointing import blocks_of, checkpoint_activations
from bt_plugin.models.pool_before_relu import pool_before_relu
from bt_plugin.models.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm
from bt_plugin.models.trial_forward import check_model
from tests.ranks import run_ranks

PARTS: Any = ("blocks", "full")
# Networks of the libraries' classes, with fewer and narrower layers.
NETWORKS: dict[str, Any] = {
    "resnet18": {"layers": (3, 3, 1, 1), "channels": (32, 32, 16, 16)},
    "vit_tiny_patch16_224": {
        **{"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2},
        **{"proj_drop_rate": 0.3, "drop_path_rate": 0.3},
    },
}
both_networks = pytest.mark.parametrize("name", NETWORKS)
both_parts = pytest.mark.parametrize("parts", PARTS)


def network(name: str, parts: Any = "none", *, drops: bool = True) -> BarlowTwins:
    """The model in training. The transformer has dropout and stochastic depth."""
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, **NETWORKS[name])
    if not drops:
        for module in backbone.modules():
            if isinstance(module, (nn.Dropout, timm.layers.DropPath)):
                module.eval()
    pool_before_relu(backbone)
    model = BarlowTwins(backbone, build_projector(backbone.num_features, [16, 8]))
    checkpoint_activations(backbone, parts, compiled=False)
    return model


def views(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    view_a, view_b = torch.randn(2, n, 3, 32, 32, generator=generator)
    return view_a, view_b


def results(model: nn.Module, *micro_batches: tuple[Tensor, Tensor], gather: bool = False) -> dict[str, Tensor]:
    """The loss, all gradients and buffers, and the next random number."""
    torch.manual_seed(2)
    loss_fn = BarlowTwinsLoss(0.1, gather_distributed=gather)
    if len(micro_batches) > 1:
        loss = accumulated_backward(model, loss_fn, micro_batches).loss
    else:
        loss = loss_fn(*model(*micro_batches[0]))
        loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in gradients.items()}
    return {"loss": loss.detach(), "next": torch.rand(1), **whole, **dict(model.named_buffers())}


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-6 * float(value.abs().max()), msg=name)


@both_networks
@both_parts
def test_changes_nothing(name: str, parts: Any) -> None:
    plain, ours = network(name), network(name, parts)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    batch = views()
    expected = results(plain, batch)
    assert_same(results(copy.deepcopy(ours), batch), expected)
    counts = [buffer for name, buffer in plain.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(count == 2 for count in counts)
    ours.eval().load_state_dict(plain.eval().state_dict())
    with torch.no_grad():
        assert all(map(torch.equal, ours(*batch), plain(*batch)))


@both_networks
@both_parts
def test_accumulation_changes_nothing_either(name: str, parts: Any) -> None:
    halves = [(a, b) for a, b in zip(*(view.chunk(2) for view in views()))]
    assert_same(results(network(name, parts), *halves), results(network(name), *halves))


def kept_bytes(model: nn.Module, batch: tuple[Tensor, Tensor]) -> int:
    """The memory that waits for the backward pass, without the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        graph = model(*batch)
    assert graph[0].requires_grad
    return sum(found.values())


@both_networks
def test_less_is_kept(name: str) -> None:
    whole, by_blocks, full = (kept_bytes(network(name, parts), views()) for parts in ("none", *PARTS))
    assert full < by_blocks < 0.75 * whole
    assert full < 0.2 * whole


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("torchvision/resnet50", "Bottleneck", 16),
        ("torchvision/vit_b_16", "EncoderBlock", 12),
        ("torchvision/convnext_tiny", "CNBlock", 18),
        ("torchvision/regnet_x_400mf", "ResBottleneckBlock", 22),
        ("timm/convnext_atto", "ConvNeXtBlock", 12),
        ("timm/vit_tiny_patch16_224", "Block", 12),
    ],
)
def test_blocks_are_what_repeats(name: str, kind: str, number: int) -> None:
    assert [type(block).__name__ for block in blocks_of(build_backbone(name).module)] == [kind] * number


def test_nothing_is_recomputed_twice() -> None:
    backbone = network("resnet18", "blocks").backbone
    kinds = [type(module) for module in backbone.modules()]
    checkpoint_activations(backbone, "blocks", compiled=False)
    assert [type(module) for module in backbone.modules()] == kinds


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.backbone=torchvision/vgg11"], "blocks is not allowed for this backbone, which has no repeated blocks"),
        (["run.compile=true"], "blocks is not allowed with run.compile for a backbone with BatchNorm"),
    ],
)
def test_what_cannot_be_is_told_before_the_run(small_recipe: Path, overrides: list[str], says: str) -> None:
    recipe = load_recipe(small_recipe, ["model.activation_checkpointing=blocks", *overrides])
    with pytest.raises(RecipeError, match=f"model.activation_checkpointing: {says}"):
        check_model(recipe)


def test_the_compiler_takes_a_transformer() -> None:
    name = "vit_tiny_patch16_224"
    plain, ours = network(name, drops=False), network(name, drops=False)
    checkpoint_activations(ours.backbone, "blocks", compiled=True)
    ours.backbone.compile(backend="aot_eager")
    assert_same(results(ours, views()), results(plain, views()))


def of_rank(rank: int, name: str, parts: Any, wrapper: str) -> tuple[dict[str, Tensor], int]:
    """The results of a rank with its half of the batch, and how many statistics its layers listed."""
    model = synchronize_batch_norm(network(name))
    checkpoint_activations(model.backbone, parts, compiled=False)
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, SyncBatchNorm):
            module.seen = seen
    wrapped: nn.Module = model
    if wrapper == "ddp":
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    else:
        for block in blocks_of(model.backbone)[::2]:
            fully_shard(block)
        fully_shard(model)
    batch = views()
    found = results(wrapped, tuple(view.chunk(2)[rank] for view in batch), gather=True)  # type: ignore[arg-type]
    return {key.removeprefix("module."): value for key, value in found.items()}, len(seen)


@pytest.mark.distributed
@both_networks
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp"])
def test_ranks_agree(name: str, wrapper: str) -> None:
    for expected, *others in zip(*(run_ranks(2, of_rank, name, parts, wrapper) for parts in ("none", *PARTS))):
        assert expected[1] > 0
        for ours in others:
            assert ours[1] == expected[1]
            assert_same(ours[0], expected[0])
