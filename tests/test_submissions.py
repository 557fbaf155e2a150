"""Submitted records: each file in benchmarks/submissions is valid, and impossible ones are refused by name."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.test_docs import script

SUBMISSIONS = REPOSITORY / "benchmarks" / "submissions"
FILES = sorted(path for path in SUBMISSIONS.rglob("*") if path.is_file())
# What `bt-plugin bench -o` writes, of a card that does not exist.
BENCH: dict[str, Any] = {
    "loader": 3000.0,
    "step": 1000.0,
    "both": 980.0,
    "raw": {"loader": [2900.0, 3000.0, 3100.0], "step": [1000.0, 990.0, 1010.0], "both": [980.0, 970.0, 985.0]},
    "world_size": 1,
    "device": "cuda",
    "mixed_precision": "bf16",
    "recipe": {
        "data": {"train": "/home/someone/secret"},
        "views": {"a": {"size_px": 224}},
        "model": {"backbone": "torchvision/resnet50", "projector": [8192, 8192, 8192]},
        "optim": {"global_batch_size": 256},
    },
    "hardware": {"cpu": "A Processor", "cores": 16, "gpu": "Made-Up X1 (80GB)"},
    "versions": {"bt-plugin": "0.1.0", "torch": "2.11.0"},
}
DAY: dict[str, Any] = {
    "environment": {"date": "2026-11-25T10:00:00+00:00", "commit": "a" * 40},
    "parts": [
        {"part": "gpu tests", "found": None, "tests": {"passed": 90, "failed": 1, "skipped": 2, "not run": 0}},
        {"part": "step", "found": {"results": {"ours": {}, "official": {"ratio": 1.9}}}},
        {"part": "bench", "found": BENCH},
        {"part": "CIFAR-10", "found": {"epochs": 200.0, "knn_top1": {"pretrained": 0.85}}},
    ],
}


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import submit

    return submit


def run(
    submit: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, record: object, name: str = "someone"
) -> int:
    (folder / "record.json").write_text(json.dumps(record))
    output = ["--submitter", name, "--output", str(folder / "submissions")]
    monkeypatch.setattr(sys, "argv", ["submit.py", str(folder / "record.json"), *output])
    code: int = submit.main()
    return code


def test_submitted_files_are_valid(submit: ModuleType) -> None:
    import submission

    assert len(submission.read_all()) == len(FILES)


def test_a_record_becomes_a_submission(submit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import submission

    root = tmp_path / "submissions"
    assert run(submit, monkeypatch, tmp_path, BENCH) == 0
    assert run(submit, monkeypatch, tmp_path, DAY) == 0
    found = submission.read_all(root)
    assert [*found] == ["made-up-x1-80gb/someone.json", "made-up-x1-80gb/someone_2.json"]
    plain, day = found.values()
    assert (plain.official_ratio, plain.cifar10_knn, plain.tests) == (None, None, None)
    assert (day.official_ratio, day.cifar10_knn, day.tests.failed) == (1.9, 0.85, 1)
    assert (day.date.isoformat(), day.versions["commit"]) == ("2026-11-25", "a" * 40)
    assert not any("secret" in path.read_text() for path in root.rglob("*.json")), "no path of the machine"


def test_a_run_of_fewer_epochs_is_no_result(
    submit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import submission

    day = copy.deepcopy(DAY)
    day["parts"][3]["found"]["epochs"] = 20.0
    day["parts"][0]["tests"]["not run"] = None
    assert run(submit, monkeypatch, tmp_path, day) == 0
    (found,) = submission.read_all(tmp_path / "submissions").values()
    assert (found.cifar10_knn, found.tests) == (None, None)


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("hardware", "gpu"), "none", "machine.card: 'none' is not allowed: the record must be of a GPU"),
        (("hardware", "gpu"), "X|1", "machine.card: 'X|1' is not allowed"),
        (("hardware", "cores"), 0, "machine.cores: 0 is not allowed"),
        (("world_size",), "two", "machine.gpus: 'two' is not allowed"),
        (("raw", "both"), [2000.0], "both: 2000 images/s is impossible with 1000 images/s of step"),
        (("raw", "loader"), [-1.0], "rounds.loader.0: -1.0 is not allowed"),
        (("raw", "step"), [], "rounds.step: List should have at least 1 item"),
        (("raw", "speed"), [1.0], "rounds.speed: Extra inputs are not permitted"),
        (("mixed_precision",), "fp8", "sizes.mixed_precision: 'fp8' is not allowed"),
        (("recipe", "views", "a", "size_px"), 0, "sizes.size_px: 0 is not allowed"),
        (("versions",), {"torch": "2.11.0"}, "versions: bt-plugin is missing"),
        (("versions", "commit"), f"{'a' * 40}+changes", "Measure in a clean clone"),
    ],
)
def test_an_impossible_value_is_refused_by_name(
    submit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    where: tuple[str, ...],
    value: object,
    named: str,
) -> None:
    record = copy.deepcopy(BENCH)
    inner = record
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    assert run(submit, monkeypatch, tmp_path, record) == 2
    said = capsys.readouterr().err
    assert said.startswith("record.json: ")
    assert named in said
    assert not (tmp_path / "submissions").exists()


def test_a_file_that_is_no_submission_is_named(
    submit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import submission

    assert run(submit, monkeypatch, tmp_path, BENCH) == 0
    (path,) = (tmp_path / "submissions").rglob("*.json")
    found = json.loads(path.read_text())
    for content, named in (
        ("{", "this is not JSON"),
        (json.dumps(found | {"speed": 3}), "speed: 3 is not allowed: Extra inputs"),
        (json.dumps(found | {"date": "2099-01-01"}), "date: '2099-01-01' is not allowed: must be 2026-11-01 to today"),
        (json.dumps(found | {"submitter": "another"}), "name it made-up-x1-80gb/another.json"),
        (json.dumps({key: value for key, value in found.items() if key != "rounds"}), "rounds: Field required"),
    ):
        path.write_text(content)
        with pytest.raises(submission.SubmissionError, match=r"made-up-x1-80gb/someone\.json") as error:
            submission.read_all(tmp_path / "submissions")
        assert named in str(error.value)


def test_a_record_without_bench_is_named(
    submit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(submit, monkeypatch, tmp_path, {"parts": [{"part": "doctor", "found": None}]}) == 2
    assert "it has no measurement by bt-plugin bench" in capsys.readouterr().err
    assert run(submit, monkeypatch, tmp_path, BENCH, name="some one") == 2
    assert "submitter: 'some one' is not allowed" in capsys.readouterr().err


def test_the_page_of_cards_is_that_of_the_submissions() -> None:
    page = (REPOSITORY / "docs" / "cards.md").read_text()
    assert page == script("cards").page(), "python docs/cards.py"
    assert ("**No GPU has been measured yet.**" in page) == (not FILES)


def test_the_page_lists_records_by_card(submit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import submission

    other = copy.deepcopy(DAY)
    other["parts"][2]["found"]["hardware"]["gpu"] = "Another Card"
    for record in (BENCH, DAY, other):
        assert run(submit, monkeypatch, tmp_path, record) == 0
    page = script("cards").page(submission.read_all(tmp_path / "submissions"))
    assert "No GPU has been measured" not in page
    assert [line for line in page.splitlines() if line.startswith("## ")] == ["## Another Card", "## Made-Up X1 (80GB)"]
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert len(rows) == 3
    start = "[someone](../benchmarks/submissions/another-card/someone.json) | 1 | 16 | torchvision/resnet50"
    assert rows[0].startswith(f"| {start}")
    assert "| 980 (970 to 985) | 1000 (990 to 1010) | 3000 (2900 to 3100) | 0.98 | 1.90 | 85.0 % | 90 passed" in rows[0]
    assert "| 0.98 | not measured | not measured | not run |" in "".join(rows[1:])
