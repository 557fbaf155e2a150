"""`replay`: run the captured non-finite step of a run again, and show where it stops being finite."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bt_plugin.tools.replay import Output, Replay

_MOST_NAMES = 16
_MODULES_BEFORE = 10


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("replay", help="run a captured non-finite step again, and find its first bad module")
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="folder RUN/nonfinite/step-STEP, or the file of one of its ranks"
    )
    parser.add_argument(
        "--mixed-precision", choices=["no", "bf16", "fp16"], help="precision of the network (default: that of the run)"
    )
    parser.add_argument("--backbone", help="module:function of a network of your own, which is imported")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Return 0 if the step is not finite again, and 1 if it is finite."""
    from bt_plugin.tools.replay import replay

    found = replay(arguments.path, arguments.mixed_precision, backbone=arguments.backbone)
    for line in _report(found):
        print(line)
    return int(found.is_finite)


def _report(found: Replay) -> list[str]:
    step = found.step
    images = sum(len(step.names[rank]) for rank in found.ranks)
    lines = [
        f"step {step.step}: {images} images of {len(found.ranks)} of {len(step.names)} ranks",
        f"mixed precision {found.mixed_precision} (the run: {step.mixed_precision} on {step.device})",
        f"weights and statistics that are not finite: {_some(found.weights)}",
        f"images whose views are not finite: {_some(found.views)}",
        "forward pass, output of each module:",
        *_forward(found.outputs),
        f"loss: {found.loss:g}",
        f"backward pass, first non-finite gradient: {found.backward or 'none'}"
        f"{' (gradient of its output)' if found.backward else ''}",
        f"parameters whose gradients are not finite: {_some(found.gradients)}",
    ]
    again = "The step is finite here. Compare precision, device and versions with those of the run"
    return [*lines, again if found.is_finite else "The step is not finite here either"]


def _forward(outputs: list[Output]) -> list[str]:
    last = outputs[-1]
    if not last.nonfinite:
        largest = sorted(outputs, key=lambda output: max(-output.least, output.most))[-_MODULES_BEFORE:]
        return ["  all are finite; the largest numbers are:", *map(_line, reversed(largest))]
    before = outputs[-1 - _MODULES_BEFORE :]
    skipped = len(outputs) - len(before)
    images = f"  its images: {_some(last.images)}"
    return [*([f"  {skipped} modules are finite"] if skipped else []), *map(_line, before), images]


def _line(output: Output) -> str:
    first = f"  <- first, {output.nonfinite} numbers are NaN or infinite" if output.nonfinite else ""
    return f"  {output.module:<40} {output.least:>10.4g} to {output.most:<10.4g}{first}".rstrip()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(names[:_MOST_NAMES]) or "none") + more
