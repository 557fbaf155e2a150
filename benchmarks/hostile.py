"""Give hostile inputs to the product, and print a table of kinds of inputs, with tries and passed tries.

python benchmarks/hostile.py                    all kinds, and a record; ten minutes on two cores
python benchmarks/hostile.py --only A3,B1 --no-record
python benchmarks/hostile.py --list

Each try is one input, given to the command line or to the public Python names. It passes if the product refuses the
input by name, or accepts it with the right result. It fails in one of these ways:

- silent: a wrong result without a message.
- code: an attacker's code ran, or a file was written where none should be.
- hang, or traceback.
- refusal: the message offers no way out.

Two tries run at a time, in processes that are forked from one that has imported torch. Tries that need root are
skipped without it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TQDM_MININTERVAL="5")

from hostile_cases import HANG, OUTCOMES, TRACEBACK, FailedError, Place, SkippedError, Try
from hostile_cases_verdicts import accepted

_LATE = (
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "jinja2"),
    *("torch.utils.tensorboard", "torch.distributed.checkpoint", "sklearn.decomposition", "skimage.data"),
)
# Time after which a try is ended, if its own limits did not end it.
_LIMIT_S = 600
_AT_A_TIME = 2

_RECIPE = """
data: {{train: {data}/train, val: {data}/val, num_threads: 1}}
views: {{both: {{size_px: 32}}}}
model: {{backbone: torchvision/shufflenet_v2_x0_5, projector: [32, 32]}}
optim: {{epochs: 3, warmup_epochs: 1, global_batch_size: 8, lr_biases: 0.01}}
run: {{output_dir: {folder}/run, device: cpu, log_every_steps: 1}}
eval: {{knn_k: 5, every_epochs: 3}}
"""


@dataclass
class Verdict:
    """The result of a try."""

    kind: str
    name: str
    outcome: str
    seen: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="kinds, such as A3,B1, or a part of a try's name after a colon, such as A3:gzip")
    parser.add_argument("--most", type=int, default=0, help="tries of a kind at most (default 0: all)")
    parser.add_argument("--list", action="store_true", help="print the tries, and make none")
    parser.add_argument("--no-record", action="store_true", help="write no record")
    parser.add_argument("--keep", type=Path, help="a folder that the failed tries' files are kept in")
    arguments = parser.parse_args()
    chosen = _at_most([each for each in all_tries() if _is_chosen(each, arguments.only)], arguments.most)
    if arguments.list:
        print(*(f"{each.kind:<4} {each.name}" for each in chosen), f"{len(chosen)} tries", sep="\n")
        return 0
    _import_all()
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        shared = _prepare(folder / "shared")
        verdicts = _make_all(chosen, folder, shared, arguments.keep)
    seconds = time.monotonic() - begun_s
    rows = table(verdicts)
    _print(rows, verdicts, seconds)
    if not arguments.no_record:
        from record import write_record

        failed = [vars(each) for each in verdicts if each.outcome in OUTCOMES]
        skipped = [f"{each.kind} {each.name}: {each.seen}" for each in verdicts if each.outcome == "skipped"]
        results = {"seconds": round(seconds), "results": rows, "failed": failed, "skipped": skipped}
        print(write_record("hostile", results))
    return int(any(each.outcome in OUTCOMES for each in verdicts))


def all_tries() -> list[Try]:
    """Return all tries, by kind."""
    modules = [import_module(path.stem) for path in sorted(Path(__file__).parent.glob("hostile_cases_*.py"))]
    found = [each for module in modules if hasattr(module, "all_tries") for each in module.all_tries()]
    names = Counter((each.kind, each.name) for each in found)
    assert max(names.values()) == 1, f"two tries have one name: {names.most_common(1)}"
    return sorted(found, key=lambda each: (each.kind[0], int(each.kind[1:] or 0)))


def table(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """Return a table with a row for each kind: tries, passed, skipped, and each outcome."""
    rows = []
    for kind in dict.fromkeys(each.kind for each in verdicts):
        counts = Counter(each.outcome for each in verdicts if each.kind == kind)
        made = sum(counts.values()) - counts["skipped"]
        row = {"kind": kind, "tries": made, "passed": counts["passed"], "skipped": counts["skipped"]}
        rows.append(row | {outcome: counts[outcome] for outcome in OUTCOMES})
    return rows


def _is_chosen(each: Try, only: str | None) -> bool:
    if only is None:
        return True
    pairs = (part.partition(":") for part in only.split(","))
    return any(each.kind == kind and part in each.name for kind, _, part in pairs)


def _at_most(chosen: list[Try], most: int) -> list[Try]:
    """Return at most this number of tries of each kind, evenly spaced."""
    kept = []
    for kind in dict.fromkeys(each.kind for each in chosen):
        of_kind = [each for each in chosen if each.kind == kind]
        step = max(1.0, len(of_kind) / most) if most else 1.0
        kept += [of_kind[int(number * step)] for number in range(len(of_kind)) if number * step < len(of_kind)]
    return kept


def _import_all() -> None:
    """Import everything heavy before the first fork."""
    import torch

    torch.set_num_threads(1)
    import timm
    import torchvision  # noqa: F401

    import bt_plugin.report.write
    import bt_plugin.tools.doctor
    import bt_plugin.tools.preview
    import bt_plugin.training.pretrain
    import dali_pipelines.native.stream  # noqa: F401

    # The product imports these late. They would take most of the time of a try.
    for name in ("nvidia.dali", "lightly.utils.benchmarking", *_LATE):
        with suppress(ImportError):
            import_module(name)
    timm.list_models()
    print(f"bt_plugin of {Path(bt_plugin.__file__).parent.parent}", flush=True)


def _prepare(shared: Path) -> Path:
    """Write the data, a recipe and a finished run, which the tries copy."""
    place = Place(shared / "place", shared)
    place.folder.mkdir(parents=True)
    cache = shared / "numba"
    cache.mkdir()
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    accepted(place.bt("demo-data", shared / "demo"))
    for split, count in (("train", 12), ("val", 4)):
        for name in ("chelsea", "coffee", "rocket"):
            (shared / "data" / split / name).mkdir(parents=True)
            for file in sorted((shared / "demo" / split / name).iterdir())[:count]:
                shutil.copy(file, shared / "data" / split / name / file.name)
    recipe = shared / "small.yaml"
    recipe.write_text(_RECIPE.format(data=shared / "data", folder=shared))
    # The run uses one core like the tries, so that a resumed run has the same bits.
    one = {min(os.sched_getaffinity(0))}
    accepted(place.bt("pretrain", recipe, limit=300, preparation=lambda: os.sched_setaffinity(0, one)))
    for path in (cache, *cache.rglob("*")):
        path.chmod(0o777)
    return shared


def _make_all(chosen: list[Try], folder: Path, shared: Path, keep: Path | None) -> list[Verdict]:
    verdicts: list[Verdict | None] = [None] * len(chosen)
    waiting = list(enumerate(chosen))
    running: dict[int, tuple[int, float, int]] = {}
    cores = sorted(os.sched_getaffinity(0))
    while waiting or running:
        while waiting and len(running) < _AT_A_TIME:
            number, each = waiting.pop(0)
            slot = next(slot for slot in range(_AT_A_TIME) if slot not in [used for _, _, used in running.values()])
            pid = _begin(each, folder / str(number), shared, {cores[slot % len(cores)]})
            running[pid] = (number, time.monotonic(), slot)
        for pid, (number, begun_s, _) in list(running.items()):
            seconds = time.monotonic() - begun_s
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                if seconds < _LIMIT_S:
                    continue
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            del running[pid]
            verdicts[number] = verdict = _verdict(chosen[number], folder / str(number), seconds)
            if verdict.outcome not in ("passed", "skipped"):
                print(f"{verdict.outcome:<9} {verdict.kind} {verdict.name}: {verdict.seen}", flush=True)
                if keep:
                    _keep(folder / str(number), keep / f"{verdict.kind}-{number}")
            _remove(folder / str(number))
        time.sleep(0.01)
    return [each for each in verdicts if each]


def _begin(each: Try, folder: Path, shared: Path, cores: set[int]) -> int:
    place = Place(folder / "place", shared)
    place.folder.mkdir(parents=True)
    place.folder.chmod(0o777)
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.sched_setaffinity(0, cores)
        os.chdir(place.folder)
        outcome, seen = _made(each, place)
        (folder / "verdict.json").write_text(json.dumps([outcome, seen]))
    finally:
        os._exit(0)


def _made(each: Try, place: Place) -> tuple[str, str]:
    if each.needs_root and os.geteuid() != 0:
        return "skipped", "needs root"
    outcome, seen = "passed", ""
    try:
        each.action(place)
        place.check_kept()
    except FailedError as error:
        outcome, seen = error.outcome, str(error)
    except SkippedError as error:
        outcome, seen = "skipped", str(error)
    except Exception as error:  # a fault of the try itself, which must be shown too
        outcome, seen = TRACEBACK, f"the try itself: {type(error).__name__}: {error}"
    if place.sentinel.exists():
        outcome, seen = "code", "an attacker's code ran"
    return outcome, seen


def _verdict(each: Try, folder: Path, seconds: float) -> Verdict:
    path = folder / "verdict.json"
    outcome, seen = json.loads(path.read_text()) if path.exists() else (HANG, "the try did not end")
    return Verdict(each.kind, each.name, outcome, seen, round(seconds, 1))


def _keep(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*-*"):
        shutil.copy(path, target / path.name)


def _remove(folder: Path) -> None:
    for path, folders, _ in os.walk(folder):
        with suppress(OSError):
            os.chmod(path, 0o700)
            folders[:] = [name for name in folders if not os.path.ismount(os.path.join(path, name))]
    shutil.rmtree(folder, ignore_errors=True)


def _print(rows: list[dict[str, Any]], verdicts: list[Verdict], seconds: float) -> None:
    columns = ("kind", "tries", "passed", "skipped", *OUTCOMES)
    total = {"kind": "all"} | {name: sum(row[name] for row in rows) for name in columns[1:]}
    print()
    for row in (dict(zip(columns, columns)), *rows, total):
        print("".join(f"{row[name]:>10}" for name in columns))
    for reason, count in Counter(each.seen for each in verdicts if each.outcome == "skipped").items():
        print(f"{count} skipped: {reason}")
    slowest = sorted(verdicts, key=lambda each: -each.seconds)[:5]
    print(f"{seconds:.0f} s; slowest: {', '.join(f'{each.kind} {each.name} {each.seconds} s' for each in slowest)}")


if __name__ == "__main__":
    sys.exit(main())
