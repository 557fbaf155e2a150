"""Check whether a machine, its packages and a recipe are ready for a run. Each finding has a remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from packaging.requirements import Requirement

from bt_plugin.checkpoints.size import checkpoint_bytes, kept_checkpoints
from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import open_sources
from bt_plugin.data.value_range import said_of
from bt_plugin.errors import UserError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.trial_forward import check_model
from bt_plugin.monitoring.trackers import tracker_options
from bt_plugin.runs.atomic_file import check_output
from bt_plugin.runs.backbone_source import with_source
from bt_plugin.runs.directory import check_run_dir
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator, check_compiler
from bt_plugin.tools.planned_memory import planned_gib
from dali_pipelines.decoding.read_pixels import why_unreadable
from dali_pipelines.depth.source import FullDepthSource
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.index_cache import cache_folder

Level = Literal["ok", "warning", "error"]

# Oldest driver for CUDA 13, from NVIDIA's CUDA 13 release notes.
CUDA_13_DRIVER = 580
# Images of each data set that are test-read.
_IMAGES = 64


class Finding(NamedTuple):
    """The result of one check.

    Args:
        level: Severity: ok, warning or error.
        what: What was found.
        remedy: What to do, empty if the level is ok.
    """

    level: Level
    what: str
    remedy: str = ""


def examine_machine() -> list[Finding]:
    """Check packages, GPU, DALI, memory and cache folders."""
    return [*_packages(), *_devices(), _memory(), *_caches()]


def examine_recipe(recipe: Recipe) -> list[Finding]:
    """Check everything that a run of this recipe needs on this rank. Call this on every rank."""
    try:
        accelerator = build_accelerator(recipe.run)
    except UserError as error:
        return [Finding("error", str(error))]
    findings = [_group(accelerator)]
    try:
        train, val = open_sources(recipe)
    except UserError as error:
        findings.append(Finding("error", str(error)))
    else:
        findings += _images("data.train", train, recipe.data.max_pixels)
        findings += _images("data.val", val, recipe.data.max_pixels) if val else []
        findings.append(_said(lambda: f"{recipe.steps_per_epoch(train.epoch_length)} steps per epoch"))
        findings += _planned(recipe, accelerator, train.epoch_length)
    findings.append(
        _said(lambda: f"{recipe.batch_size_per_rank(accelerator.num_processes)} images per step on each rank")
    )
    findings += [_said(lambda: _embeds(recipe)), _said(lambda: _writable(recipe)), _room(recipe)]
    return findings


def _planned(recipe: Recipe, accelerator: Accelerator, num_images: int) -> list[Finding]:
    """Compare the planned memory of a rank with what is free on its GPU."""
    if accelerator.device.type != "cuda":
        return []
    plan = partial(planned_gib, recipe, fsdp=accelerator.is_fsdp2, num_images=num_images)
    try:
        needed = collectives.from_main(lambda: plan(world_size=accelerator.num_processes))
    except UserError as error:
        return [Finding("warning", f"the GPU memory of a step is not known: {error}", "run bt-plugin plan by itself")]
    free = torch.cuda.mem_get_info(accelerator.device)[0] / 2**30
    what = f"a step needs {needed:.1f} GiB of GPU memory by bt-plugin plan, and {free:.1f} GiB are free"
    remedy = "run bt-plugin plan with this recipe to see what to change"
    return [Finding("ok", what) if needed <= free else Finding("warning", what, remedy)]


def _embeds(recipe: Recipe) -> str:
    check_model(recipe)
    return f"model.backbone: {recipe.model.backbone} embeds the recipe's views"


def _caches() -> Iterator[Finding]:
    """Check whether compiled code and file lists can be saved, so that the next start is fast."""
    from dali_pipelines.native.compiled import why_not_cached

    if reason := why_not_cached():
        remedy = "each start compiles for about ten seconds. Set NUMBA_CACHE_DIR to a writable folder"
        yield Finding("warning", f"compiled code is not saved: {reason}", remedy)
    folder = cache_folder()
    remedy = "each start lists large data sets again. Set XDG_CACHE_HOME to a writable folder"
    if folder is None:
        yield Finding("warning", "there is no home directory for a cache", remedy)
        return
    try:
        check_output(folder / "index", "cache")
    except UserError as error:
        yield Finding("warning", str(error), remedy)


def _packages() -> Iterator[Finding]:
    try:
        lines = requires("bt-plugin") or ()
    except PackageNotFoundError:
        yield Finding("warning", "bt-plugin is not installed, so its packages are not checked", "pip install -e .")
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                found = "missing"
            fits = found != "missing" and requirement.specifier.contains(found, prereleases=True)
            what = f"{requirement.name} {found}"
            yield Finding("ok", what) if fits else Finding("error", what, f"pip install '{requirement}'")


def _devices() -> Iterator[Finding]:
    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            yield Finding("warning", "no GPU: runs train on the CPU", "the CPU is only fast enough for trials")
        else:
            yield Finding("error", f"NVIDIA driver {driver}, but torch sees no GPU", _other_torch())
        return
    for number in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
        what = f"GPU {number}: {torch.cuda.get_device_name(number)}, {free:.0f} of {total:.0f} GiB free"
        is_free = free > 0.9 * total
        yield (
            Finding("ok", what)
            if is_free
            else Finding("warning", what, "other programs use the rest. Find them with nvidia-smi")
        )
    yield _dali(driver)


def _other_torch() -> str:
    """Return what to install where torch sees no GPU in spite of a driver."""
    cuda = torch.version.cuda
    if cuda is None:
        return "this torch is built without CUDA. Install the one that https://pytorch.org names for the driver"
    older = ", or pip install 'bt-plugin[cuda12]'" if cuda.startswith("13.") else ""
    return f"this torch is built for CUDA {cuda}. Install a newer driver{older}"


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return result.stdout.split("\n")[0] if result.returncode == 0 else None


def _dali(driver: str | None) -> Finding:
    """Check whether DALI is installed for a CUDA version that the driver supports."""
    wheels = {"nvidia-dali-cuda130": 13, "nvidia-dali-cuda120": 12}
    found = {name: cuda for name, cuda in wheels.items() if _is_installed(name)}
    is_old = driver is not None and int(driver.split(".")[0]) < CUDA_13_DRIVER
    fitting = "cuda12" if is_old else "cuda13"
    if not found:
        return Finding(
            "error", "DALI is not installed", f"pip install 'bt-plugin[{fitting}]', or set data.backend=native"
        )
    if len(found) > 1:
        return Finding(
            "error", "two of DALI's wheels are installed", f"pip uninstall all except the wheel for {fitting}"
        )
    ((name, cuda),) = found.items()
    what = f"{name} {version(name)} and driver {driver or 'unknown'}"
    if cuda == 13 and is_old:
        return Finding(
            "error",
            what,
            f"it needs driver {CUDA_13_DRIVER} or newer. Uninstall it, then pip install 'bt-plugin[cuda12]'",
        )
    return Finding("ok", what)


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 2**30
    what = f"{free:.1f} GiB of memory free, {len(os.sched_getaffinity(0))} cores"
    return Finding("ok", what) if free > 4 else Finding("warning", what, "a small run needs 2 GiB. End other programs")


def _group(accelerator: Accelerator) -> Finding:
    """Check whether the ranks reach each other, and how fast."""
    world_size = accelerator.num_processes
    if world_size == 1:
        return Finding("ok", "one rank; start doctor with `accelerate launch --config_file ...` to check several ranks")
    numbers = torch.ones(2**22, device=accelerator.device)
    for _ in range(2):  # the first sum includes the connection
        begun_s = time.perf_counter()
        total = collectives.all_reduce_sum_(numbers.fill_(1.0))[0].item()
        elapsed_s = time.perf_counter() - begun_s
    assert total == world_size, "the sum has a part of every rank"
    return Finding("ok", f"{world_size} ranks; they sum 16 MiB in {elapsed_s * 1e3:.0f} ms")


def _images(key: str, source: ImageSource, max_pixels: int) -> list[Finding]:
    classes = (
        f"{len(source.classes)} classes" if source.has_labels else "no classes, so kNN and linear probe are skipped"
    )
    found = [Finding("ok", f"{key}: {len(source)} images, {classes}"), *_depth(key, source)]
    indices = np.random.default_rng(0).choice(len(source), min(len(source), _IMAGES), replace=False)
    if source.kind == "pixels" and not isinstance(source, FullDepthSource):
        return found
    bad = [(source.names[index], why) for index in indices if (why := why_unreadable(source, int(index), max_pixels))]
    if not bad:
        return [*found, Finding("ok", f"{key}: {len(indices)} randomly drawn images are readable")]
    name, why = bad[0]
    what = f"{key}: {len(bad)} of {len(indices)} randomly drawn images are unreadable, for example {name}: {why}"
    level: Level = "error" if len(bad) == len(indices) else "warning"
    return [*found, Finding(level, what, "run bt-plugin scan to find all of them")]


def _depth(key: str, source: ImageSource) -> Iterator[Finding]:
    """Say which depth, channels and range the images have, unless they are RGB of 8 bits."""
    if not isinstance(source, FullDepthSource):
        return
    yield Finding("ok", f"{key}: {said_of(source)}")
    if constant := source.found.constant_images:
        what = f"{key}: {constant} of {source.found.images} sampled images are constant"
        yield Finding("warning", what, "nothing is learned from them. Leave them out if they are empty by mistake")


def _said(check: Callable[[], str]) -> Finding:
    """Return what a check says, or its error, as a finding."""
    try:
        return Finding("ok", check())
    except UserError as error:
        return Finding("error", str(error))


def _writable(recipe: Recipe) -> str:
    """Check that the run can write to its directory, or resume there.

    Raises:
        RecipeError: If it cannot.
    """
    check_compiler(recipe.run)
    check_run_dir(with_source(recipe))
    tracker_options(recipe)
    return f"run.output_dir: {recipe.run.output_dir} is free, or has a run of this recipe"


def _folder(recipe: Recipe) -> Path:
    """Return the nearest existing folder at or above run.output_dir."""
    folder = Path(recipe.run.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _room(recipe: Recipe) -> Finding:
    """Check whether the disk has room for the checkpoints that are kept, and for one that is being written."""
    try:
        model = build_model(recipe)
    except UserError as error:
        return Finding("error", str(error))
    each = checkpoint_bytes(recipe, sum(p.numel() * p.element_size() for p in model.parameters())) / 2**30
    needed = (kept_checkpoints(recipe) + 1) * each
    free = shutil.disk_usage(_folder(recipe)).free / 2**30
    what = f"run.output_dir: {free:.1f} GiB free; checkpoints of {each:.2f} GiB each need {needed:.1f} GiB"
    remedy = "free disk space, choose another disk, or lower run.keep_checkpoints"
    return Finding("ok", what) if free > 1.1 * needed else Finding("error", what, remedy)
