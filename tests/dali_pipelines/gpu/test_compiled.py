"""The kernels as they are compiled for three architectures, from the arguments of their real launches, without a GPU.

Triton's interpreter cannot see what is checked here: fused or approximate arithmetic, registers, and wide loads.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton comes with torch's CUDA wheels for Linux only")

from tests.dali_pipelines.gpu.cases import Case  # noqa: E402
from tests.dali_pipelines.gpu.recorded import NAMES, Launch, record  # noqa: E402

pytestmark = pytest.mark.slow

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# A thread can have 64 registers while 1,024 threads share a multiprocessor's 65,536.
MOST_REGISTERS = 64
FULL_SIZE = Case(2, {"size_px": 224})
IN_YIQ = Case(2, {"size_px": 224, "hue_space": "yiq"})


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def instructions(ptx: str) -> list[str]:
    """Return the instructions, without their predicates."""
    lines = (line.strip() for line in ptx.splitlines())
    return [re.sub(r"^@!?%p\d+\s+", "", line) for line in lines if line.endswith(";") and not line.startswith(".")]


def inexact(ptx: str) -> list[str]:
    """Return what IEEE arithmetic, as on the CPU, does not have."""
    # floor is exact in spite of its .ftz, because it is taken of 0 and of values that are not subnormal.
    allowed = re.compile(r"cvt\.rmi\.ftz\.f32\.f32\b")
    refused = re.compile(r"(fma|mad)\.\S*f\d+|div\.(full|approx)|rcp|sqrt|ex2|lg2|sin|cos|\S+\.(ftz|approx)\b")
    return [one for one in instructions(ptx) if refused.match(one) and not allowed.match(one)]


def machine_code(launch: Launch, folder: Path, option: str) -> str:
    """Return what NVIDIA's cuobjdump, which comes with Triton, prints about the machine code."""
    file = folder / f"{launch.name}.cubin"
    file.write_bytes(launch.compiled.asm["cubin"])
    command = [str(TOOLS / "cuobjdump"), option, str(file)]
    environment = {**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"}  # it calls nvdisasm
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def resources(launch: Launch, folder: Path) -> dict[str, int]:
    """Return registers and bytes of stack and local memory, as the driver would read them."""
    listed = machine_code(launch, folder, "--dump-resource-usage")
    found = {name: int(re.findall(rf"{name}:(\d+)", listed)[-1]) for name in ("REG", "STACK", "LOCAL")}
    assert found["REG"] > 0
    return found


def assert_sound(launches: list[Launch], folder: Path) -> None:
    assert [launch.name for launch in launches] == list(NAMES)
    for launch in launches:
        assert inexact(launch.ptx) == [], launch.name
        used = resources(launch, folder)
        assert used["STACK"] == used["LOCAL"] == 0, f"{launch.name} spills registers"
        assert used["REG"] <= MOST_REGISTERS, launch.name
        assert not re.search(r"\b(ld|st)\.local", launch.ptx)
        code = machine_code(launch, folder, "-sass")
        assert "FMUL" in code
        # An exact division is made of fused operations. Only the color kernels have divisions.
        assert ("FFMA" in code) == ("div.rn.f32" in launch.ptx), launch.name


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_arithmetic_is_exact_and_registers_suffice(architecture: int, tmp_path: Path) -> None:
    launches = record(FULL_SIZE, architecture)
    assert_sound(launches, tmp_path)
    divisions = {launch.name: launch.ptx.count("div.rn.f32") for launch in launches}
    assert divisions["change_colors"] > 0
    # The last kernel reads the scratch and writes views four values at a time.
    assert len(re.findall(r"ld\.global\.v4", launches[3].ptx)) >= 14
    assert len(re.findall(r"st\.global\.v4", launches[3].ptx)) >= 2
    assert len(re.findall(r"st\.global\.v4", launches[2].ptx)) >= 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_to_nearest(dtype: torch.dtype, tmp_path: Path) -> None:
    launches = record(FULL_SIZE, 90, dtype)
    assert_sound(launches, tmp_path)
    assert re.search(r"cvt\.rn\.(bf16|f16)(x2)?\.f32", launches[3].ptx)


def test_hue_in_yiq(tmp_path: Path) -> None:
    launches = record(IN_YIQ, 90)
    assert_sound(launches, tmp_path)


def test_planted_instructions_are_found() -> None:
    planted = ["fma.rn.f32 %f1, %f2, %f3, %f4;", "div.full.f32 %f1, %f2, %f3;", "add.rn.ftz.f32 %f1, %f2, %f3;"]
    assert inexact("\n".join(["@%p1 " + planted[0], *planted[1:], "cvt.rmi.ftz.f32.f32 %f1, %f2;"])) == planted
    assert inexact("mad.lo.s32 %r1, %r2, %r3, %r4;\ndiv.rn.f32 %f1, %f2, %f3;") == []
