"""Build a backbone of the user's own, by a function that is passed or named."""

from __future__ import annotations

import hashlib
import inspect
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from bt_plugin.errors import BackboneError, WeightsError
from bt_plugin.models.backbone_names import check_args, check_backbone_name, is_own

logger = logging.getLogger(__name__)

Factory = Callable[..., nn.Module]

_FEATURES = "one tensor of features, (N, F) or (N, F, h, w)"
_IMAGES = 2


def factory_name(factory: Factory) -> str:
    """Return the name of a function as module:function. A functools.partial has the name of its function."""
    plain: Any = _plain(factory)
    return f"{plain.__module__}:{plain.__qualname__}"


class Source(NamedTuple):
    """The source of a function.

    Args:
        place: Its file, or its name if there is no file.
        sha256: Hash of the file, in hexadecimal. In a notebook: of the function's text. None if neither is known.
    """

    place: str
    sha256: str | None


def source_of(factory: Factory) -> Source:
    """Return the file of a function and its hash."""
    plain = inspect.unwrap(_plain(factory))
    try:
        file = inspect.getsourcefile(plain)
        if file is not None and Path(file).is_file():
            return Source(file, hashlib.sha256(Path(file).read_bytes()).hexdigest())
        return Source(factory_name(factory), hashlib.sha256(inspect.getsource(plain).encode()).hexdigest())
    except (OSError, TypeError):
        return Source(factory_name(factory), None)


def allowed_backbone(stored: str, given: str | Factory | None, *, sha256: str | None, file: Path) -> str | Factory:
    """Return the backbone of a file, whose own functions are imported only if the user names them too.

    Args:
        stored: Name of the backbone in the file.
        given: Backbone that the user gives, None if the user gives none.
        sha256: Hash of the source of the stored function, None if unknown.
        file: The file, for messages.

    Raises:
        WeightsError: If the user has to name the backbone, or names another one.
    """
    if not is_own(stored):
        if given not in (None, stored):
            raise WeightsError(f"{file}: the backbone is {stored}, not {given}; leave --backbone out")
        return stored
    if given is None:
        raise WeightsError(
            f"{file}: the backbone {stored} is a function. A file's function is not imported unless you name it too:"
            f" --backbone {stored}, or backbone= in Python"
        )
    if isinstance(given, str) and not is_own(given):
        raise WeightsError(f"{file}: the backbone is {stored}, not {given}; name its function")
    factory = import_factory(given) if isinstance(given, str) else given
    source = source_of(factory)
    if sha256 and source.sha256 and sha256 != source.sha256:
        logger.warning("%s has changed since %s was written. The features may differ.", source.place, file)
    return factory


def import_factory(name: str) -> Factory:
    """Import a function by its name. Call it only for a name that the user's recipe, command or code gives.

    Args:
        name: Name as "module.path:function".

    Raises:
        BackboneError: If the module cannot be imported, or has no such function.
        RecipeError: If there is no such module.
    """
    check_backbone_name(name)
    module_name, _, function_name = name.partition(":")
    try:
        found: Any = import_module(module_name)
    except Exception as error:
        raise BackboneError(f"backbone {name}: importing {module_name} raised {_described(error)}") from error
    try:
        for part in function_name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise BackboneError(f"backbone {name}: {error}; name a function that builds the network") from error
    if not callable(found):
        raise BackboneError(f"backbone {name} is a {type(found).__name__}; name a function that builds the network")
    factory: Factory = found
    return factory


def build_own_backbone(
    factory: Factory, *, in_chans: int, size_px: int, args: Mapping[str, Any]
) -> tuple[nn.Module, int]:
    """Call a function that builds a network, and find its number of features.

    A network that gives (n, F, h, w) is changed to give the mean over h and w, by a hook. So the keys of its state_dict
    stay the same.

    Args:
        factory: Function that builds a new network at each call. It is called with ``args``, and with ``in_chans`` if
            it has a parameter of this name.
        in_chans: Number of channels of the images, 1 or more.
        size_px: Height and width in px of the images of which the network is given two, as tensors without memory.
        args: Arguments of the function.

    Returns:
        The network, which maps images to features (n, F), and F.

    Raises:
        BackboneError: If the function cannot be called, fails, does not build a new network, or if its network does not
            give features.
    """
    name = factory_name(factory)
    check_args(name, args)
    module = _called(factory, name, {**_channels_for(factory, in_chans), **args})
    if not isinstance(module, nn.Module):
        raise BackboneError(f"backbone {name} returns a {type(module).__name__}; it must return a torch.nn.Module")
    if _mean_over_positions in module._forward_hooks.values():
        raise BackboneError(
            f"backbone {name} returns the same network again; it must build a new one at each call, because the"
            " untrained baseline and the export need networks of their own"
        )
    module.register_forward_hook(_mean_over_positions)
    try:
        features = _features_of(module, in_chans, size_px)
    except Exception as error:
        raise BackboneError(
            f"backbone {name}: its network cannot embed images of shape {(_IMAGES, in_chans, size_px, size_px)}:"
            f" {_described(error)}; set views.both.size_px and model.in_chans to what it takes"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != _IMAGES:
        found = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise BackboneError(
            f"backbone {name}: its network gives {found} for {_IMAGES} images; it must give {_FEATURES}"
        )
    return module, features.shape[1]


def _plain(factory: Any) -> Any:
    """Return the function or class that says what a callable builds."""
    while isinstance(factory, partial):
        factory = factory.func
    return factory if hasattr(factory, "__qualname__") else type(factory)


def _channels_for(factory: Factory, in_chans: int) -> dict[str, int]:
    try:
        return {"in_chans": in_chans} if "in_chans" in inspect.signature(factory).parameters else {}
    except ValueError:  # some functions of C have no signature
        return {}


def _called(factory: Factory, name: str, args: dict[str, Any]) -> Any:
    try:
        return factory(**args)
    except TypeError as error:
        with_args = f"called with {', '.join(map(repr, args))}" if args else "called without arguments"
        raise BackboneError(f"backbone {name}, {with_args} (model.args), raised {_described(error)}") from error
    except Exception as error:
        raise BackboneError(f"backbone {name} raised {_described(error)}") from error


def _described(error: Exception) -> str:
    """Return class, first line and place of an error in the user's code."""
    says = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200].rstrip('.')}"
    not_the_users = (__file__, str(Path(torch.__file__).parent), "<frozen")
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{at.filename}:{at.lineno}" for at in frames if not at.filename.startswith(not_the_users)]
    return f"{says} ({places[-1]})" if places else says


def _mean_over_positions(module: nn.Module, images: Any, features: Any) -> Any:
    is_map = isinstance(features, Tensor) and features.ndim == 4
    return features.mean(dim=(2, 3)) if is_map else features


@torch.no_grad()
def _features_of(module: nn.Module, in_chans: int, size_px: int) -> Any:
    """Return the features of two images. They have no memory, unless the network reads their values."""
    shape = (_IMAGES, in_chans, size_px, size_px)
    device = next((each.device for each in module.parameters()), torch.device("cpu"))
    with _evaluating(module):
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                named = (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
                state: dict[str, Tensor] = {name: mode.from_tensor(value) for values in named for name, value in values}
                return functional_call(module, state, (torch.zeros(shape, device=device),))
        except Exception:
            with torch.random.fork_rng(devices=[]):
                return module(torch.zeros(shape, device=device))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set every part to evaluation, and each back afterwards: a network may keep parts in evaluation itself."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, was_training in modes.items():
            part.training = was_training
