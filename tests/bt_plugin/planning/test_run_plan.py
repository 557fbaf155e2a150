"""What a plan says of a whole run, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from torch import nn

import bt_plugin
from bt_plugin.cli import main
from bt_plugin.config.recipe import Recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.errors import RecipeError
from bt_plugin.planning.cards import CARDS, find_card
from bt_plugin.planning.memory import step_memory
from bt_plugin.planning.quantity import Quantity
from bt_plugin.planning.run_plan import RunPlan, plan_run
from bt_plugin.planning.step_meter import Collective, Operation
from bt_plugin.planning.step_time import roofline_seconds, step_time
from bt_plugin.planning.traced_step import TracedStep, trace_step
from tests.bt_plugin.planning.steps import step_recipe
from tests.conftest import REPOSITORY

ARGUMENTS = ["quickstart", "model.backbone=timm/test_resnet", "views.both.size_px=64", "model.projector=[64, 64]"]


@pytest.fixture(scope="module")
def plan() -> RunPlan:
    return plan_run(step_recipe(optim__epochs=20), world_size=2, num_images=1000)


def named(quantities: list[Quantity], name: str, unit: str | None = None) -> Quantity:
    (found,) = [each for each in quantities if each.name == name and unit in (None, each.unit)]
    return found


def test_the_whole_run(plan: RunPlan) -> None:
    steps = 1000 // 8 * 20
    assert named(plan.run, "steps of the run").low == steps
    speed, hours = named(plan.time, "speed"), named(plan.run, "the run", "h")
    assert hours.low == pytest.approx(steps * 8 / speed.high / 3600)
    assert hours.high == pytest.approx(steps * 8 / speed.low / 3600)
    assert named(plan.run, "the run", "GPU-h").low == pytest.approx(2 * hours.low)
    assert named(plan.time, "a step").high == pytest.approx(8 / speed.low)
    assert plan.setup["micro_batch_size"] == 4
    assert plan.fits
    assert {card["gpu"] for card in plan.cards} == set(CARDS)


def test_each_number_says_how_it_is_known(plan: RunPlan) -> None:
    numbers = [*plan.memory, *plan.time, *plan.run, *plan.data]
    assert {number.kind for number in numbers} == {"computed", "measured", "published", "assumed"} - {"published"}
    assert all(number.source and number.low <= number.high for number in numbers)
    total = named(plan.memory, "total").low
    assert total == pytest.approx(sum(number.low for number in plan.memory[:-2]))
    assert all(card["memory_kind"] == "computed" and card["images_per_s_source"] for card in plan.cards)
    (same,) = [card for card in plan.cards if card["gpu"] == "h100"]
    speed = named(plan.time, "speed")
    assert (same["images_per_s"], same["images_per_s_kind"]) == ([speed.low, speed.high], speed.kind)
    # A record that is named exists.
    text = json.dumps(plan.to_dict())
    for record in ("2026-11-23_loader_stages.json", "2026-11-29_plan.json"):
        assert (REPOSITORY / "benchmarks" / "records" / record).exists()
    assert "2026-11-23_loader_stages.json" in text


def test_the_range_is_that_of_the_record() -> None:
    from bt_plugin.planning import step_time as module

    record = json.loads((REPOSITORY / "benchmarks" / "records" / module.RECORD).read_text())
    shares = [row["share"] for row in [*record["supervised"], *record["twins"]] if "share" in row]
    assert (round(min(shares), 2), round(max(shares), 2)) == module.ROOFLINE_SHARES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "world_size"),
    [
        ({}, 1),
        ({"optim__accumulation_steps": 3}, 1),
        ({"data__backend": "native", "loss__form": "cross", "model__projector": [64, 2048]}, 1),
        ({"model__projector": [64, 1024]}, 4),
    ],
)
def test_the_largest_micro_batch_fits_and_one_more_does_not(changes: dict[str, Any], world_size: int) -> None:
    def recipe_of(micro_batch_size: int) -> Recipe:
        images = micro_batch_size * world_size * changes.get("optim__accumulation_steps", 1)
        return step_recipe(**changes, optim__global_batch_size=images)

    def needed_gib(n: int) -> float:
        return step_memory(recipe_of(n), trace_step(recipe_of(n), micro_batch_size=n, world_size=world_size)).total.low

    gpu = "1.9,100,1000"
    most = plan_run(recipe_of(4), gpu=gpu, world_size=world_size, num_images=10**6).largest_micro_batch
    assert most > 40
    assert needed_gib(most) <= find_card(gpu).usable_gib < needed_gib(most + 1)


def test_no_micro_batch_fits() -> None:
    assert plan_run(step_recipe(), gpu="1,100,1000", num_images=100).largest_micro_batch == 0


@pytest.mark.slow
def test_remedies_are_traced() -> None:
    recipe = step_recipe(
        model__backbone="timm/test_vit",
        views__both__size_px=160,
        optim__global_batch_size=256,
        run__device="gpu",
        data__backend="native",
    )
    gpu = "1.6,100,1000"
    plan = plan_run(recipe, gpu=gpu, num_images=1000)
    assert not plan.fits
    assert "does not fit" in plan.advice[0]
    said = [line for line in plan.advice if line.startswith("Set ")]
    assert [line.split("=")[0] for line in said[:3]] == [
        "Set run.mixed_precision",
        "Set model.activation_checkpointing",
        "Set optim.accumulation_steps",
    ]
    assert {line.endswith("and fits.") for line in said} == {True, False}
    for line in said:
        keys = line.removeprefix("Set ").split(", which")[0].split(" and ")
        changed = plan_run(load_recipe(recipe, keys), gpu=gpu, num_images=1000)
        assert changed.fits == line.endswith("and fits.")
        assert f"needs {named(changed.memory, 'total').low:.1f} GiB" in line


def made_step(operations: list[Operation], collectives: list[Collective]) -> TracedStep:
    return TracedStep(8, 1, {}, {}, {}, 0, 0, operations, collectives, 0, 0, [], 0)


def test_time_by_the_roofline() -> None:
    card = CARDS["h100"]
    products = Operation(flops=int(989e12), moved_bytes=10, kind="low")
    copies = Operation(flops=0, moved_bytes=int(3350e9), kind="matmul")
    assert roofline_seconds(products, card) == pytest.approx(1)
    assert roofline_seconds(copies, card) == pytest.approx(1)
    in_float32 = products._replace(kind="convolution")
    assert roofline_seconds(in_float32, card) == pytest.approx(989 / 494)
    recipe = step_recipe()
    step = made_step([products, copies], [])
    alone = step_time(recipe, step, card, world_size=1, gpus_per_node=8)
    assert (alone.step.low, alone.step.high) == pytest.approx((2 / 0.84, 2 / 0.38))
    assert alone.utilization.high == pytest.approx(100 * 0.84 / 2)
    assert alone.communication.low == alone.communication.high == alone.sent.low == 0


def test_collectives_by_the_model_of_the_cluster() -> None:
    record = json.loads((REPOSITORY / "benchmarks" / "records" / "2026-11-23_scaling_model.json").read_text())
    gradients = 4 * 174_535_744  # weights of a ResNet-50 with the projector of the paper
    step = made_step([], [Collective("all_reduce", gradients, waits=False)])
    for row in record["rows"][1:8]:
        time = step_time(step_recipe(), step, CARDS["h100"], world_size=row["world_size"], gpus_per_node=8)
        assert time.communication.low == 0
        assert time.communication.high == pytest.approx(row["gradients_s"], rel=0.01)
        waited = step._replace(collectives=[step.collectives[0]._replace(waits=True)])
        time = step_time(step_recipe(), waited, CARDS["h100"], world_size=row["world_size"], gpus_per_node=8)
        assert time.communication.low == time.communication.high > 0


@pytest.mark.parametrize(
    ("names", "card"),
    [
        (("h100", "H100", "nvidia-h100", "NVIDIA H100 80GB HBM3"), "h100"),
        (("h100_pcie", "NVIDIA H100 PCIe"), "h100-pcie"),
        (("a100-80", "A100-80GB", "NVIDIA A100-SXM4-80GB"), "a100"),
        (("a100-40GB", "NVIDIA A100-SXM4-40GB"), "a100-40"),
        (("a6000", "RTX A6000", "NVIDIA RTX A6000"), "rtx-a6000"),
        (("4090", "rtx-4090", "NVIDIA GeForce RTX 4090", "4090 24GB"), "4090"),
        (("Tesla V100-SXM2-32GB",), "v100"),
        (("Tesla T4",), "t4"),
    ],
)
def test_names_of_cards(names: tuple[str, ...], card: str) -> None:
    assert [find_card(name).name for name in names] == [card] * len(names)


def test_each_card_has_its_own_name() -> None:
    assert all(find_card(name) is card for name, card in CARDS.items())


def test_ecc_takes_a_sixteenth_of_memory_that_has_no_bits_for_it() -> None:
    """nvidia-smi reports 46,068 MiB of an L40S, 23,034 MiB of an L4 and 15,360 MiB of a T4."""
    for name, reported_mib in (("l40s", 46068), ("l4", 23034), ("t4", 15360)):
        assert find_card(name).usable_gib * 1024 == pytest.approx(reported_mib, rel=0.001)
    assert find_card("h100").usable_gib > 78


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (
            "h101",
            r"--gpu: h101 is not known, did you mean h100\? use one of b200, .* or its numbers as GiB,TFLOPS,GBPS",
        ),
        ("NVIDIA H100 NVL", r"--gpu: NVIDIA H100 NVL is not known, did you mean h100\?"),
        ("Tesla V100-SXM2-16GB", r"is not known, did you mean v100\?"),
        ("NVIDIA", r"--gpu: NVIDIA is not known; use one of b200"),
        ("80,989", r"--gpu: 80,989 is not allowed; it must be three positive numbers"),
        ("80,-1,3350", r"--gpu: 80,-1,3350 is not allowed"),
        ("80,nan,3350", r"--gpu: 80,nan,3350 is not allowed"),
    ],
)
def test_unknown_cards(gpu: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        find_card(gpu)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"world_size": 0}, "--world-size: 0 is not allowed; it must be 1 to"),
        ({"world_size": 3}, "optim.global_batch_size: 8 does not divide over 3 ranks"),
        ({"world_size": 4, "nodes": 3}, "--nodes: 3 is not allowed with --world-size 4"),
        ({"fsdp": True}, "--fsdp: is not allowed with --world-size 1"),
        ({"num_images": 0}, "--num-images: 0 is not allowed"),
        ({"num_images": 4}, "--num-images: 4 is not allowed; it must be at least optim.global_batch_size, which is 8"),
    ],
)
def test_what_cannot_be_planned(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        plan_run(step_recipe(), **options)


def test_a_network_that_does_not_exist() -> None:
    with pytest.raises(RecipeError, match=r"torchvision/resnet19 .*did you mean"):
        plan_run(step_recipe(model__backbone="torchvision/resnet19"))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*ARGUMENTS, "optim.global_batch_size=16", "data.train=s3://bucket/train-{0..3}.tar"]
    assert main(["plan", *arguments, "--num-images", "100", "--gpu", "24,165,1008", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setup"]["gpu"]["memory_gib"] == 24
    days = [number for number in found["data"] if number["name"].startswith("from the storage in a day")]
    assert len(days) == 1
    assert main(["plan", *ARGUMENTS, "data.train=nowhere"]) == 0
    text = capsys.readouterr().out
    for part in ("Memory of a rank", "activations of the backbone", "computed: ", "assumed: ", "Other GPUs", "4090"):
        assert part in text
    assert "The length of the run is not known: data.train: " in text
    assert "nowhere: does not exist" in text


def own_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_network_of_a_program() -> None:
    found = bt_plugin.plan(
        step_recipe(), ["optim.global_batch_size=16"], gpu="4090", num_images=100, backbone=own_network
    )
    weights = 8 * 28 + 8 * 64 + 64 * 64 + 2 * 64
    # Each tensor is rounded up to 512 bytes: five weights, and three buffers of BatchNorm.
    assert 4 * weights <= named(found.memory, "weights and buffers").low * 2**30 < 4 * weights + 8 * 512
    assert found.setup["micro_batch_size"] == 16
    assert found.largest_micro_batch > 16


def test_images_that_are_here(small_recipe: Any) -> None:
    recipe = load_recipe(small_recipe)
    plan = plan_run(recipe)
    assert named(plan.run, "steps of the run").low == recipe.steps_per_epoch(36) * recipe.optim.epochs
    assert named(plan.data, "read").source == "images of data.train"
