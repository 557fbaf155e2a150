"""The advice that follows from measured rates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.tools.bench_advice import Throughput, advice

WELL = Throughput(
    loader=3000,
    step=1000,
    both=990,
    decode=5000,
    data_wait=0.01,
    optimizer_share=0.02,
    flops_per_image=2.5e10,
    matmul_flops_per_s=5e13,
    matmul_bf16_flops_per_s=5e13,
)


@pytest.mark.parametrize(
    ("changes", "device", "overrides", "said", "unsaid"),
    [
        (
            {},
            "cuda",
            [],
            [
                "the step is the bottleneck: it waits 1%",
                "reaches 50%",
                "The optimizer takes 2.0% of the step",
            ],
            ["num_threads", "bf16"],
        ),
        (
            {"matmul_bf16_flops_per_s": 9e13},
            "cpu",
            [],
            ["1.8 times as fast in bfloat16. Try run.mixed_precision=bf16"],
            [],
        ),
        ({"matmul_flops_per_s": 5e14}, "cuda", [], ["reaches 5%", "larger batches per rank"], []),
        (
            {"data_wait": 0.4, "loader": 600, "decode": 700},
            "cuda",
            [],
            ["waits 40%", "limited by reading and decoding"],
            ["bottleneck"],
        ),
        ({"data_wait": 0.4, "loader": 600}, "cuda", [], ["waits 40%", "limited by augmentation"], []),
        ({"both": 750}, "cpu", [], ["views take 25% of the time"], ["bf16", "hw_decoder_load"]),
        (
            {"data_wait": 0.4, "loader": 600, "decode": 700},
            "cuda",
            ["data.hw_decoder_load=0.2"],
            ["data.hw_decoder_load (now 0.2)"],
            ["data.prefetch"],
        ),
        ({"data_wait": 0.1}, "cuda", ["data.prefetch=3"], ["data.prefetch (now 3)"], ["hw_decoder_load"]),
        ({}, "cuda", [], ["the nearest limit is large matrix products: training reaches 50% of it"], []),
        ({"decode": 1100.0}, "cuda", [], ["the nearest limit is reading and decoding: training reaches 90% of it"], []),
        ({"other_loader": 6000.0}, "cpu", [], ["2.00 times the rate with data.backend=dali. Try it"], []),
        ({"other_loader": 600.0}, "cpu", [], ["0.20 times", "native is the faster backend here"], ["Try it"]),
        (
            {"transfer": 1000.0},
            "cuda",
            [],
            ["the nearest limit is copies to the device: training reaches 99% of it"],
            [],
        ),
    ],
)
def test_what_is_said(
    small_recipe: Path, changes: dict[str, float], device: str, overrides: list[str], said: list[str], unsaid: list[str]
) -> None:
    lines = "\n".join(
        advice(replace(WELL, **changes), load_recipe(small_recipe, overrides), device=device, world_size=1)
    )
    assert all(part in lines for part in said), lines
    assert not any(part in lines for part in unsaid), lines


def test_several_ranks_reach_their_share() -> None:
    assert WELL.of_matmul(4) == WELL.of_matmul(1) / 4
