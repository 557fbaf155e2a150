"""Write docs/cards.md from the submitted records in benchmarks/submissions: python docs/cards.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from submission import read_all

if TYPE_CHECKING:
    from submission import Submission

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """# GPUs

Records of GPUs that users submitted. Each number comes from a file in the repository, and a test checks each file.
[Submit a record](../benchmarks/README.md) of your GPU. This page is written by `python docs/cards.py`.
"""
_NONE = """
**No GPU has been measured yet.** All numbers on [Measurements](measurements.md) are of CPUs. The tests that need a GPU
run only where there is one.
"""
_LEGEND = """
- Rates are two-view images per second over all GPUs, the median of the rounds. The range is in parentheses.
- training / step: how much of the step's speed remains if the views come from the loader.
- official / ours: time of the official code's step divided by the time of ours, on the same card.
- kNN: top-1 accuracy on CIFAR-10 after 200 epochs of the recipe cifar10_resnet18.
"""
_COLUMNS = (
    "record", "GPUs", "cores per GPU", "recipe", "training", "step", "loader", "training / step", "official / ours",
    "kNN", "tests of a GPU", "date", "torch",
)  # fmt: skip
NOT_MEASURED = "not measured"


def page(submissions: Mapping[str, Submission] | None = None) -> str:
    """Return the page's Markdown.

    Args:
        submissions: Submissions by path. Default: those of the repository.
    """
    found = read_all() if submissions is None else submissions
    return "".join([_HEAD, *(_tables(found) if found else [_NONE])])


def _tables(found: Mapping[str, Submission]) -> Iterator[str]:
    yield _LEGEND
    by_card = sorted(found.items(), key=lambda item: (item[1].machine.card, -item[1].rounds.median("both"), item[0]))
    for card, rows in groupby(by_card, key=lambda item: item[1].machine.card):
        yield f"\n## {card}\n\n"
        yield f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}\n"
        for path, submission in rows:
            yield f"| {' | '.join(_cells(path, submission))} |\n"


def _cells(path: str, of: Submission) -> Iterator[str]:
    sizes, machine, tests = of.sizes, of.machine, of.tests
    yield f"[{of.submitter}](../benchmarks/submissions/{path})"
    yield f"{machine.gpus}, {machine.interconnect}" if machine.interconnect else f"{machine.gpus}"
    yield str(machine.cores)
    widths = "-".join(map(str, sizes.projector))
    yield f"{sizes.backbone}, {widths}, {sizes.size_px} px, batch {sizes.global_batch_size}, {sizes.mixed_precision}"
    for name in ("both", "step", "loader"):
        rounds = getattr(of.rounds, name)
        yield f"{of.rounds.median(name):.0f} ({min(rounds):.0f} to {max(rounds):.0f})"
    yield f"{of.rounds.median('both') / of.rounds.median('step'):.2f}"
    yield NOT_MEASURED if of.official_ratio is None else f"{of.official_ratio:.2f}"
    yield NOT_MEASURED if of.cifar10_knn is None else f"{100 * of.cifar10_knn:.1f} %"
    yield (
        "not run"
        if tests is None
        else (f"{tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped, {tests.not_run} not run")
    )
    yield of.date.isoformat()
    yield of.versions["torch"]


if __name__ == "__main__":
    PAGE.write_text(page())
