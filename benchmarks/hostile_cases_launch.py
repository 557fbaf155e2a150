"""Try missing ranks, wrong environments, read-only homes, and batches of one image (D5, D8, D11)."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import Any

from hostile_cases import FailedError, Place, Try, tries
from hostile_cases_hosts import free_port, ranks
from hostile_cases_process import Result
from hostile_cases_verdicts import accepted, either, helpful, refused, right, sound
from hostile_cases_weights import NETWORK

_VIEW = ("view.size_px=32", "view.resize_px=32", "run.device=cpu")
_ONE: dict[str, str | None] = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}


def _command(place: Place, name: str) -> list[Any]:
    data = (f"data.train={place.data}/train", f"data.val={place.data}/val")
    return {
        "pretrain": ["pretrain", place.recipe, "run.output_dir=run", "run.max_steps=4", "run.timeout_s=6"],
        "knn": ["knn", "pixels", *data, *_VIEW, "run.timeout_s=6"],
        "embed": ["embed", "pixels", place.data / "val", "-o", "e.npz", *_VIEW, "run.timeout_s=6"],
        "doctor": ["doctor", place.recipe, "run.output_dir=run", "run.timeout_s=6"],
        "bench": ["bench", place.recipe, "run.timeout_s=6", "--seconds", "1"],
    }[name]


# --- D5: ranks and the environment ----------------------------------------------------------------------------------


def _alone(
    place: Place, command: str, changes: dict[str, str | None], needles: tuple[str | tuple[str, ...], ...]
) -> None:
    """Start a rank without the others. It must end after run.timeout_s, and say where it waited."""
    port = str(free_port())
    env = {**_ONE, "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", **changes}
    result = place.bt(*_command(place, command), env=env, limit=60)
    named = tuple(port if needle == "PORT" else needle for needle in needles)
    if command == "doctor" and result.code == 1:
        sound(result)
        helpful(all(str(needle) in result.out + result.err for needle in named), result.out[-300:])
    else:
        refused(result, *named)


_ALONE: dict[str, tuple[str, dict[str, str | None], tuple[str | tuple[str, ...], ...]]] = {
    "rank 0, pretrain": ("pretrain", {}, ("127.0.0.1", "PORT", ("1 of 2", "1/2"))),
    "rank 0, knn": ("knn", {}, ("127.0.0.1", "PORT")),
    "rank 0, embed": ("embed", {}, ("127.0.0.1", "PORT")),
    "rank 0, doctor": ("doctor", {}, ("127.0.0.1", "PORT")),
    "rank 1, pretrain": ("pretrain", {"RANK": "1", "LOCAL_RANK": "1"}, ("127.0.0.1", "PORT")),
    "a name that does not resolve": (
        "pretrain",
        {"RANK": "1", "MASTER_ADDR": "no-such-host.invalid"},
        ("no-such-host.invalid",),
    ),
    "a name that does not resolve, rank 0": ("knn", {"MASTER_ADDR": "no-such-host.invalid"}, ("no-such-host.invalid",)),
    "an address that is no host": ("pretrain", {"RANK": "1", "MASTER_ADDR": "300.1.2.3"}, ("300.1.2.3",)),
    "an address of another machine": ("pretrain", {"MASTER_ADDR": "192.0.2.1"}, ("192.0.2.1",)),
}


def _port_in_use(place: Place) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        env: dict[str, str | None] = {**_ONE, "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        refused(place.bt(*_command(place, "pretrain"), env=env, limit=60), port)


def _variable(place: Place, env: dict[str, str | None], must_refuse: bool, new: bool = False) -> None:
    """Set an environment variable to a wrong value. The message must name it."""
    name = next(iter(env))
    base: dict[str, str | None] = {"MASTER_PORT": str(free_port())} if "WORLD_SIZE" in env else {}
    result = place.bt(*_command(place, "pretrain"), env={**base, **env}, new=new, limit=90)
    if must_refuse:
        refused(result, name)
    elif either(result, (name, "MASTER_ADDR")):
        right((place.folder / "run/summary.json").exists(), "no result")


def _many(names: str, value: str) -> dict[str, str | None]:
    name, *others = names.split()
    return {name: value, **{key: value_ for key, _, value_ in (other.partition("=") for other in others)}}


_TWO = "WORLD_SIZE=2 RANK=0 LOCAL_RANK=0 MASTER_ADDR=127.0.0.1 ACCELERATE_USE_CPU=true"
_VARIABLES: dict[str, tuple[dict[str, str | None], bool, bool]] = {
    **{
        f"LOCAL_WORLD_SIZE={value}": ({"LOCAL_WORLD_SIZE": value}, False, False)
        for value in ("0", "abc", "-1", "", "1.5")
    },
    **{f"WORLD_SIZE={value}": ({"WORLD_SIZE": value}, True, False) for value in ("0", "abc", "-2", "1.5", "1e30")},
    **{
        f"RANK={value}": (_many("RANK " + _TWO.replace("RANK=0 ", "", 1), value), True, False)
        for value in ("abc", "5", "-1", "")
    },
    "RANK that is missing": (
        {"RANK": None, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"},
        True,
        False,
    ),
    "RANK=abc, alone": ({"RANK": "abc"}, False, False),
    "LOCAL_RANK=abc": (
        _many("LOCAL_RANK WORLD_SIZE=2 RANK=0 MASTER_ADDR=127.0.0.1 ACCELERATE_USE_CPU=true", "abc"),
        True,
        False,
    ),
    "LOCAL_RANK that is missing": (
        {"LOCAL_RANK": None, "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"},
        False,
        False,
    ),
    **{
        f"MASTER_PORT={value}": (_many(f"MASTER_PORT {_TWO}", value), True, False)
        for value in ("abc", "99999", "-1", "")
    },
    "MASTER_PORT that is missing": (
        {
            "MASTER_PORT": None,
            "WORLD_SIZE": "2",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "ACCELERATE_USE_CPU": "true",
        },
        False,
        False,
    ),
    "MASTER_ADDR that is missing": (
        {"MASTER_ADDR": None, "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "ACCELERATE_USE_CPU": "true"},
        False,
        False,
    ),
    **{f"ACCELERATE_USE_CPU={value}": ({"ACCELERATE_USE_CPU": value}, False, False) for value in ("maybe", "2", "")},
    **{
        f"ACCELERATE_MIXED_PRECISION={value}": ({"ACCELERATE_MIXED_PRECISION": value}, True, False)
        for value in ("fp7", "fp8", "")
    },
    "ACCELERATE_USE_FSDP=maybe": ({"ACCELERATE_USE_FSDP": "maybe"}, False, False),
    "FSDP_VERSION=x": ({"FSDP_VERSION": "x", "ACCELERATE_USE_FSDP": "true"}, False, False),
    **{f"NUMBA_NUM_THREADS={value}": ({"NUMBA_NUM_THREADS": value}, False, True) for value in ("0", "abc", "100000")},
    "NUMBA_THREADING_LAYER=nope": ({"NUMBA_THREADING_LAYER": "nope"}, False, True),
    "OMP_NUM_THREADS=abc": ({"OMP_NUM_THREADS": "abc"}, False, True),
    "COLUMNS=wide": ({"COLUMNS": "wide"}, False, False),
}


# --- D8: homes and caches that cannot be written --------------------------------------------------------------------


def _read_only(place: Place, command: str, env: dict[str, str | None]) -> None:
    """Make home, cache and the package's folder read-only. The command must work, and say what that costs."""
    import bt_plugin

    package = Path(bt_plugin.__file__).parent.parent
    code = place.folder / "code"
    for name in ("bt_plugin", "dali_pipelines"):
        shutil.copytree(package / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    home = place.folder / "house"
    home.mkdir()
    for folder in (home, *(Path(path) for path, _, _ in os.walk(code))):
        folder.chmod(0o555)
    base: dict[str, str | None] = {
        "PYTHONPATH": str(code),
        "HOME": str(home),
        "XDG_CACHE_HOME": None,
        "NUMBA_CACHE_DIR": None,
    }
    env = {name: value.replace("HOUSE", str(home)) if value else value for name, value in {**base, **env}.items()}
    result = place.bt(*_command(place, command), env=env, powerless=True, new=True, limit=150)
    if command == "doctor":
        sound(result, 8000)
        helpful("cache" in (result.out + result.err).lower(), f"doctor says nothing of it: {result.out[-300:]}")
        right(
            "error" not in "".join(line for line in result.out.splitlines() if "cache" in line),
            "an error, though it works",
        )
    else:
        accepted(result)
    right(result.code in (0, 1), result.code)


_HOMES: dict[str, tuple[str, dict[str, str | None]]] = {
    "a home that may not be written, pretrain": ("pretrain", {}),
    "a home that may not be written, doctor": ("doctor", {}),
    "a cache below a device": ("knn", {"XDG_CACHE_HOME": "/dev/null/x"}),
    "numba's cache below a device": ("pretrain", {"NUMBA_CACHE_DIR": "/dev/null/x"}),
    "no home": ("pretrain", {"HOME": None}),
    "a home that is not there": ("knn", {"HOME": "/nowhere/at/all", "XDG_CACHE_HOME": "HOUSE/x"}),
}


# --- D11: one image per rank ----------------------------------------------------------------------------------------


def _few(place: Place, images: int, count: int, command: str, changes: tuple[str, ...]) -> None:
    """Use fewer images than BatchNorm needs. They must be refused with the rule, or train; no rank may hang."""
    folder = place.classes(count=(images + 1) // 2)
    if images % 2:
        (folder / "c1/0.jpg").unlink()
    subject = ("pretrain", place.recipe) if command == "pretrain" else (command, NETWORK)
    own = ("data.val=null", "run.output_dir=run") if command == "pretrain" else (f"data.val={folder}", *_VIEW)
    texts = (*subject, f"data.train={folder}", *own, "run.timeout_s=20", *changes)
    results = ranks(place, count, *texts) if count > 1 else [place.bt(*texts)]
    for result in results:
        sound(result, 8000)
    codes = {result.code for result in results}
    if codes != {0}:
        first: Result = next((each for each in results if "error: " in each.err), results[0])
        refused(first, ("BatchNorm", "images"), ("global_batch_size", "data.train", "fraction", "ranks"))
        if codes - {2}:
            raise FailedError("traceback", f"exit codes {codes}")


_ALL = ("finetune.fraction=1", "finetune.epochs=1")
_FEW: dict[str, tuple[int, int, str, tuple[str, ...]]] = {
    "finetune, 2 images, 2 ranks": (2, 2, "finetune", _ALL),
    "finetune, 3 images, 2 ranks": (3, 2, "finetune", _ALL),
    "finetune, 6 images, 2 ranks, a batch of 2": (6, 2, "finetune", (*_ALL, "finetune.global_batch_size=2")),
    "finetune, 2 images, 3 ranks": (2, 3, "finetune", _ALL),
    "finetune, 4 images, a batch of 1": (4, 1, "finetune", (*_ALL, "finetune.global_batch_size=1")),
    "finetune, 40 images, a fraction of 1 %": (40, 2, "finetune", ("finetune.fraction=0.01", "finetune.epochs=1")),
    "finetune, 1 image": (1, 1, "finetune", _ALL),
    "finetune, 5 images, a batch of 4": (5, 1, "finetune", (*_ALL, "finetune.global_batch_size=4")),
    "linear, 2 images, 2 ranks": (2, 2, "linear", ("linear.epochs=1",)),
    "pretrain, 4 images, 2 ranks, a batch of 2": (4, 2, "pretrain", ("optim.global_batch_size=2", "optim.epochs=2")),
    "pretrain, 8 images, micro-batches of 1": (
        8,
        1,
        "pretrain",
        ("optim.global_batch_size=4", "optim.accumulation_steps=4", "optim.epochs=2"),
    ),
    "finetune, 8 images, 2 ranks, which is right": (8, 2, "finetune", _ALL),
}


def all_tries() -> list[Try]:
    found = tries("D5", _ALONE, _alone)
    found += [Try("D5", "a port in use", _port_in_use)]
    found += tries("D5", _VARIABLES, _variable)
    found += tries("D8", _HOMES, _read_only)
    return found + tries("D11", _FEW, _few)
