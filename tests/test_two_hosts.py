"""Two hosts, each a network namespace with a cable to the other, and what a cut cable does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import REPOSITORY
from tests.forks import pretrain_on
from tests.network_hosts import ADDRESSES, run, two_hosts
from tests.test_launch import metrics, steps_done
from tests.test_survival import wait_for

MULTI_NODE = str(REPOSITORY / "recipes" / "accelerate" / "multi_node.yaml")


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two namespaces."""
    with two_hosts() as names:
        yield names


def start(hosts: tuple[str, str], recipe: Path, *options: str) -> list[subprocess.Popen[str]]:
    """`accelerate launch` on each host, one rank each."""
    cores = sorted(os.sched_getaffinity(0))
    return [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", host, sys.executable, "-m", "accelerate.commands.launch"),
                *("--config_file", MULTI_NODE, "--num_machines", "2", "--num_processes", "2"),
                *("--machine_rank", str(rank), "--main_process_ip", ADDRESSES[0], "--main_process_port", "29400"),
                *("-m", "bt_plugin", "pretrain", str(recipe), "eval.knn=false", *options),
            ],
            cwd=REPOSITORY,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "cable"},
            # A core each, as two ranks of one host have: another number of threads would round otherwise.
            preexec_fn=partial(os.sched_setaffinity, 0, {cores[rank % len(cores)]}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, host in enumerate(hosts)
    ]


@pytest.mark.distributed
def test_two_hosts_are_one_with_two_ranks(hosts: tuple[str, str], small_recipe: Path, tmp_path: Path) -> None:
    processes = start(hosts, small_recipe)
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    one = f"run.output_dir={tmp_path}/one"
    assert pretrain_on(2, str(small_recipe), "eval.knn=false", one).returncode == 0
    ours, theirs = (load_file(tmp_path / name / "export" / "backbone.safetensors") for name in ("run", "one"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert [line["loss"] for line in metrics(tmp_path / "run")] == [line["loss"] for line in metrics(tmp_path / "one")]


@pytest.mark.distributed
def test_a_cut_cable_ends_both_and_the_run_goes_on(hosts: tuple[str, str], small_recipe: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    options = ("optim.epochs=30", "run.timeout_s=10", "run.checkpoint_every_steps=2")
    processes = start(hosts, small_recipe, *options)
    wait_for(lambda: steps_done(run_dir) >= 5)
    run("ip", "-n", hosts[1], "link", "set", "cable", "down")
    cut_s = time.monotonic()
    for process in processes:
        _, errors = process.communicate(timeout=90)
        assert process.returncode != 0
        assert "lost contact with another rank, or it did not answer within run.timeout_s (10)" in errors, errors[
            -4000:
        ]
    # Its timeout, and what the launchers take to end.
    assert time.monotonic() - cut_s < 60
    done = steps_done(run_dir)
    run("ip", "-n", hosts[1], "link", "set", "cable", "up")
    processes = start(hosts, small_recipe, *options, f"run.max_steps={done + 2}")
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    assert [line["step"] for line in metrics(run_dir)] == list(range(1, done + 3))
