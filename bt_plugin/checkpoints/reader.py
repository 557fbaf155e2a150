"""Read checkpoints without running code. An allow-list reads the pickles, and torch's own reads the tensors."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, filesystem, metadata
from torch.distributed.checkpoint._nested_dict import set_element
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem
from torch.serialization import _get_layout

from bt_plugin.errors import CheckpointError
from dali_pipelines.regular_files import open_regular, read_regular

# All classes that torch.distributed.checkpoint writes into .metadata. They only hold values, and run nothing.
_RECORDS = (
    *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING", "TensorProperties", "TensorStorageMetadata"),
    *("BytesStorageMetadata", "StorageMeta", "Metadata", "MetadataIndex"),
)


def _refusal(name: str) -> CheckpointError:
    return CheckpointError(
        f"it names {name}, which checkpoints of bt-plugin never contain. No code was run. Do not load this file with"
        " other programs"
    )


def _memory_format(encoding: Any, name: Any) -> Any:
    """Stand for `getattr`, with which Python 3.11.0 to 3.11.3 pickle an enum's members. It looks up nothing else."""
    members = metadata._MEM_FORMAT_ENCODING.__members__
    if encoding is not metadata._MEM_FORMAT_ENCODING or not isinstance(name, str) or name not in members:
        raise _refusal("builtins.getattr")
    return members[name]


_METADATA_NAMES: dict[str, Any] = {
    **{f"{metadata.__name__}.{name}": getattr(metadata, name) for name in _RECORDS},
    **{f"{filesystem.__name__}.{name}": getattr(filesystem, name) for name in ("_StorageInfo", "_StoragePrefix")},
    "torch.serialization._get_layout": _get_layout,
    "torch.Size": torch.Size,
    "builtins.getattr": _memory_format,
    # The folder's path, which is not used. Its name depends on the version of Python.
    **dict.fromkeys(("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.WindowsPath"), lambda *parts: parts),
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
}


def read_allowed(content: bytes, allowed: Mapping[str, Any]) -> Any:
    """Read a pickle that names only allowed objects.

    Args:
        content: The pickle.
        allowed: Objects by MODULE.NAME.

    Raises:
        CheckpointError: If the pickle is damaged, or names anything else. Nothing of that is imported or run.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if f"{module}.{name}" not in allowed:
                raise _refusal(f"{module}.{name}")
            return allowed[f"{module}.{name}"]

    try:
        return Unpickler(io.BytesIO(content)).load()
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles raise arbitrary errors
        raise CheckpointError(f"it is damaged ({type(error).__name__})") from error


class CheckpointReader(FileSystemReader):
    """A checkpoint reader like torch's that reads .metadata with the allow-list, and no file of another folder.

    Args:
        checkpoint: The checkpoint's folder.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(checkpoint)
        self._checkpoint = checkpoint

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read .metadata.

        Raises:
            CheckpointError: If the file is missing or damaged, or names anything other than torch's own records.
        """
        path = self._checkpoint / ".metadata"
        try:
            found = read_allowed(read_regular(path), _METADATA_NAMES)
            assert isinstance(found, Metadata)
            parts = {str(entry.relative_path) for entry in found.storage_data.values()}
            assert all(isinstance(key, str) for key in found.state_dict_metadata)
        except (OSError, CheckpointError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        except Exception as error:  # the records are nested in a way that torch never writes
            raise CheckpointError(f"{path} cannot be read: it is damaged ({type(error).__name__})") from error
        for part in parts:
            if not part or Path(part).name != part:
                raise CheckpointError(f"{path} names {part!r}, which is not a file of this checkpoint")
            try:
                open_regular(self._checkpoint / part).close()
            except OSError as error:
                raise CheckpointError(
                    f"{self._checkpoint / part} cannot be read: {error.strerror or error}. If another rank wrote it,"
                    " set run.output_dir to a file system that all machines share"
                ) from error
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _Planner(DefaultLoadPlanner):
    """A load planner like torch's that reads numbers and text with torch's allow-list instead of any pickle."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        try:
            loaded = torch.load(value, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's own message advises to run the file's code
            raise CheckpointError(
                f"{name} is damaged, or holds Python objects, which bt-plugin does not load ({type(error).__name__})"
            ) from None
        set_element(self.original_state_dict, self.mappings[name], loaded)


def written_keys(checkpoint: Path) -> set[str]:
    """Return the flat keys of a checkpoint, such as model.backbone.conv1.weight.

    Raises:
        CheckpointError: If its .metadata cannot be read.
    """
    return set(CheckpointReader(checkpoint).read_metadata().state_dict_metadata)


def read_state(checkpoint: Path, state: dict[str, Any], *, group: Any = None, alone: bool = False) -> None:
    """Overwrite the values of a state with those of a checkpoint, in place.

    Args:
        checkpoint: The checkpoint's folder.
        state: Nested dicts of tensors, numbers and text. Its keys select what is read.
        group: Gloo group of the ranks that read together, each its part.
        alone: Whether this process reads without the other ranks.

    Raises:
        CheckpointError: If a key is missing or does not fit, or the checkpoint cannot be read.
    """
    reader = CheckpointReader(checkpoint)
    # torch would report an error in it twice, with a traceback.
    reader.read_metadata()
    try:
        dcp.load(state, storage_reader=reader, planner=_Planner(), process_group=group, no_dist=alone)
    except CheckpointException as error:
        raise CheckpointError(f"{checkpoint} does not fit this run: {first_failure(error)}") from error


def first_failure(error: CheckpointException) -> str:
    """Return the error of the first rank that failed."""
    rank, (cause, _) = min(error.failures.items())
    told: dict[type, Callable[[BaseException], str]] = {
        CheckpointError: str,
        # torch advises to run the file's code.
        pickle.UnpicklingError: lambda _: "it is damaged, or holds Python objects, which bt-plugin does not load",
    }
    says = next((say for kind, say in told.items() if isinstance(cause, kind)), None)
    text = says(cause) if says else f"{type(cause).__name__}: {cause}"
    return text + (f" (rank {rank})" if rank else "")
