"""Try damaged files metrics.jsonl and evaluations.jsonl (D3)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_checkpoints import NEWEST, same_weights
from hostile_cases_verdicts import accepted, right

Change = Callable[[Path], Any]


def append(content: bytes) -> Change:
    def change(path: Path) -> None:
        with open(path, "ab") as file:
            file.write(content)

    return change


def first(content: bytes) -> Change:
    return lambda path: path.write_bytes(content + path.read_bytes())


def whole(content: bytes) -> Change:
    return lambda path: path.write_bytes(content)


def cut(share: float) -> Change:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def edited(change: Callable[[Any], Any]) -> Change:
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def with_key(key: str, value: Any) -> Change:
    return edited(lambda content: {**content, key: value})


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


_LINES: dict[str, Change] = {
    "a blank line": append(b"\n"),
    "NUL": append(b"\0\0\0\n"),
    "no UTF-8": append(b"\xff\xfe\n"),
    "a list": append(b"[1, 2]\n"),
    "a number": append(b"7\n"),
    "null": append(b"null\n"),
    "text": append(b"Traceback (most recent call\n"),
    "half a line": append(b'{"step": 13, "lo'),
    "half a line and another": append(b'{"step": 13, "lo{"step": 14, "loss": 1}\n'),
    "no step": append(b'{"loss": 1.0}\n'),
    "a step of text": append(b'{"step": "x", "loss": 1.0}\n'),
    "a step of NaN": append(b'{"step": NaN, "loss": 1.0}\n'),
    "a step of null": append(b'{"step": null}\n'),
    "a step of 10^5 digits": append(b'{"step": ' + b"9" * 100_000 + b"}\n"),
    "a loss of text": append(b'{"step": 13, "loss": "low", "images_per_s": []}\n'),
    "infinities": append(b'{"step": 13, "loss": Infinity, "redundancy": -Infinity, "lr_weights": NaN}\n'),
    "numbers beyond floats": append(b'{"step": 13, "loss": 1e999, "redundancy": ' + b"9" * 400 + b"}\n"),
    "booleans": append(b'{"step": true, "loss": false}\n'),
    "depth": append(b'{"step": 13, "loss": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "a line of 5 MB": append(b'{"step": 13, "note": "' + b"x" * 5_000_000 + b'"}\n'),
    "carriage returns": lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "a byte-order mark": first(b"\xef\xbb\xbf"),
    "NUL first": first(b"\0" * 4096 + b"\n"),
    "surrogates": append(b'{"step": 13, "note": "\\ud800"}\n'),
    "another program's": whole(b'{"epoch": 1, "top1": 0.4}\n' * 5),
    "noise": whole(np.random.default_rng(0).bytes(5000)),
    "nothing": whole(b""),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "a separator of lines within": append('{"step": 13, "note": "a\u2028b\u0085c"}\n'.encode()),
}


def _lines(place: Place, name: str, change: Change, command: str) -> None:
    """Damage a file whose lines are only shown. Wrong lines must be left out, and nothing may stop."""
    run = place.run_copy(finished=False)
    if command == "pretrain":
        shutil.rmtree(run / NEWEST)
    change(run / name)
    if command == "report":
        accepted(place.bt("report", run, "--map-images", "0"))
        right(b"</html>" in (run / "report.html").read_bytes(), "no page")
        return
    accepted(place.bt("pretrain", place.recipe, f"run.output_dir={run}", limit=60))
    same_weights(place, run)
    steps = []
    for line in (run / name).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            steps.append(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    right(max((each for each in steps if isinstance(each, int)), default=0) >= 12, "the new steps were not written")


def all_tries() -> list[Try]:
    found = tries(
        "D3",
        {f"metrics.jsonl: {name}, report": ("metrics.jsonl", case, "report") for name, case in _LINES.items()},
        _lines,
    )
    some = list(_LINES.items())[::2]
    found += tries(
        "D3", {f"metrics.jsonl: {name}, pretrain": ("metrics.jsonl", case, "pretrain") for name, case in some}, _lines
    )
    others = list(_LINES.items())[1::4]
    found += tries(
        "D3",
        {f"evaluations.jsonl: {name}, report": ("evaluations.jsonl", case, "report") for name, case in others},
        _lines,
    )
    others = list(_LINES.items())[2::5]
    found += tries(
        "D3",
        {f"evaluations.jsonl: {name}, pretrain": ("evaluations.jsonl", case, "pretrain") for name, case in others},
        _lines,
    )
    return found
