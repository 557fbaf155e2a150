"""Test that runs survive faults: kills, signals, a full disk, a damaged checkpoint and a cut network link.

python benchmarks/faults.py --kills 20

The runs are real launches on the demo data, on a CPU. The final weights of each are compared with those of an
undisturbed run. Steps lost are the steps after the last checkpoint, which are repeated. The full disk and the link need
root, and are left out without it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from record import write_record
from safetensors.torch import load_file

from bt_plugin.checkpoints.folder import checkpoints, read_metadata

RECIPE = """
data: {train: data/demo/train, num_threads: 1}
views: {both: {size_px: 32}}
model: {backbone: torchvision/shufflenet_v2_x0_5, projector: [64, 64]}
optim: {epochs: 3, warmup_epochs: 1, global_batch_size: 64, lr_biases: 0.01}
run: {output_dir: OUT, device: cpu, log_every_steps: 1, checkpoint_every_steps: 4, timeout_s: 15}
"""
STEPS = 3 * 24
LAUNCH = [sys.executable, "-m", "bt_plugin", "launch", "--config_file"]
LAUNCHERS = {1: [*LAUNCH, "recipes/accelerate/cpu.yaml"], 2: [*LAUNCH, "recipes/accelerate/cpu_2proc.yaml"]}
ADDRESSES = ("10.78.0.1", "10.78.0.2")

Fault = Callable[[Path, list["subprocess.Popen[bytes]"]], None]
Start = Callable[[Path], list["subprocess.Popen[bytes]"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", type=int, default=5)
    parser.add_argument("--link-only", action="store_true", help="test only the cut link")
    arguments = parser.parse_args()
    is_root = os.geteuid() == 0
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for world_size in () if arguments.link_only else (1, 2):
            whole = folder / f"whole{world_size}"
            start = launcher(folder, world_size)
            finish(start(whole))
            rows += [
                survive("SIGKILL of all ranks", start, whole, kill, arguments.kills, world_size),
                survive("SIGTERM to the launcher", start, whole, polite(signal.SIGTERM), arguments.signals, world_size),
                survive("SIGUSR1 to the launcher", start, whole, polite(signal.SIGUSR1), arguments.signals, world_size),
                survive("newest checkpoint damaged", start, whole, damage, 2, world_size),
            ]
            if is_root:
                with small_disk(folder / f"disk{world_size}") as disk:
                    rows.append(survive("full disk", start, whole, fill, 2, world_size, disk / "run"))
        if is_root:
            with two_hosts() as hosts:
                start = on_hosts(folder, hosts)
                # The comparison run uses two hosts too. A rank uses all cores of its host as threads. On one host it
                # would have half as many, and other bits.
                finish(start(folder / "whole_hosts"))
                rows.append(survive("cut link between two hosts", start, folder / "whole_hosts", cut(hosts), 2, 2))
    print(write_record("faults", {"steps": STEPS, "checkpoint_every_steps": 4, "results": rows}))


def survive(
    name: str, start: Start, whole: Path, fault: Fault, times: int, world_size: int, run_dir: Path | None = None
) -> dict[str, Any]:
    """Start a run, cause a fault at a random step, start it again, and repeat. Return a row of the table.

    Args:
        name: Name of the fault.
        start: Function that starts the run in a directory.
        whole: Directory of the undisturbed run.
        fault: Function that causes the fault.
        times: Number of faults.
        world_size: Number of ranks.
        run_dir: Directory of the run. Default: next to `whole`.
    """
    run_dir = run_dir or whole.with_name(f"{name.replace(' ', '_')}{world_size}")
    rng = random.Random(f"{name}{world_size}")
    lost, met = [], 0
    for number in range(times):
        before = steps_done(run_dir)
        until = min(before + rng.randint(1, max(1, 2 * (STEPS - before) // (times - number + 1))), STEPS - 1)
        processes = start(run_dir)
        while steps_done(run_dir) < until and all(process.poll() is None for process in processes):
            time.sleep(0.005)
        time.sleep(rng.random() * 0.3)
        fault(run_dir, processes)
        met += sum(process.wait() != 0 for process in processes) > 0
        lost.append(steps_done(run_dir) - newest_step(run_dir))
    finish(start(run_dir))
    ours, theirs = (load_file(path / "export" / "backbone.safetensors") for path in (run_dir, whole))
    difference = max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)
    row = {"fault": name, "ranks": world_size, "tried": times, "ended the run": met, "survived": times}
    row |= {"most steps lost": max(lost), "steps lost": sum(lost), "largest difference of final weights": difference}
    print(*(f"{key}: {value}" for key, value in row.items()), sep=", ", flush=True)
    return row


def launcher(folder: Path, world_size: int) -> Start:
    def start(run_dir: Path) -> list[subprocess.Popen[bytes]]:
        return [popen([*LAUNCHERS[world_size], *pretrain(folder, run_dir)])]

    return start


def pretrain(folder: Path, run_dir: Path) -> list[str]:
    recipe = folder / f"{run_dir.name}{run_dir.parent.name}.yaml"
    recipe.write_text(RECIPE.replace("OUT", str(run_dir)))
    return ["-m", "bt_plugin", "pretrain", str(recipe)]


def popen(command: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable"} if "netns" in command else None
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, start_new_session=True, stdout=quiet, stderr=quiet, env=environment)


def finish(processes: list[subprocess.Popen[bytes]]) -> None:
    if any([process.wait() for process in processes]):
        sys.exit("an undisturbed run failed; start it by hand to see why")


def steps_done(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def newest_step(run_dir: Path) -> int:
    found = checkpoints(run_dir)
    return read_metadata(found[-1]).step if found else 0


def kill(run_dir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    import psutil

    for process in processes:
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def polite(number: signal.Signals) -> Fault:
    return lambda run_dir, processes: processes[0].send_signal(number)


def damage(run_dir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    while len(checkpoints(run_dir)) < 2:
        time.sleep(0.01)
    kill(run_dir, processes)
    path = checkpoints(run_dir)[-1] / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def fill(run_dir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    """Fill the disk until the run ends, then free the space again."""
    stuffing = run_dir.parent / "stuffing"
    with suppress(OSError), open(stuffing, "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    for process in processes:
        process.wait()
    stuffing.unlink()


def cut(hosts: tuple[str, str]) -> Fault:
    def fault(run_dir: Path, processes: list[subprocess.Popen[bytes]]) -> None:
        ip("-n", hosts[1], "link", "set", "cable", "down")
        for process in processes:
            process.wait()
        ip("-n", hosts[1], "link", "set", "cable", "up")

    return fault


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of 32 MiB, several times what the run needs."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Create two network namespaces that are connected by a virtual cable."""
    hosts = (f"bt-c-{os.getpid()}", f"bt-d-{os.getpid()}")
    try:
        for host in hosts:
            ip("netns", "add", host)
        ip("link", "add", "cable", "netns", hosts[0], "type", "veth", "peer", "cable", "netns", hosts[1])
        for host, address in zip(hosts, ADDRESSES):
            ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", host, "link", "set", device, "up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host], check=False)


def on_hosts(folder: Path, hosts: tuple[str, str]) -> Start:
    def start(run_dir: Path) -> list[subprocess.Popen[bytes]]:
        address = ["--main_process_ip", ADDRESSES[0], "--main_process_port", "29400"]
        world = ["recipes/accelerate/multi_node.yaml", "--num_machines", "2", "--num_processes", "2", *address]
        return [
            popen(
                [
                    *("ip", "netns", "exec", host, *LAUNCH, *world, "--machine_rank", str(rank)),
                    *pretrain(folder, run_dir),
                ]
            )
            for rank, host in enumerate(hosts)
        ]

    return start


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


if __name__ == "__main__":
    main()
