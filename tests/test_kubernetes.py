"""The Kubernetes Job: its schema, its names, and its pods as processes of two hosts of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest
import torch
import yaml

from bt_plugin.config.bundled_recipes import find_recipe
from bt_plugin.config.recipe_file import load_recipe
from bt_plugin.runtime.stop_request import EXIT_PREEMPTED
from tests.conftest import REPOSITORY
from tests.forks import pretrain_on
from tests.network_hosts import ADDRESSES, two_hosts
from tests.test_launch import metrics, steps_done
from tests.test_survival import wait_for, weights

JOB, SERVICE = yaml.safe_load_all(find_recipe("kubernetes/job").read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
ENV = {each["name"]: each["value"] for each in CONTAINER["env"]}

# What the kubelet does before it starts a container: the pod's name, its hosts file, and 64 KiB of shared memory.
PREPARE = """
hostname "$0"
mount --bind "$1" /etc/hosts
mount -t tmpfs -o size=64k shm /dev/shm
exec "${@:2}"
"""


def test_the_api_accepts_it() -> None:
    for each in (JOB, SERVICE):
        kubernetes_validate.validate(each, "1.33", strict=True)
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_its_numbers_and_names_agree() -> None:
    spec, name = JOB["spec"], SERVICE["metadata"]["name"]
    assert {spec["completions"], spec["parallelism"], int(ENV["NODES"])} == {2}
    assert ENV["GPUS"] == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert ENV["FIRST_POD"] == f"{JOB['metadata']['name']}-0.{name}"
    assert POD["subdomain"] == name
    assert SERVICE["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    policies = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    assert {policy["containerName"] for policy in policies} == {CONTAINER["name"]}
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert volumes == {mount["name"] for mount in CONTAINER["volumeMounts"]}


def test_its_recipe_is_on_its_volumes() -> None:
    name, *changes = CONTAINER["args"]
    recipe = load_recipe(name, changes)
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert Path(str(recipe.data.train)).is_relative_to(mounts["data"])
    assert Path(str(recipe.data.val)).is_relative_to(mounts["data"])
    assert Path(recipe.run.output_dir).is_relative_to(mounts["runs"])


def test_shellcheck_has_nothing_to_say() -> None:
    command = [Path(sys.executable).parent / "shellcheck", "--shell", "bash", "-"]
    result = subprocess.run(command, input=CONTAINER["command"][2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def action_on(code: int) -> str:
    """What the Job's controller does with a pod that failed: the first rule that matches, or it counts."""
    for rule in JOB["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (code in codes["values"]) == (codes["operator"] == "In"):
            return str(rule["action"])
    return "Count"


def test_only_a_checkpoint_is_no_failure() -> None:
    assert [action_on(code) for code in (EXIT_PREEMPTED, 1, 2, 137)] == ["Ignore", "Count", "Count", "Count"]


class Pods:
    """Pods of the Job, each with a host of its own, and its names as the cluster's DNS would give them."""

    def __init__(self, hosts: tuple[str, str], folder: Path) -> None:
        self._hosts = hosts
        self._files = [folder / f"hosts-{index}" for index in range(2)]
        self._started: list[subprocess.Popen[str]] = []

    def start(self, index: int, *arguments: Any) -> subprocess.Popen[str]:
        names = [f"{JOB['metadata']['name']}-{each}" for each in range(2)]
        lines = [f"{address} {name}.{POD['subdomain']} {name}\n" for address, name in zip(ADDRESSES, names)]
        has_first = index == 0 or self._files[0].exists()
        self._files[index].write_text("127.0.0.1 localhost\n" + "".join(lines if has_first else lines[1:]))
        if index == 0 and self._files[1].exists():
            self._files[1].write_text(self._files[0].read_text())
        cores = sorted(os.sched_getaffinity(0))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        pod = subprocess.Popen(
            [
                *("ip", "netns", "exec", self._hosts[index], "unshare", "--uts"),
                *("bash", "-c", PREPARE, names[index], str(self._files[index])),
                *(*CONTAINER["command"], *map(str, arguments)),
            ],
            cwd=REPOSITORY,
            env={**os.environ, **ENV, "PATH": path, "GPUS": "1", "JOB_COMPLETION_INDEX": str(index)},
            # As forked ranks have: another number of threads would round otherwise.
            preexec_fn=partial(os.sched_setaffinity, 0, {cores[index % len(cores)]}),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(pod)
        return pod

    def end(self) -> None:
        """Kill what a failed test has left."""
        for pod in self._started:
            if pod.poll() is None:
                for child in psutil.Process(pod.pid).children(recursive=True):
                    child.kill()
                pod.kill()
                pod.communicate()


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    with two_hosts() as hosts:
        pods = Pods(hosts, tmp_path)
        yield pods
        pods.end()


def ended(pods: list[subprocess.Popen[str]]) -> list[int]:
    """Exit codes."""
    for pod in pods:
        _, errors = pod.communicate(timeout=120)
        assert pod.returncode in (0, EXIT_PREEMPTED), errors
    return [pod.returncode for pod in pods]


@pytest.mark.slow
@pytest.mark.distributed
def test_pods_restart_until_the_run_is_done(pods: Pods, small_recipe: Path, tmp_path: Path) -> None:
    """A node is drained: its pod alone gets SIGTERM. Both are replaced, and end with the weights of a whole run."""
    options = [small_recipe, "eval.knn=false", "optim.epochs=30"]
    second = pods.start(1, *options)
    wait_for(lambda: "sleep" in [child.name() for child in psutil.Process(second.pid).children()])
    first = pods.start(0, *options)
    wait_for(lambda: steps_done(tmp_path / "run") >= 5)
    second.send_signal(signal.SIGTERM)
    codes = ended([first, second])
    assert [action_on(code) for code in codes] == ["Ignore", "Ignore"]
    done = steps_done(tmp_path / "run")
    options.append(f"run.max_steps={done + 2}")
    assert ended([pods.start(index, *options) for index in (1, 0)]) == [0, 0]
    assert [line["step"] for line in metrics(tmp_path / "run")] == list(range(1, done + 3))
    whole = pretrain_on(2, *map(str, options), f"run.output_dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
