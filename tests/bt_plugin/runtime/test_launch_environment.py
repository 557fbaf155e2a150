"""Variables that no launcher sets so are named, before anything reads them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bt_plugin.errors import LaunchError
from bt_plugin.runtime.launch_environment import check_launch_environment
from dali_pipelines.ranks import cores_per_rank, rank_and_world_size

GROUP = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE='0'"),
        ({"LOCAL_WORLD_SIZE": "abc"}, "LOCAL_WORLD_SIZE='abc'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE=''"),
        ({"RANK": "one"}, "RANK='one'"),
        ({"RANK": "٣"}, "RANK="),
        ({"LOCAL_RANK": "1.5"}, "LOCAL_RANK='1.5'"),
        ({"NUMBA_NUM_THREADS": "0"}, "NUMBA_NUM_THREADS='0'"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is not allowed; it must be 1 to 65535"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        ({"ACCELERATE_USE_CPU": "maybe"}, "ACCELERATE_USE_CPU='maybe'"),
        ({"ACCELERATE_MIXED_PRECISION": "fp7"}, "ACCELERATE_MIXED_PRECISION='fp7'"),
        ({"ACCELERATE_USE_FSDP": "2"}, "ACCELERATE_USE_FSDP='2'"),
        (GROUP | {"RANK": ""}, r"RANK=''"),
        (GROUP | {"RANK": "2"}, r"RANK=2 is not allowed with \$WORLD_SIZE=2"),
        (GROUP | {"MASTER_ADDR": ""}, r"WORLD_SIZE is 2, but \$MASTER_ADDR is not set"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=named):
        check_launch_environment()


def test_right_ones_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    check_launch_environment()
    for name, value in (GROUP | {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    check_launch_environment()
    assert rank_and_world_size() == (1, 2)
    assert rank_and_world_size(0, 1) == (0, 1)


def test_loaders_name_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "many")
    with pytest.raises(ValueError, match=r"\$LOCAL_WORLD_SIZE='many' is not allowed; it must be a whole number"):
        cores_per_rank()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(ValueError, match=r"\$RANK='x'"):
        rank_and_world_size()


@pytest.mark.slow
def test_a_rank_that_never_comes_is_told(tmp_path: object) -> None:
    """Only one of two ranks is started."""
    program = "from bt_plugin.runtime.accelerator import build_accelerator;"
    program += "from bt_plugin.config.run import ProcessOptions;"
    program += "build_accelerator(ProcessOptions(device='cpu', timeout_s=6))"
    import os

    variables = {
        **os.environ,
        **GROUP,
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_PORT": "29617",
        "ACCELERATE_USE_CPU": "1",
    }
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=variables, timeout=120)
    last = result.stderr.strip().splitlines()[-1]
    assert "LaunchError: rank 0 of 2 cannot join the others at localhost:29617 within run.timeout_s (6)" in last
    assert "1/2" in last, "how many came"
