"""The summary of gpu_day.py: what was measured, with the targets next to the numbers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gpu_day_run import Outcome

NOT_MEASURED = "not measured"
OF_A_CPU = "These numbers are of a CPU at small sizes. They show that the command works. They are no result."
# For the number of cores of the target.
TARGET_CORES = 16
EPOCHS = 200
CHECKS = ("doctor, errors", "gpu tests, passed")

# The lines of pytest -v, without and with xdist.
_TEST = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (?P<first>[A-Z]+) (?P<name>\S.*?)"
    r"|(?P<alone>\S+::.+?) (?P<last>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: \(.*\))? +\[ *\d+%\]) *$",
    re.MULTILINE,
)
_SELECTED = (
    re.compile(r"/ (\d+) selected"),
    re.compile(r"^\d+ workers? \[(\d+) items?\]", re.MULTILINE),
    re.compile(r"^collected (\d+) items?$", re.MULTILINE),
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: What was measured.
        value: The number, None if it was not measured.
        unit: Unit of the number: "images/s", "x", "%" or empty.
        target: Least number that is wanted, None if there is no target.
        note: What a reader must know about the number.
        verdict: Verdict other than the one that follows from the target.
    """

    what: str
    value: float | None
    unit: str = ""
    target: float | None = None
    note: str = ""
    verdict: str = ""

    def shown(self) -> str:
        """Return the number with its unit."""
        return self.with_unit(self.value) if self.value is not None else NOT_MEASURED

    def with_unit(self, value: float) -> str:
        digits = {"x": ".2f", "%": ".1f"}.get(self.unit, ".0f")
        return f"{value:{digits}} {self.unit}".rstrip()

    def judged(self) -> str:
        """Return the verdict: whether the number reaches its target."""
        if self.value is None:
            return NOT_MEASURED
        if self.verdict:
            return self.verdict
        if self.target is None:
            return ""
        return "met" if self.value >= self.target else "missed"


def rows_of(outcomes: Mapping[str, Outcome], *, cores: int) -> list[Row]:
    """Return the lines of the parts that were asked for, the most important first.

    Args:
        outcomes: Outcomes by the name of their part.
        cores: Number of cores of the loader.
    """
    rows: list[Row] = []
    if "doctor" in outcomes:
        rows.append(_doctor(outcomes["doctor"]))
    if "gpu tests" in outcomes:
        rows.append(_tests(outcomes["gpu tests"]))
    if "bench" in outcomes:
        rows += _bench(outcomes["bench"], cores)
    if "step" in outcomes:
        rows += _compared(outcomes["step"], "the step", target=1.8)
    if "CIFAR-10" in outcomes:
        rows.append(_cifar10(outcomes["CIFAR-10"]))
    if "files" in outcomes:
        rows += _compared(outcomes["files"], "training from files", target=None)
    if "sweep" in outcomes:
        rows.append(_sweep(outcomes["sweep"]))
    return rows


def _doctor(outcome: Outcome) -> Row:
    errors = sum(line.startswith("error") for line in outcome.output.splitlines())
    if outcome.ended == "done":
        return Row(CHECKS[0], errors, verdict="failed" if errors else "passed")
    return Row(CHECKS[0], errors or None, verdict="failed", note=outcome.ended)


def test_counts(output: str) -> dict[str, int | None]:
    """Return the counts of passed, failed, skipped and not run tests from the output of pytest -v.

    Args:
        output: What pytest printed. It may end anywhere, if pytest was stopped.
    """
    verdicts: dict[str, str] = {}
    for match in _TEST.finditer(output):
        verdicts[match["name"] or match["alone"]] = match["first"] or match["last"]
    found = [int(match[1]) for pattern in _SELECTED if (match := pattern.search(output))]
    listed = [*verdicts.values()]
    broken_files = len(set(re.findall(r"^ERROR ([^\s:]+\.py)", output, re.MULTILINE)))
    return {
        "passed": listed.count("PASSED"),
        "failed": sum(verdict in ("FAILED", "ERROR", "XPASS") for verdict in listed) + broken_files,
        "skipped": sum(verdict in ("SKIPPED", "XFAIL") for verdict in listed),
        "not run": max(0, found[0] - len(listed)) if found else None,
    }


def _tests(outcome: Outcome) -> Row:
    counts = test_counts(outcome.output)
    said = ", ".join(f"{count if count is not None else 'an unknown number'} {name}" for name, count in counts.items())
    all_ran = counts["passed"] and not any(counts[name] for name in ("failed", "skipped", "not run"))
    is_passed = bool(all_ran) and counts["not run"] == 0 and outcome.ended == "done"
    verdict = "passed" if is_passed else "failed" if counts["failed"] else "not all ran"
    value = None if not outcome.command else counts["passed"]
    return Row(CHECKS[1], value, verdict=verdict, note=said if outcome.command else "")


