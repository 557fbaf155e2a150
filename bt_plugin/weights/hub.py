"""Download weights from a repository of the Hugging Face Hub, or find them in its cache on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bt_plugin.errors import WeightsError
from bt_plugin.weights.model_file import BACKBONE, MODEL, PROJECTOR
from bt_plugin.weights.tensors import shown

PREFIX = "hf-hub:"
# The names under which the Hub's libraries store weights.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Downloaded(NamedTuple):
    """Weights of a repository on the disk.

    Args:
        path: A file, or a folder with the files of an export.
        commit: Hash of the repository's commit that they are from.
    """

    path: Path
    commit: str


def download(source: str) -> Downloaded:
    """Return a repository's weights. They are downloaded into the Hub's cache unless they are there already.

    An export of bt-plugin is preferred, then model.safetensors, then pytorch_model.bin. If the Hub does not answer, the
    cache alone is used. The environment variables of huggingface_hub set the cache, the server, the login
    and the timeouts.

    Args:
        source: "hf-hub:NAME" or "hf-hub:NAME@REVISION". NAME is "OWNER/REPOSITORY".

    Raises:
        WeightsError: If there is no such repository, revision or file, or the Hub cannot be reached and the cache does
            not have the weights.
    """
    from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = source.removeprefix(PREFIX).partition("@")
    try:
        listed = _list_files(name, revision)
        path = _find_weights(lambda file: _get(name, file, revision=revision, listed=listed))
    except HFValidationError as error:
        raise WeightsError(f"{source}: it must be {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION") from error
    except RevisionNotFoundError as error:
        raise WeightsError(f"{source}: {name} has no revision {revision}; use a branch, a tag or a commit") from error
    except RepositoryNotFoundError as error:  # a gated repository too
        raise WeightsError(
            f"{source}: the Hub has no repository {name} that you may read; check the name. If it is private or gated,"
            " accept its terms on its page and log in with: hf auth login"
        ) from error
    except Exception as error:  # huggingface_hub passes on the errors of its HTTP library, which changes by version
        raise _unreachable(source, error) from error
    if path is None and isinstance(listed, Exception):
        raise _unreachable(source, listed) from listed
    if path is None:
        raise WeightsError(
            f"{source}: it has no {BACKBONE} with {MODEL}, no {' and no '.join(_WEIGHTS)}; download its weights by"
            " hand, and give the path of the file"
        )
    return Downloaded(path, (path if path.is_dir() else path.parent).name)


def _list_files(name: str, revision: str) -> set[str] | Exception:
    """Return the names of a repository's files, or the error if the Hub does not answer."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision or None, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except Exception as error:
        return error
    return {file.rfilename for file in info.siblings or ()}


def _get(name: str, file: str, *, revision: str, listed: set[str] | Exception) -> Path | None:
    """Return the path of a file in the cache, None if the repository does not have it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import LocalEntryNotFoundError

    if not isinstance(listed, Exception):
        return Path(hf_hub_download(name, file, revision=revision or None)) if file in listed else None
    try:
        return Path(hf_hub_download(name, file, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _find_weights(get: Callable[[str], Path | None]) -> Path | None:
    # The backbone is last, so that a cache that has it has the whole export.
    if get(MODEL):
        get(PROJECTOR)
        if backbone := get(BACKBONE):
            return backbone.parent
    return next((path for file in _WEIGHTS if (path := get(file))), None)


def _unreachable(source: str, error: Exception) -> WeightsError:
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    command = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    reason = error.__cause__ or error
    return WeightsError(
        f"{source}: the cache does not have these weights, and they cannot be downloaded"
        f" ({type(reason).__name__}: {shown(' '.join(str(reason).split()), most=160)}). Check the network and"
        f" HF_HUB_OFFLINE, or run on a machine with a network: {command}. Then copy its cache here, or give"
        " the path of a file"
    )
