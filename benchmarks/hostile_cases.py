"""The parts of a try of `hostile.py`: its own folder, the product in its own process, and a verdict."""

from __future__ import annotations

import hashlib
import os
import pickle
import runpy
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hostile_cases_process import Process, Result, attempted

SILENT, CODE, HANG, TRACEBACK, REFUSAL = OUTCOMES = ("silent", "code", "hang", "traceback", "refusal")


class FailedError(Exception):
    """The error of a try that did not pass: one of OUTCOMES, and what was seen."""

    def __init__(self, outcome: str, seen: str) -> None:
        super().__init__(seen)
        self.outcome = outcome


class SkippedError(Exception):
    """The error of a try that cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Try:
    """One hostile input, given to the product.

    Args:
        kind: Name of the row in the table.
        name: Description of the input.
        action: Function that builds the input in the place, gives it to the product, and raises FailedError.
        needs_root: Whether only root can build the input.
    """

    kind: str
    name: str
    action: Callable[[Place], None]
    needs_root: bool = False


@dataclass
class Place:
    """The folder of one try. The product runs there, with its own home.

    Args:
        folder: Current directory of the product.
        shared: Folder of data and runs that tries copy and must not change.
    """

    folder: Path
    shared: Path
    kept: dict[Path, str] = field(default_factory=dict)

    @property
    def sentinel(self) -> Path:
        """The file that only an attacker's code creates."""
        return self.folder / "ran"

    @property
    def data(self) -> Path:
        """The folder with three classes of the demo data, train and val."""
        return self.shared / "data"

    @property
    def recipe(self) -> Path:
        return self.shared / "small.yaml"

    def run_copy(self, name: str = "run", finished: bool = True) -> Path:
        """Copy the finished run, and return its path."""
        shutil.copytree(self.shared / "run", self.folder / name)
        if not finished:
            shutil.rmtree(self.folder / name / "export")
            (self.folder / name / "summary.json").unlink()
        return self.folder / name

    def classes(self, name: str = "images", classes: tuple[str, ...] = ("c0", "c1"), count: int = 4) -> Path:
        """Write a folder of classes with good images, and return its path."""
        photographs = sorted((self.shared / "demo/train").iterdir())
        for number, each in enumerate(classes):
            (self.folder / name / each).mkdir(parents=True)
            for image in range(count):
                file = photographs[number % len(photographs)] / f"{image:03d}.jpg"
                shutil.copy(file, self.folder / name / each / f"{image}.jpg")
        return self.folder / name

    def keep(self, *paths: Path) -> None:
        """Check that files of the user are the same after the block as before."""
        for path in paths:
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file() and not file.is_symlink() and file.name != ".lock":
                    self.kept[file] = hashlib.sha256(file.read_bytes()).hexdigest()

    def check_kept(self) -> None:
        for path, digest in self.kept.items():
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                raise FailedError(SILENT, f"{path.name} of the user was changed or lost")

    def bt(self, *arguments: object, **options: Any) -> Result:
        """Run `bt-plugin ARGUMENTS` for at most `limit` seconds. The options are those of `start`."""
        limit = options.pop("limit", 60)
        return self.start(*arguments, **options).wait(limit)

    def start(
        self,
        *arguments: object,
        env: dict[str, str | None] | None = None,
        powerless: bool = False,
        new: bool = False,
        cwd: Path | None = None,
        preparation: Callable[[], object] | None = None,
    ) -> Process:
        """Start `bt-plugin ARGUMENTS`.

        Args:
            arguments: Arguments of the command line.
            env: Changes to the environment; None removes a variable.
            powerless: Whether root gives up its capabilities, so that permissions apply to it.
            new: Whether to start a new interpreter instead of a fork of this process. It is slow, but imports again.
            cwd: Current directory. Default: the place's folder.
            preparation: Function that is called first in the new process.
        """
        texts = [os.fspath(each) if isinstance(each, Path) else str(each) for each in arguments]
        command = [sys.executable, "-m", "bt_plugin", *texts]

        import bt_plugin

        module = Path(bt_plugin.__file__).with_name("__main__.py")

        def body() -> None:
            if new:
                os.execv(command[0], command)
            sys.argv = ["bt_plugin", *texts]
            runpy.run_path(str(module), run_name="__main__")

        return Process(
            self.folder, body, env=env or {}, powerless=powerless, cwd=cwd or self.folder, preparation=preparation
        )

    def call(self, function: Callable[[], Any], limit: float = 20, **options: Any) -> Result:
        """Call a function in its own process. The result has its value, or the exception that it raised."""
        path = self.folder.parent / f"value-{time.monotonic_ns()}"

        def body() -> None:
            path.write_bytes(pickle.dumps(attempted(function)))

        result = Process(self.folder, body, env={}, powerless=False, cwd=self.folder, **options).wait(limit)
        if path.exists():
            result.value = pickle.loads(path.read_bytes())
        return result


def tries(kind: str, cases: dict[str, Any], action: Callable[..., None], **options: Any) -> list[Try]:
    """Return a try for each case. The action gets the place and the case's value."""
    return [Try(kind, name, partial(_given, action, case), **options) for name, case in cases.items()]


def _given(action: Callable[..., None], case: Any, place: Place) -> None:
    action(place, *case) if isinstance(case, tuple) else action(place, case)
