"""Make a submission from the output of `bt-plugin bench -o` or from a record of gpu_day.py.

python benchmarks/submit.py RECORD.json --submitter NAME [--interconnect TEXT] [--notes TEXT]

It writes benchmarks/submissions/CARD/NAME.json without paths and commands of your machine, and checks it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from submission import SUBMISSIONS, Submission, SubmissionError, folder_of, validated


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="output of bt-plugin bench -o, or a record of gpu_day.py")
    parser.add_argument("--submitter", required=True, help="name that the page shows: letters, digits, . _ -")
    parser.add_argument("--interconnect", help="connection between the GPUs, for example NVLink")
    parser.add_argument("--notes", default="", help="what else helps to reproduce the numbers")
    parser.add_argument("--output", type=Path, default=SUBMISSIONS, help="folder of the submissions")
    arguments = parser.parse_args()
    try:
        submission = submission_of(
            json.loads(arguments.record.read_text()),
            what=arguments.record.name,
            day=datetime.fromtimestamp(arguments.record.stat().st_mtime, timezone.utc).date(),
            submitter=arguments.submitter,
            interconnect=arguments.interconnect,
            notes=arguments.notes,
        )
    except (SubmissionError, OSError, json.JSONDecodeError) as error:
        print(error, file=sys.stderr)
        return 2
    path = free_path(arguments.output / folder_of(submission.machine.card), submission.submitter)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(submission.model_dump_json(indent=1, exclude_none=True) + "\n")
    print(path)
    return 0


def submission_of(
    record: Mapping[str, Any], *, what: str, day: date, submitter: str, interconnect: str | None, notes: str
) -> Submission:
    """Return the submission that a record makes.

    Args:
        record: Output of `bt-plugin bench -o`, or a record of gpu_day.py.
        what: Name of the record, for messages.
        day: Day of the measurement, if the record does not say.
        submitter: Name that the page shows.
        interconnect: Connection between the GPUs, or None.
        notes: What else helps to reproduce the numbers.

    Raises:
        SubmissionError: If the record has no measurement by `bench`, or a value is impossible.
    """
    parts = {part["part"]: part for part in record.get("parts", [])}
    bench = (parts.get("bench", {}).get("found") or {}) if parts else record
    if not bench.get("raw") or "hardware" not in bench:
        raise SubmissionError(f"{what}: it has no measurement by bt-plugin bench. Measure again")
    recipe, hardware = bench["recipe"], bench["hardware"]
    commit = record.get("environment", {}).get("commit")
    found = {
        "submitter": submitter,
        "date": record.get("environment", {}).get("date", day.isoformat())[:10],
        "machine": {
            "card": hardware["gpu"],
            "gpus": bench["world_size"],
            "cpu": hardware["cpu"],
            "cores": hardware["cores"],
            "interconnect": interconnect,
        },
        "sizes": {
            "backbone": recipe["model"]["backbone"],
            "projector": recipe["model"]["projector"],
            "size_px": recipe["views"]["a"]["size_px"],
            "global_batch_size": recipe["optim"]["global_batch_size"],
            "mixed_precision": bench["mixed_precision"],
        },
        "rounds": bench["raw"],
        "versions": {**bench["versions"], **({"commit": commit} if commit else {})},
        "notes": notes,
        **_of_day(parts),
    }
    return validated(found, what)


def _of_day(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a record of gpu_day.py has beyond `bench`. What was not measured is left out."""
    found: dict[str, Any] = {}
    step = (parts.get("step", {}).get("found") or {}).get("results", {})
    if ratio := step.get("official", {}).get("ratio"):
        found["official_ratio"] = ratio
    cifar10 = parts.get("CIFAR-10", {}).get("found") or {}
    if cifar10.get("knn_top1") and round(cifar10["epochs"]) == 200:
        found["cifar10_knn"] = cifar10["knn_top1"]["pretrained"]
    counts = parts.get("gpu tests", {}).get("tests")
    if counts and counts["not run"] is not None:
        found["tests"] = {name.replace(" ", "_"): count for name, count in counts.items()}
    return found


def free_path(folder: Path, submitter: str) -> Path:
    """Return a path that does not exist, because a record is never replaced."""
    path, number = folder / f"{submitter}.json", 2
    while path.exists():
        path, number = folder / f"{submitter}_{number}.json", number + 1
    return path


if __name__ == "__main__":
    sys.exit(main())
