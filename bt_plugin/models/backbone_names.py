"""Check names of backbones against the source files of torchvision and timm, without importing them."""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from bt_plugin.errors import RecipeError

LIBRARIES = ("torchvision", "timm")
# Both libraries register models with the decorator `@register_model`, which may give the name.
_REGISTERED = re.compile(r"^@register_model(?:\((?:name=[\"'](\w+)[\"'])?\))?\n(?:.*\n)*?def (\w+)\(", re.MULTILINE)
# timm's deprecated names build the same models, but timm does not list them.
_DEPRECATED = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"[\"'](\w+)[\"'] ?: (?!None)")
_NAME = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]*)?")


def check_backbone_name(name: str, key: str = "model.backbone") -> None:
    """Raise if build_backbone cannot build a backbone of this name. The check takes milliseconds.

    Args:
        name: Name as "torchvision/NAME" or "timm/NAME". A name of timm may end in a tag, as in resnet50.a1_in1k. It is
            never read as a path.
        key: Recipe key, option or file that gives the name, for the message.

    Raises:
        RecipeError: If the library has no such model or is not installed.
    """
    library, _, model = name.partition("/")
    if library not in LIBRARIES or not _NAME.fullmatch(model):
        # The name may come from any file: it is shortened, and its control characters are escaped.
        shown = ascii(name[:80]) + ("..." if len(name) > 80 else "")
        raise RecipeError(f"{key}: {shown} is not allowed; it must be torchvision/NAME or timm/NAME")
    names = model_names(library)
    if not names:
        raise RecipeError(f"{key}: {name} needs {library}: pip install {library}")
    architecture = model.partition(".")[0] if library == "timm" else model
    if architecture not in names | _deprecated_names(library):
        near = [f"{library}/{each}" for each in difflib.get_close_matches(architecture[:80], names, n=3)]
        listing = "timm.list_models()" if library == "timm" else "torchvision.models.list_models()"
        remedy = f"did you mean {' or '.join(near)}?" if near else f"see {listing}"
        raise RecipeError(f"{key}: {name[:80]} does not exist in the installed {library}; {remedy}")


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
