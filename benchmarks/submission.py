"""The form of a submitted record: what it must have, and which values are impossible."""

from __future__ import annotations

import json
import re
import statistics
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

SUBMISSIONS = Path(__file__).parent / "submissions"
# Training cannot be faster than the loader or the step alone. Clocks that change between rounds may make it seem so.
MOST_OVER_LIMIT = 1.5
FIRST_DAY = date(2026, 11, 1)

Rate = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=100_000)]
Positive = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\r\n|<>]*$")]


class SubmissionError(ValueError):
    """A submission that is refused. The message names the file, the keys and the rules."""


class Form(BaseModel):
    """A part of a submission. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Machine(Form):
    """The machine.

    Args:
        card: Name of the GPU, as torch reports it.
        gpus: Number of GPUs, which is the number of ranks.
        cpu: Name of the processor.
        cores: Number of cores per rank.
        interconnect: Connection between the GPUs, None for one GPU.
    """

    card: Text
    gpus: Positive
    cpu: Text
    cores: Positive
    interconnect: Text | None = None

    @field_validator("card")
    @classmethod
    def _is_a_gpu(cls, value: str) -> str:
        if value.lower().startswith("none") or not folder_of(value):
            raise ValueError("the record must be of a GPU")
        return value


class Sizes(Form):
    """The sizes of the recipe that was measured.

    Args:
        backbone: Value of model.backbone.
        projector: Widths of the projector.
        size_px: Size of both views in px.
        global_batch_size: Images of a step over all GPUs.
        mixed_precision: Precision of the step.
    """

    backbone: Text
    projector: Annotated[list[Positive], Field(min_length=1, max_length=8)]
    size_px: Annotated[int, Field(ge=8, le=4096)]
    global_batch_size: Positive
    mixed_precision: Annotated[str, Field(pattern="^(no|bf16|fp16)$")]


class Rounds(Form):
    """The rates of `bt-plugin bench` in two-view images/s over all GPUs, each round.

    Args:
        loader: The loader alone.
        step: The step alone, on views that are on the device.
        both: Training.
    """

    loader: Annotated[list[Rate], Field(min_length=1, max_length=100)]
    step: Annotated[list[Rate], Field(min_length=1, max_length=100)]
    both: Annotated[list[Rate], Field(min_length=1, max_length=100)]

    def median(self, name: str) -> float:
        return statistics.median(getattr(self, name))

    @model_validator(mode="after")
    def _training_is_no_faster(self) -> Rounds:
        for name in ("loader", "step"):
            if self.median("both") > MOST_OVER_LIMIT * self.median(name):
                raise ValueError(
                    f"both: {self.median('both'):.0f} images/s is impossible with {self.median(name):.0f} images/s"
                    f" of {name}"
                )
        return self


class Tests(Form):
    """The counts of `pytest -m gpu`.

    Args:
        passed: Number of tests that passed.
        failed: Number of tests that failed.
        skipped: Number of tests that were skipped.
        not_run: Number of tests that were selected and did not run.
    """

    passed: Count
    failed: Count
    skipped: Count
    not_run: Count


class Submission(Form):
    """One record of one machine.

    Args:
        submitter: Name that the page shows: of a person, a team or an account.
        date: Day of the measurement.
        machine: The machine.
        sizes: The sizes of the recipe.
        rounds: The rates of `bt-plugin bench`.
        versions: Versions of the packages, at least of bt-plugin and torch. A commit must be clean.
        official_ratio: Time of the official code's step divided by ours, None if it was not measured.
        cifar10_knn: Top-1 accuracy of kNN on CIFAR-10 after 200 epochs, 0 to 1, None if it was not measured.
        tests: Counts of the tests, None if they did not run.
        notes: What else helps to reproduce the numbers.
    """

    submitter: Name
    date: date
    machine: Machine
    sizes: Sizes
    rounds: Rounds
    versions: dict[Text, Text]
    official_ratio: Annotated[float, Field(gt=0, le=100)] | None = None
    cifar10_knn: Annotated[float, Field(ge=0, le=1)] | None = None
    tests: Tests | None = None
    notes: Annotated[str, Field(max_length=500, pattern=r"^[^\r\n|<>]*$")] = ""

    @field_validator("date")
    @classmethod
    def _has_been(cls, value: date) -> date:
        if not FIRST_DAY <= value <= date.today():
            raise ValueError(f"must be {FIRST_DAY} to today")
        return value

    @field_validator("versions")
    @classmethod
    def _are_known(cls, value: dict[str, str]) -> dict[str, str]:
        if missing := {"bt-plugin", "torch"} - set(value):
            raise ValueError(f"{', '.join(sorted(missing))} is missing")
        if not re.fullmatch(r"[0-9a-f]{40}", value.get("commit", "0" * 40)):
            raise ValueError(f"commit {value['commit']} must be 40 hexadecimal digits. Measure in a clean clone")
        return value


def folder_of(card: str) -> str:
    """Return the name of a card's folder: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def validated(found: Any, what: str) -> Submission:
    """Return a submission.

    Args:
        found: Content of its file.
        what: Name of the file, for the message.

    Raises:
        SubmissionError: If a key is unknown or missing, or a value is impossible.
    """
    try:
        return Submission.model_validate(found)
    except ValidationError as error:
        lines = []
        for each in error.errors():
            key = ".".join(map(str, each["loc"])) or "the file"
            given = f"{each['input']!r} is not allowed: " if isinstance(each["input"], (str, int, float)) else ""
            lines.append(f"{what}: {key}: {given}{each['msg'].removeprefix('Value error, ')}")
        raise SubmissionError("\n".join(lines)) from error


def read(path: Path, root: Path = SUBMISSIONS) -> Submission:
    """Return the submission of a file.

    Args:
        path: The file, CARD/NAME.json in root.
        root: Folder of all submissions.

    Raises:
        SubmissionError: If the file is not valid, or is in the folder of another card.
    """
    what = str(path.relative_to(root))
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise SubmissionError(f"{what}: this is not JSON: {error}") from error
    submission = validated(found, what)
    expected = f"{folder_of(submission.machine.card)}/{submission.submitter}"
    if path.suffix != ".json" or not re.fullmatch(rf"{re.escape(expected)}(_\d+)?\.json", what):
        raise SubmissionError(f"{what}: name it {expected}.json, or {expected}_2.json for a second record")
    return submission


def read_all(root: Path = SUBMISSIONS) -> dict[str, Submission]:
    """Return every submission by its path in root, sorted by card and name."""
    return {str(path.relative_to(root)): read(path, root) for path in sorted(root.rglob("*")) if path.is_file()}
