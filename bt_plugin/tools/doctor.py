"""Whether a machine, its packages and a recipe are ready for a run: findings, each with its remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from packaging.requirements import Requirement

from bt_plugin.config.recipe import Recipe
from bt_plugin.data.from_recipe import open_sources
from bt_plugin.errors import UserError
from bt_plugin.models.from_recipe import build_model
from bt_plugin.models.trial_forward import check_model
from bt_plugin.monitoring.trackers import tracker_options
from bt_plugin.runs.atomic_file import check_output
from bt_plugin.runs.directory import check_run_dir
from bt_plugin.runtime import collectives
from bt_plugin.runtime.accelerator import build_accelerator, check_compiler
from dali_pipelines.decoding.read_pixels import why_unreadable
from dali_pipelines.sources import ImageSource
from dali_pipelines.sources.index_cache import cache_folder

Level = Literal["ok", "warning", "error"]

# NVIDIA's CUDA 13 release notes: the oldest driver of its branch.
CUDA_13_DRIVER = 580
# Of each data set that is looked at.
_IMAGES = 64


class Finding(NamedTuple):
    """What was looked at, and what to do about it where it is not ok."""

    level: Level
    what: str
    remedy: str = ""


def examine_machine() -> list[Finding]:
    """Packages, GPU, DALI, memory and folders for caches."""
    return [*_packages(), *_devices(), _memory(), *_caches()]


def examine_recipe(recipe: Recipe) -> list[Finding]:
    """Everything that a run of this recipe needs, on this rank. To be called on every rank."""
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
        findings.append(_said(lambda: f"{recipe.steps_per_epoch(len(train))} steps an epoch"))
    findings.append(
        _said(lambda: f"{recipe.batch_size_per_rank(accelerator.num_processes)} images a step on each rank")
    )
    findings += [_said(lambda: _embeds(recipe)), _said(lambda: _writable(recipe)), _room(recipe)]
    return findings


def _embeds(recipe: Recipe) -> str:
    check_model(recipe)
    return f"model.backbone: {recipe.model.backbone} embeds the recipe's views"


def _caches() -> Iterator[Finding]:
    """Whether what took long once is kept for the next start."""
    from dali_pipelines.native.compiled import why_not_cached

    if reason := why_not_cached():
        remedy = "each start compiles for some ten seconds; set NUMBA_CACHE_DIR to a folder that can be written"
        yield Finding("warning", f"compiled code is not kept: {reason}", remedy)
    folder = cache_folder()
    remedy = "large data sets are listed anew at each start; set XDG_CACHE_HOME to a folder that can be written"
    if folder is None:
        yield Finding("warning", "there is no home directory for a cache", remedy)
        return
    try:
        check_output(folder / "index", "cache")
    except UserError as error:
        yield Finding("warning", str(error), remedy)


def _packages() -> Iterator[Finding]:
    for line in requires("bt-plugin") or ():
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
            yield Finding("warning", "no GPU: training on the CPU", "which is for trials")
        else:
            remedy = (
                f"torch is built for CUDA {torch.version.cuda}; install a newer driver, or a torch of an older CUDA"
            )
            yield Finding("error", f"NVIDIA driver {driver}, but torch sees no GPU", remedy)
        return
    for number in range(torch.cuda.device_count()):
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
        what = f"GPU {number}: {torch.cuda.get_device_name(number)}, {free:.0f} of {total:.0f} GiB free"
        is_free = free > 0.9 * total
        yield Finding("ok", what) if is_free else Finding("warning", what, "another program holds the rest: nvidia-smi")
    yield _dali(driver)


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return result.stdout.split("\n")[0] if result.returncode == 0 else None


def _dali(driver: str | None) -> Finding:
    """On a GPU: whether DALI is there, for a CUDA that the driver knows."""
    wheels = {"nvidia-dali-cuda130": 13, "nvidia-dali-cuda120": 12}
    found = {name: cuda for name, cuda in wheels.items() if _is_installed(name)}
    is_old = driver is not None and int(driver.split(".")[0]) < CUDA_13_DRIVER
    fitting = "cuda12" if is_old else "cuda13"
    if not found:
        return Finding("error", "DALI is not installed", f"pip install 'bt-plugin[{fitting}]', or data.backend=native")
    if len(found) > 1:
        return Finding("error", "two of DALI's wheels are installed", f"pip uninstall all but that of {fitting}")
    ((name, cuda),) = found.items()
    what = f"{name} {version(name)} and driver {driver or 'unknown'}"
    if cuda == 13 and is_old:
        return Finding("error", what, f"it needs driver {CUDA_13_DRIVER}: pip install 'bt-plugin[cuda12]' in its place")
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
    return Finding("ok", what) if free > 4 else Finding("warning", what, "a small run takes 2 GiB; end other programs")


def _group(accelerator: Accelerator) -> Finding:
    """Whether the ranks reach each other, and how fast."""
    world_size = accelerator.num_processes
    if world_size == 1:
        return Finding("ok", "one rank; `accelerate launch --config_file ...` examines as many as train")
    numbers = torch.ones(2**22, device=accelerator.device)
    for _ in range(2):  # the first connects
        begun_s = time.perf_counter()
        total = collectives.all_reduce_sum_(numbers.fill_(1.0))[0].item()
        elapsed_s = time.perf_counter() - begun_s
    assert total == world_size, "a sum over ranks is of all ranks"
    return Finding("ok", f"{world_size} ranks; 16 MiB are summed in {elapsed_s * 1e3:.0f} ms")


def _images(key: str, source: ImageSource, max_pixels: int) -> list[Finding]:
    classes = f"{len(source.classes)} classes" if source.has_labels else "no classes, so that nothing is evaluated"
    found = [Finding("ok", f"{key}: {len(source)} images, {classes}")]
    indices = np.random.default_rng(0).choice(len(source), min(len(source), _IMAGES), replace=False)
    if source.kind == "pixels":
        return found
    bad = [(source.names[index], why) for index in indices if (why := why_unreadable(source, int(index), max_pixels))]
    if not bad:
        return [*found, Finding("ok", f"{key}: {len(indices)} of them, drawn at random, are readable")]
    name, why = bad[0]
    what = f"{key}: {len(bad)} of {len(indices)} drawn at random are not readable, such as {name}: {why}"
    level: Level = "error" if len(bad) == len(indices) else "warning"
    return [*found, Finding(level, what, "bt-plugin scan finds them all")]


def _said(check: Callable[[], str]) -> Finding:
    """What a check returns, or what it refuses."""
    try:
        return Finding("ok", check())
    except UserError as error:
        return Finding("error", str(error))


def _writable(recipe: Recipe) -> str:
    """That the run could write, and go on.

    Raises:
        RecipeError: If it could not.
    """
    check_compiler(recipe.run)
    check_run_dir(recipe)
    tracker_options(recipe)
    return f"run.output_dir: {recipe.run.output_dir} is free, or a run of this recipe"


def _folder(recipe: Recipe) -> Path:
    """The nearest folder of run.output_dir that is there."""
    folder = Path(recipe.run.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _room(recipe: Recipe) -> Finding:
    """Whether the disk holds the checkpoints: weights and momentum of each, and of the one that is being written."""
    try:
        model = build_model(recipe)
    except UserError as error:
        return Finding("error", str(error))
    each = 2 * sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
    needed = (recipe.run.keep_checkpoints + 1) * each
    free = shutil.disk_usage(_folder(recipe)).free / 2**30
    what = f"run.output_dir: {free:.1f} GiB free, and checkpoints of {each:.2f} GiB need {needed:.1f}"
    remedy = "make room, name another disk, or take a lower run.keep_checkpoints"
    return Finding("ok", what) if free > 1.1 * needed else Finding("error", what, remedy)
