"""Tensors from a file, and nothing else: a pickle's code is never run."""

from __future__ import annotations

import json
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bt_plugin.errors import WeightsError

# Where a checkpoint keeps its state dict.
_STATES = ("state_dict", "model", "model_state_dict")
# No weights name these: whoever put them into a file wants code to run.
_ATTACKS = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "pty", "runpy", "importlib", "ctypes", "code"}
_ATTACKS |= {f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "getattr", "__import__")}
_SAVE_ALONE = (
    'import torch; c = torch.load({path}, map_location="cpu", weights_only=False);'
    ' s = c.state_dict() if hasattr(c, "state_dict") else next(c[k] for k in {states} if k in c);'
    " torch.save(s, {target})"
)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in a file, and the names of what lies beside it.

    Raises:
        WeightsError: If there is none, or the file holds Python objects, or is damaged.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; name a checkpoint or a file of weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path), []
        except SafetensorError as error:
            raise WeightsError(f"{path} is no safetensors file, or damaged ({error}); copy it again") from error
    content = _load(path)
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}; it must be a state dict or a checkpoint with one")
    for key in _STATES:
        if isinstance(content.get(key), Mapping) and _tensors(content[key]):
            return _tensors(content[key]), [str(other) for other in content if other != key]
    if tensors := _tensors(content):
        return tensors, [str(key) for key in content if key not in tensors]
    found = ", ".join(map(str, content)) or "nothing"
    raise WeightsError(f"{path} has no tensors under {', '.join(_STATES)} or at its top; it has {found}")


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _load(path: Path) -> Any:
    # torch maps only its newer format, an archive; files of before torch 1.6 are read.
    archive = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about files that are refused
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # bytes that are no pickle raise whatever they happen to mean
        if objects := _objects(path, archive, error):
            raise _refusal(path, objects) from None
        # torch's own message advises to run the file's code.
        raise WeightsError(
            f"{path} is no file of torch.save or safetensors, or damaged ({type(error).__name__}); copy it again, or"
            " save the model's state_dict() by torch.save. TorchScript and plain pickles are not read"
        ) from error


def _objects(path: Path, archive: bool, error: Exception) -> list[str]:
    """What the file names besides tensors, found without running it."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    if archive:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    return re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]


def _refusal(path: Path, objects: list[str]) -> WeightsError:
    attacks = [name for name in objects if name.partition(".")[0] in _ATTACKS or name in _ATTACKS]
    if attacks:
        return WeightsError(
            f"{path} is refused: loading it would call {', '.join(attacks)}, which weights never need; nothing of it"
            " was run. Do not load it by other means; ask its author for a .safetensors file"
        )
    named = ", ".join(objects[:4]) + (f" and {len(objects) - 4} more" if len(objects) > 4 else "")
    target = str(path.with_name(f"{path.stem}_weights.pth"))
    program = _SAVE_ALONE.format(path=json.dumps(str(path)), states=json.dumps(_STATES), target=json.dumps(target))
    return WeightsError(
        f"{path} holds Python objects besides tensors ({named}); only tensors are loaded, because objects can run any"
        f" code. If you trust its author, save its weights alone, and import {target}:\n"
        f"  python -c {shlex.quote(program)}"
    )
