"""Run the numeric tests as older processors and other numbers of threads would compute them.

    python -m tests.other_processors                    # every setting, some forty minutes on two cores
    python -m tests.other_processors default-sse41-2    # one of them

torch, oneDNN, MKL, OpenBLAS and numba choose their code by the processor that they find, and let environment variables
choose an older one's. One thread runs under pytest-xdist, as in `make test`; two run without, as for a single file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]

# Every file whose tests compare floating-point numbers that torch, DALI or numba computed.
NUMERIC_FILES = (
    "tests/test_loss_value.py",
    "tests/dali_pipelines/sources/test_arrays.py",
    "tests/dali_pipelines/dali/test_augment.py",
    "tests/dali_pipelines/native/test_stream.py",
    "tests/dali_pipelines/views/test_hue_spaces.py",
    "tests/bt_plugin/evaluation/test_accuracy.py",
    "tests/bt_plugin/evaluation/test_knn.py",
    "tests/bt_plugin/evaluation/test_linear.py",
    "tests/bt_plugin/evaluation/test_online.py",
    "tests/bt_plugin/evaluation/test_spectrum.py",
    "tests/bt_plugin/integrations/test_lightly_benchmark.py",
    "tests/bt_plugin/integrations/test_lightly_train.py",
    "tests/bt_plugin/loss/test_accumulation.py",
    "tests/bt_plugin/monitoring/test_collapse_warning.py",
    "tests/bt_plugin/models/test_memory_format.py",
    "tests/bt_plugin/loss/test_barlow_twins.py",
    "tests/bt_plugin/loss/test_cost_model.py",
    "tests/bt_plugin/models/test_barlow_twins.py",
    "tests/bt_plugin/training/test_nonfinite_steps.py",
    "tests/bt_plugin/optim/test_lars.py",
    "tests/bt_plugin/monitoring/test_snapshot.py",
    "tests/bt_plugin/models/test_pool_before_relu.py",
    "tests/dali_pipelines/pil/test_transform.py",
    "tests/bt_plugin/weights/test_read_weights.py",
)
COMMAND = ("-m", "pytest", "-q", "-m", "not slow and not distributed and not gpu", "-p", "no:cacheprovider")

# Without vector instructions beyond SSE4.1, in every library that can be told so.
OLDEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NUMBA_CPU_NAME": "generic",
    "NUMBA_CPU_FEATURES": "",
}
PROCESSORS = {
    "native": {},
    **{
        f"{aten}-{onednn.lower()}": {"ATEN_CPU_CAPABILITY": aten, "ONEDNN_MAX_CPU_ISA": onednn}
        for aten in ("default", "avx2")
        for onednn in ("SSE41", "AVX2")
    },
    "oldest": OLDEST,
}
SETTINGS = {f"{name}-{threads}": (name, threads) for name in PROCESSORS for threads in (1, 2)}


class Outcome(NamedTuple):
    """How one setting's tests ended. error: why they do not count, or nothing."""

    passed: int
    skipped: int
    failed: list[str]
    error: str

    @property
    def is_success(self) -> bool:
        return self.passed > 0 and not self.failed and not self.error

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped"
        return f"{'ok    ' if self.is_success else 'FAILED'}  {counts}{self.error and '; ' + self.error}"


def environment_of(setting: str, folder: Path) -> dict[str, str]:
    """Return the environment that makes libraries compute as the setting says, with caches of compiled code of its own.

    Args:
        setting: A key of SETTINGS.
        folder: For the caches: torch's compiler does not know for which processor its cached code is.
    """
    name, threads = SETTINGS[setting]
    inherited = {key: value for key, value in os.environ.items() if key not in OLDEST and not key.startswith("PYTEST_")}
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"), "NUMBA_CACHE_DIR": str(folder / "numba")}
    # Threads that wait for a core do not keep the other one busy.
    threading = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return {**inherited, **caches, **threading, **PROCESSORS[name]}


def is_in_force(environment: dict[str, str]) -> bool:
    """Tell whether torch computes as the setting says: without AVX2, a processor cannot compute as one with it."""
    program = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    wanted = environment.get("ATEN_CPU_CAPABILITY")
    return found.returncode == 0 and wanted in (None, found.stdout.strip())


def outcome_of(report: Path, exit_code: int) -> Outcome:
    """Read pytest's JUnit report, and believe it only where the exit code agrees."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return Outcome(0, 0, [], f"pytest ended with exit code {exit_code} before it wrote a report")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - skipped - len({*failed})
    error = "" if exit_code == (1 if failed else 0) else f"pytest ended with exit code {exit_code}"
    return Outcome(passed, skipped, failed, error)


def run(setting: str, files: tuple[str, ...] = NUMERIC_FILES) -> Outcome:
    """Run the files once in a setting.

    Args:
        setting: A key of SETTINGS.
        files: Of tests, relative to the repository.
    """
    with tempfile.TemporaryDirectory() as name:
        environment = environment_of(setting, Path(name))
        if not is_in_force(environment):
            return Outcome(0, 0, [], "not run: torch does not take this setting on this processor")
        report = Path(name) / "report.xml"
        workers = ["-n", "1"] if SETTINGS[setting][1] == 1 else ["-p", "no:xdist"]
        command = [sys.executable, *COMMAND, *workers, f"--junitxml={report}", *files]
        ended = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)
        return outcome_of(report, ended.returncode)


def main() -> int:
    """Run the settings that the command line names, or all, and print a line for each.

    Returns:
        0 if all tests of all of them passed, 1 otherwise.
    """
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tests.other_processors", description=description)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"one of {', '.join(SETTINGS)}")
    chosen = parser.parse_args().settings or list(SETTINGS)
    if unknown := sorted({*chosen} - {*SETTINGS}):
        parser.error(f"{unknown[0]} is no setting. Use one of {', '.join(SETTINGS)}")
    outcomes = []
    for setting in chosen:
        outcomes.append(run(setting))
        sys.stdout.write("\n    ".join([f"{setting:15}  {outcomes[-1]}", *outcomes[-1].failed]) + "\n")
        sys.stdout.flush()
    return 0 if all(outcome.is_success for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
