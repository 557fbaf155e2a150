"""Check names of backbones against source files, without importing torchvision, timm or the user's modules."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from bt_plugin.errors import RecipeError

LIBRARIES = ("torchvision", "timm")
# Both libraries register models with the decorator `@register_model`, which may give the name.
_REGISTERED = re.compile(r"^@register_model(?:\((?:name=[\"'](\w+)[\"'])?\))?\n(?:.*\n)*?def (\w+)\(", re.MULTILINE)
# timm's deprecated names build the same models, but timm does not list them.
_DEPRECATED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"[\"'](\w+)[\"'] ?: (?!None)")
_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]*)?")
# module:function. Functions within functions have names such as "build.<locals>.inner".
_OWN = re.compile(r"\w[\w.-]*:[\w<][\w.<>]*")

# Arguments of a library's constructor that another key sets, or that would read files or remove what is needed.
_NOT_FOR_ARGS = {
    "in_chans": "set model.in_chans",
    "num_classes": "the classifier is removed",
    "weights": "set model.init",
    "checkpoint_path": "set model.init",
    "cache_dir": "set model.init",
    "zero_init_residual": "set model.zero_init_residual",
    "zero_init_last": "set model.zero_init_residual",
    "aux_logits": "auxiliary classifiers are removed",
    "init_weights": "run.seed draws the weights",
    "features_only": "the backbone must give one tensor",
}


def is_own(name: str) -> bool:
    """Return whether a name is that of a function of the user's, as module.path:function. Import nothing."""
    return _OWN.fullmatch(name) is not None


def check_backbone_name(name: str, key: str = "model.backbone") -> None:
    """Raise if build_backbone cannot build a backbone of this name. The check takes milliseconds.

    Args:
        name: Name as "torchvision/NAME", "timm/NAME" or "module.path:function". A name of timm may end in a tag, as in
            resnet50.a1_in1k. It is never read as a path. Modules are looked for as Python does, and in the current
            directory after that.
        key: Recipe key, option or file that gives the name, for the message.

    Raises:
        RecipeError: If the library has no such model or is not installed, or if no such function is found.
    """
    if is_own(name):
        _check_function(name, key)
        return
    library, _, model = name.partition("/")
    if library not in LIBRARIES or not _NAME.fullmatch(model):
        # The name may come from any file: it is shortened, and its control characters are escaped.
        shown = ascii(name[:80]) + ("..." if len(name) > 80 else "")
        raise RecipeError(f"{key}: {shown} is not allowed; it must be torchvision/NAME, timm/NAME or module:function")
    names = model_names(library)
    if not names:
        raise RecipeError(f"{key}: {name} needs {library}: pip install {library}")
    architecture = model.partition(".")[0] if library == "timm" else model
    if architecture not in names | _deprecated_names(library):
        near = [f"{library}/{each}" for each in difflib.get_close_matches(architecture[:80], names, n=3)]
        listing = "timm.list_models()" if library == "timm" else "torchvision.models.list_models()"
        remedy = f"did you mean {' or '.join(near)}?" if near else f"see {listing}"
        raise RecipeError(f"{key}: {name[:80]} does not exist in the installed {library}; {remedy}")


def check_args(name: str, args: Mapping[str, Any]) -> None:
    """Raise if arguments are not allowed for a backbone, because bt-plugin sets them itself.

    Args:
        name: Name of the backbone. A function of the user's takes anything but ``in_chans``.
        args: Arguments of its constructor or function.

    Raises:
        RecipeError: If there is such an argument. The message names it, and the key to set instead.
    """
    for key in args:
        rule = _NOT_FOR_ARGS.get(key) or ("set model.init" if key.startswith("pretrained") else None)
        if rule and (key == "in_chans" or not is_own(name)):
            raise RecipeError(f"model.args: {key} is not allowed for {name}, because bt-plugin sets it; {rule}")


def _check_function(name: str, key: str) -> None:
    module, _, function = name.partition(":")
    if module == "__main__" or "<" in function:
        raise RecipeError(
            f"{key}: {name} is a function of a program, which cannot be imported; pass it in Python as backbone=, or"
            " move it to the top level of a module"
        )
    # The console script does not search the current directory, unlike `python -m bt_plugin`.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    spec = _find_module(module)
    if spec is None:
        raise RecipeError(
            f"{key}: {name}: there is no module {module}; start the command in the folder that contains"
            f" {module.partition('.')[0]}, or add that folder to PYTHONPATH"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    if not re.search(rf"\b{function.partition('.')[0]}\b", text) and "import *" not in text:
        near = difflib.get_close_matches(function, re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE), n=3)
        remedy = f"did you mean {' or '.join(f'{module}:{each}' for each in near)}?" if near else "check the name"
        raise RecipeError(f"{key}: {name}: {spec.origin} does not define {function}; {remedy}")


def _find_module(name: str) -> ModuleSpec | None:
    """Find a module without importing the packages around it."""
    top, *below = name.split(".")
    spec = sys.modules[top].__spec__ if top in sys.modules else importlib.util.find_spec(top)
    for part in below:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", spec.submodule_search_locations)
    return spec


@cache
def model_names(library: str) -> frozenset[str]:
    """Return the names of a library's image classification models. Return none if it is not installed."""
    return frozenset(given or function for text in _sources(library) for given, function in _REGISTERED.findall(text))


@cache
def _deprecated_names(library: str) -> frozenset[str]:
    blocks = (block for text in _sources(library) for block in _DEPRECATED.findall(text))
    return frozenset(name for block in blocks for name in _OLD_NAME.findall(block))


def _sources(library: str) -> list[str]:
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return []
    return [path.read_text(encoding="utf-8") for path in Path(spec.origin).parent.joinpath("models").glob("*.py")]
