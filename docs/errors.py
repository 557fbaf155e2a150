"""Write docs/errors.md: errors that users meet, each provoked by a real command. python docs/errors.py.

The page is for people who review the words of messages. tests/test_docs.py compares it with the messages of today.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from bt_plugin.cli import main

PAGE = Path(__file__).with_suffix(".md")
_HEAD = """# Error messages

Each message below comes from a real command. A message names the key or file, the value, the rule, and what to do. The
exit code is 2. This page is written by `python docs/errors.py`.
"""


class Case(NamedTuple):
    """A command that fails; arrange makes what it needs in the current folder."""

    situation: str
    command: str
    arrange: Callable[[], object] = lambda: None


def _images(folder: str, *names: str) -> None:
    for number, name in enumerate(names):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def _many(folder: str = "images", count: int = 16) -> None:
    _images(folder, *(f"{number % 2}/{number}.jpg" for number in range(count)))


def _empty() -> None:
    Path("empty").mkdir()


def _cut_shard() -> None:
    _images(".", "1.jpg", "2.jpg")
    with tarfile.open("shard.tar", "w") as file:
        file.add("1.jpg")
        file.add("2.jpg")
    content = Path("shard.tar").read_bytes()
    Path("shard.tar").write_bytes(content[:1100])


def _two_columns() -> None:
    parquet.write_table(pyarrow.table({"left": [b"any"], "right": [b"any"]}), "set.parquet")


def _finished_run() -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    _many()


CHECK = "check quickstart data.train=images data.val=null"
SMALL = f"{CHECK} optim.global_batch_size=8"
SECTIONS: dict[str, tuple[Case, ...]] = {
    "Recipes": (
        Case("The recipe does not exist", "check quickstrat"),
        Case("A key is misspelled", "check quickstart optim.epohcs=3"),
        Case("A value has another type", "check quickstart optim.epochs=many"),
        Case("A value is out of range", "check quickstart eval.knn_k=0"),
        Case("A choice does not exist", "check quickstart data.backend=gpu"),
        Case("A change has no equals sign", "check quickstart optim.epochs"),
        Case("A file is no YAML", "check broken.yaml", lambda: Path("broken.yaml").write_text("optim: [1, 2")),
        Case(
            "A key is given twice",
            "check twice.yaml",
            lambda: Path("twice.yaml").write_text("optim: {epochs: 1}\noptim: {epochs: 2}\n"),
        ),
        Case("The batch does not divide over the ranks", f"{CHECK} optim.global_batch_size=7 --world-size 2", _many),
        Case("The batch is larger than the data set", f"{CHECK} optim.global_batch_size=64", _many),
        Case("The GPU of a plan is unknown", "plan quickstart --gpu h101"),
        Case("The numbers of a GPU are incomplete", "plan quickstart --gpu 80,989"),
        Case("The ranks of a plan do not divide over the hosts", "plan quickstart --world-size 4 --nodes 3"),
        Case("A key belongs to another optimizer", "check quickstart optim.name=adamw"),
        Case("The warm-up is longer than the run", f"{CHECK} optim.epochs=2 optim.warmup_epochs=3", _many),
    ),
    "Networks": (
        Case(
            "The backbone is misspelled",
            f"{SMALL} model.backbone=torchvision/resnet81",
            _many,
        ),
        Case("The library is unknown", f"{SMALL} model.backbone=resnet18", _many),
        Case(
            "The stem does not fit the backbone",
            f"{SMALL} model.backbone=torchvision/vgg11 model.stem=small",
            _many,
        ),
    ),
    "Images": (
        Case("The folder does not exist", "check quickstart data.train=nowhere data.val=null"),
        Case("The folder has no images", "check quickstart data.train=empty data.val=null", _empty),
        Case("A list is empty", "scan list.txt", lambda: Path("list.txt").touch()),
        Case("A tar shard is cut", "scan shard.tar", _cut_shard),
        Case("No shard matches a pattern", "scan shards-*.tar"),
        Case("Two columns may be the images", "scan set.parquet", _two_columns),
        Case(
            "An array has another type",
            "scan set.npy",
            lambda: np.save("set.npy", np.zeros((4, 8, 8, 3), dtype=complex)),
        ),
        Case(
            "A validation class is not a training class",
            "knn torchvision/resnet18 data.train=images data.val=other",
            lambda: (_many(), _images("other", "zebra/1.jpg", "0/2.jpg")),
        ),
    ),
    "Outputs": (
        Case("The output exists", "scan images -o found", lambda: (_many(), main(["scan", "images", "-o", "found"]))),
        Case("The folder of shards has other files", "pack images run --shards 2", _finished_run),
        Case("A quality is given for copies", "pack images shards --shards 2 --quality 90", _many),
        Case(
            "The shards were packed with other options",
            "pack images shards --shards 3",
            lambda: (_many(), main(["pack", "images", "shards", "--shards", "2"])),
        ),
        Case("The folder of a public data set has other files", "get cifar10 run", _finished_run),
        Case("The output has another suffix", "preview quickstart data.train=images data.val=null -o views.gif", _many),
        Case(
            "The run's directory has files of something else",
            "pretrain quickstart data.train=images data.val=null run.output_dir=run optim.global_batch_size=8",
            _finished_run,
        ),
        Case(
            "The output's folder is a file",
            "embed torchvision/resnet18 images -o file/features.npz",
            lambda: (_many(), Path("file").touch()),
        ),
    ),
    "Weights and runs": (
        Case("The file does not exist", "import gone.pth"),
        Case("A file is no checkpoint", "import text.pth", lambda: Path("text.pth").write_text("hello")),
        Case(
            "A pickle would run code",
            "import code.pth",
            lambda: Path("code.pth").write_bytes(pickle.dumps(os.system, protocol=2)),
        ),
        Case("A folder has no export", "export empty --to timm", _empty),
        Case("A folder is no run", "report empty", _empty),
    ),
}


def page() -> str:
    """Run every case, and return the page's Markdown."""
    parts = [_HEAD]
    for section, cases in SECTIONS.items():
        parts.append(f"\n## {section}\n")
        parts += [f"**{case.situation}.** `bt-plugin {case.command}`\n\n```\n{message(case)}\n```\n" for case in cases]
    return "\n".join(parts)


def message(case: Case) -> str:
    """Return what the command prints, with the names of its folder left out."""
    with tempfile.TemporaryDirectory() as folder, _inside(folder):
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            case.arrange()
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = main(case.command.split())
        assert code == 2, f"{case.command}: exit code {code}, not 2: {errors.getvalue()}"
        text = errors.getvalue().replace(os.path.realpath(folder) + "/", "").replace(folder + "/", "")
    return re.sub(r"\n+", "\n", text).strip()


@contextlib.contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    PAGE.write_text(page())