def _bench(outcome: Outcome, cores: int) -> list[Row]:
    found = outcome.found or {}
    loader, step, both = (found.get(name) for name in ("loader", "step", "both"))
    ended = "" if found else outcome.ended
    has_cores = cores == TARGET_CORES
    return [
        Row(
            "training, compared with the step on views in memory",
            both / step if both and step else None,
            "x",
            0.97,
            note=ended,
        ),
        Row(
            f"the loader with {cores} cores, compared with the step's demand",
            loader / step if loader and step else None,
            "x",
            1.5,
            note=ended,
            verdict="" if has_cores else f"no verdict: the target is for {TARGET_CORES} cores",
        ),
        Row("training, two-view images", both, "images/s", note=ended or _model(found)),
    ]


def _model(found: Mapping[str, Any]) -> str:
    recipe = found.get("recipe", {})
    backbone = recipe.get("model", {}).get("backbone", "")
    batch = recipe.get("optim", {}).get("global_batch_size", "")
    return f"{backbone}, batch {batch}, {found.get('mixed_precision')}" if recipe else ""


def _compared(outcome: Outcome, what: str, *, target: float | None) -> list[Row]:
    results = (outcome.found or {}).get("results", {})
    official, ours = results.get("official", {}), results.get("ours", {})
    if official:
        note = "cudnn.benchmark is on for both"
    elif "--official" in outcome.command:
        note = "the official code failed, see the log" if results else outcome.ended
    else:
        note = "give a clone of the official code with --official" if results else outcome.ended
    rounds = f"{len(ours['action_s'])} rounds" if ours else outcome.ended
    return [
        Row(f"{what}, compared with the official code", official.get("ratio"), "x", target, note=note),
        Row(f"{what}, two-view images", ours.get("images_per_s"), "images/s", note=rounds),
    ]


def _cifar10(outcome: Outcome) -> Row:
    found = outcome.found or {}
    what = f"CIFAR-10, ResNet-18, {EPOCHS} epochs, kNN top-1"
    knn = (found.get("knn_top1") or {}).get("pretrained")
    if knn is None:
        note = outcome.ended
        if note.startswith("stopped"):
            note += "; call it again to resume the run"
        return Row(what, None, "%", 84.2, note=note)
    epochs = found["epochs"]
    verdict = "" if round(epochs) == EPOCHS else f"no verdict: {epochs:g} epochs"
    return Row(what, 100 * knn, "%", 84.2, verdict=verdict)


def _sweep(outcome: Outcome) -> Row:
    rows = [row for row in (outcome.found or {}).get("results", []) if row["images_per_s"]]
    if not rows:
        return Row("DALI's graph with its best setting", None, "images/s", note=outcome.ended)
    best = max(rows, key=lambda row: statistics.median(row["images_per_s"]))
    changed = ", ".join(f"{name}={value}" for name, value in best["changed"].items()) or "the defaults"
    failed = sum(bool(row["failed"]) for row in outcome.found["results"]) if outcome.found else 0
    note = f"{changed}; {len(rows)} settings measured, {failed} failed"
    return Row("DALI's graph with its best setting", statistics.median(best["images_per_s"]), "images/s", note=note)


def table(rows: list[Row], outcomes: Mapping[str, Outcome], *, is_cpu: bool) -> str:
    """Return the summary as a Markdown table, and name each part that is not done.

    Args:
        rows: The lines.
        outcomes: Outcomes by the name of their part.
        is_cpu: Whether the numbers are of a CPU. Then no target is judged.
    """
    parts = [OF_A_CPU, ""] if is_cpu else []
    cells = [("what", "measured", "target", "verdict", "note"), ("---",) * 5]
    for row in rows:
        target = f"at least {row.with_unit(row.target)}" if row.target is not None else ""
        verdict = row.judged()
        if is_cpu and row.target is not None and row.value is not None:
            verdict = "no result"
        cells.append((row.what, row.shown(), target, verdict, row.note))
    parts += [f"| {' | '.join(line)} |" for line in cells]
    parts += ["", *(f"{name}: {each.ended}" for name, each in outcomes.items() if each.ended != "done")]
    return "\n".join([*parts, *([OF_A_CPU] if is_cpu else [])]).rstrip()


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the lines for a record."""
    return [{**asdict(row), "verdict": row.judged()} for row in rows]
