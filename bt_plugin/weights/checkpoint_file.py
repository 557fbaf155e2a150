"""Read only tensors from a file. The code of a pickle is never run."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, load_file
from torch import Tensor

from bt_plugin.errors import UserError, WeightsError, file_error
from bt_plugin.weights.pickles import objects_in, refusal
from bt_plugin.weights.tensors import UnknownLayoutError, plain, shown, some
from dali_pipelines.regular_files import open_regular, read_regular

# Keys under which checkpoints store their state dict.
STATES = ("state_dict", "model", "model_state_dict")
# The first bytes of torch.save's newer format, by which torch recognizes it.
_ARCHIVE = b"PK\x03\x04"
_CHUNK_BYTES = 1 << 20
# The longest names of layers have about two hundred characters.
MOST_KEY_LENGTH = 500


def read_content(path: Path) -> dict[Any, Any]:
    """Read a file of torch.save or safetensors: a state dict, or a checkpoint that contains one.

    Raises:
        WeightsError: If the file does not exist, is damaged, or holds other Python objects.
        FileError: If the file cannot be opened, or is not a regular file.
    """
    try:
        with open_regular(path) as file:
            archive = file.read(len(_ARCHIVE)) == _ARCHIVE
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist. Give a checkpoint or a file of weights") from None
    except OSError as error:
        raise file_error(error, path) from error
    if path.suffix == ".safetensors":
        return dict(read_safetensors(path))
    content = _load(path, archive)
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} contains a {type(content).__name__}; it must be a state dict or a checkpoint with one"
        )
    # A file may give its dictionaries attributes that hide their methods.
    return dict(dict.items(content))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        WeightsError: If the file is damaged. Its header must describe every byte of the file.
        FileError: If the file cannot be opened, or is not a regular file.
    """
    try:
        open_regular(path).close()
        is_text = os.fsencode(path).decode(errors="ignore") == str(path)
        # safetensors can map only files whose names are UTF-8.
        tensors = load_file(path) if is_text else load(read_regular(path))
        return {key: plain(value, key, path) for key, value in tensors.items()}
    except UserError:
        raise
    except OSError as error:
        raise file_error(error, path) from error
    except Exception as error:  # a damaged header raises arbitrary errors
        raise WeightsError(
            f"{path} is not a safetensors file, or is damaged ({shown(str(error))}). Copy it again"
        ) from error


def state_of(content: dict[Any, Any], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Find the state dict in a file's content, and name everything else in it.

    Raises:
        UnknownLayoutError: If there is no state dict at the usual places.
        WeightsError: If a key is not text, or a tensor is not a plain tensor.
    """
    for key in STATES:
        inner = content.get(key)
        if isinstance(inner, dict) and (tensors := _tensors(inner, path)):
            return tensors, [shown(str(other)) for other in content if other != key]
    if tensors := _tensors(content, path):
        return tensors, [shown(str(key)) for key in content if key not in tensors]
    found = some([str(key) for key in content]) or "nothing"
    raise UnknownLayoutError(f"{path} has no tensors under {', '.join(STATES)} or at its top; it has {found}")


def _tensors(content: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    found = {key: value for key, value in dict.items(content) if isinstance(value, Tensor)}
    if unnamed := [key for key in found if not isinstance(key, str)]:
        raise WeightsError(
            f"{path} has the key {shown(repr(unnamed[0]))}, which is not text. Save the model's state_dict()"
            " with torch.save"
        )
    if long := [key for key in found if len(key) > MOST_KEY_LENGTH]:
        raise WeightsError(
            f"{path} has a key of {len(long[0])} characters, {shown(long[0], most=40)}. The limit is"
            f" {MOST_KEY_LENGTH}. Save the model's own state_dict()"
        )
    return {key: plain(value, key, path) for key, value in found.items()}


def _load(path: Path, archive: bool) -> Any:
    try:
        if archive:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern files that are refused
            # torch can map only its newer format, an archive. Files from before torch 1.6 are read into memory.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # damaged pickles raise arbitrary errors
        if isinstance(error, pickle.UnpicklingError) and (objects := objects_in(path, archive)):
            raise refusal(path, objects) from None
        # torch's own message advises to run the file's code.
        raise WeightsError(
            f"{path} is not a file of torch.save or safetensors, or is damaged ({type(error).__name__}). Copy it again,"
            " or save the model's state_dict() with torch.save. TorchScript and plain pickles are not read"
        ) from error


def _check_archive(path: Path) -> None:
    """Compare every entry with its checksum, because torch does not. Refuse compressed entries, which may be endless.

    Raises:
        zipfile.BadZipFile: If an entry is damaged or compressed.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > path.stat().st_size:
                raise zipfile.BadZipFile(f"{entry.filename} is compressed")
            # torch.serialization.set_crc32_options(False) leaves the checksums out.
            if entry.CRC:
                with archive.open(entry) as file:
                    while file.read(_CHUNK_BYTES):
                        pass
