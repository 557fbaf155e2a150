"""Barlow Twins as a method of LightlyTrain.

LightlyTrain's license is the AGPL, so that register() imports it and nothing else does.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial, wraps
from importlib import import_module, metadata
from typing import Any

from bt_plugin.errors import HostError

_log = logging.getLogger(__name__)

NAME = "barlowtwins"
# Versions that the tests were run with. Others are likely to work too.
KNOWN = ("0.14.3", "0.16.4", "0.17.0", "0.18.0")
_KNOWN = f"Known to work are {', '.join(KNOWN[:-1])} and {KNOWN[-1]}: pip install 'lightly-train=={KNOWN[-1]}'"


def register(dali: bool = False) -> None:
    """Make lightly_train.pretrain(method="barlowtwins") work in this process.

    Call this once, before pretrain. A later call changes `dali`.

    Args:
        dali: Whether dali_pipelines.TwoViewLoader computes the views instead of albumentations in worker processes. It
            uses DALI on a GPU, and threads on a CPU.

    Raises:
        ImportError: If LightlyTrain is not installed.
        HostError: If this version of LightlyTrain lacks the functions that register() replaces.

    Examples:
        >>> register()
        >>> lightly_train.pretrain(out="out", data="images", model="torchvision/resnet50", method="barlowtwins")
    """
    try:
        import_module("lightly_train")
    except ImportError as error:
        raise ImportError("LightlyTrain is not installed. Run pip install 'bt-plugin[lightly-train]'") from error
    version = metadata.version("lightly-train")
    try:
        names: Any = import_module("lightly_train._methods.method_helpers")
        loaders: Any = import_module("lightly_train._commands.train_helpers")
        ours = import_module("bt_plugin.integrations.lightly_train_method")
        loader = import_module("bt_plugin.integrations.lightly_train_loader")
        # Both must exist before either is changed.
        methods, get_dataloader = _theirs(names._method_name_to_cls), _theirs(loaders.get_dataloader)
    except (ImportError, AttributeError) as error:
        raise HostError(
            f"LightlyTrain {version} lacks the functions that register() replaces: {error}. {_KNOWN}"
        ) from error
    if NAME in methods():
        _log.warning("LightlyTrain %s already has a method %s; bt-plugin's replaces it", version, NAME)
    names._method_name_to_cls = _ours(methods, lambda: {**methods(), NAME: ours.BarlowTwins})
    loaders.get_dataloader = (
        _ours(get_dataloader, partial(loader.two_view_loader, get_dataloader)) if dali else get_dataloader
    )
    if version not in KNOWN:
        _log.warning("LightlyTrain %s was not tested with this version of bt-plugin. %s", version, _KNOWN)


def main() -> None:
    """Run LightlyTrain's own command line with the method. With $DALI=1, dali_pipelines computes the views."""
    try:
        register(dali=os.environ.get("DALI") == "1")
    except (ImportError, HostError) as error:
        sys.exit(str(error))
    import_module("lightly_train._cli")._cli_entrypoint()


def _theirs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return LightlyTrain's own function, even if an earlier register() replaced it."""
    inner: Callable[..., Any] = getattr(function, "_lightly_trains", function)
    return inner


def _ours(theirs: Callable[..., Any], function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(theirs)
    def ours(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    ours._lightly_trains = theirs  # type: ignore[attr-defined]
    return ours
