"""Describe how a result was made: versions of packages, the commit of this package, and the machine."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from bt_plugin.version import __version__

_PACKAGES = ("torch", "torchvision", "timm", "lightly", "accelerate", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


def versions() -> dict[str, str]:
    """Return the versions of bt-plugin and of the packages that results depend on, and the commit if known."""
    found = {"bt-plugin": __version__}
    if of_this := commit():
        found["commit"] = of_this
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path = Path(__file__).parents[1]) -> str | None:
    """Return the commit of the checkout that is run or that pip installed, None if it is unknown.

    "+changes" follows if files differ from the commit.

    Args:
        folder: Folder of the package.
    """
    # A virtual environment may be inside another project's repository. Only a folder that git tracks is our checkout.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py"):
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ".")
        return f"{_git(folder, 'rev-parse', 'HEAD')}{'+changes' if changed else ''}"
    try:
        origin = json.loads(distribution("bt-plugin").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    found: str | None = origin.get("vcs_info", {}).get("commit_id")
    return found


def hardware() -> dict[str, str | int]:
    """Return the processor, the number of cores that this process may use, and the GPU."""
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _git(folder: Path, *arguments: str) -> str:
    """Return the output of git, empty if git fails."""
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
