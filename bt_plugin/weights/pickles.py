"""List the Python objects that a pickle would load, without running it, and say what its owner can do."""

from __future__ import annotations

import _compat_pickle
import json
import pickle
import pickletools
import re
import shlex
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

import torch

from bt_plugin.errors import WeightsError
from bt_plugin.weights.tensors import shown

# The first pickle of torch.save's older format, and the number of its pickles.
_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_PICKLES = 5
# A large checkpoint with an optimizer has about a hundred thousand.
_MOST_OPCODES = 2_000_000
# torch.save writes protocol 2, which names objects only with GLOBAL. Newer protocols use STACK_GLOBAL.
_OTHER_WAYS = {"INST", "OBJ", "EXT1", "EXT2", "EXT4"}
_UNNAMED = "objects without a name"
# The objects that tensors consist of. This list is for messages: torch.load(weights_only=True) decides what to load.
_TENSORS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
    r"|torch\.(\w+Storage|Size|Tensor|device|bool|[a-z]+\d+\w*)|torch\.storage\.\w+Storage|torch\.nn\.parameter\.Parameter"
    r"|torch\._utils\._rebuild\w+|torch\._tensor\._rebuild_from_type_v2|torch\.serialization\._get_layout"
)
# Plain settings, and networks of the libraries that this package is used with. All are classes without effects when
# they are created. Modules with functions are never allowed as a whole, only single classes of them. Never allow
# builtins.getattr, functools, operator, copyreg or importlib, which can make any call from harmless names.
# Seen in: facebookresearch/barlowtwins and dino (argparse), solo-learn (omegaconf), Lightning's AttributeDict and
# callbacks, detectron2 and fvcore (yacs), mmcv (addict), numpy's random states, LightlyTrain's whole networks.
_HARMLESS = re.compile(
    r"argparse\.Namespace|collections\.(defaultdict|deque)|typing\.Any|datetime\.\w+|uuid\.UUID"
    r"|builtins\.(dict|list|tuple|frozenset|int|float|str|bytes|bool|slice|range)"
    r"|pathlib\.(_local\.)?(Pure)?(Posix|Windows)?Path"
    r"|numpy\.(ndarray|dtype|bool_?|u?int\d+|float\d+)|numpy\.dtypes\.\w+DType"
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)"
    r"|omegaconf\.(dictconfig\.DictConfig|listconfig\.ListConfig|base\.(Container)?Metadata|nodes\.\w+Node)"
    r"|yacs\.config\.CfgNode|fvcore\.common\.config\.CfgNode|detectron2\.config\.config\.CfgNode"
    r"|addict(\.addict)?\.Dict|mmcv\.utils\.config\.(Config|ConfigDict)|mmengine\.config\.config\.(Config|ConfigDict)"
    r"|(pytorch_lightning|lightning\.pytorch)\.utilities\.parsing\.AttributeDict"
    r"|(lightning_fabric|lightning\.fabric)\.utilities\.data\.AttributeDict"
    r"|(pytorch_lightning|lightning\.pytorch)\.callbacks\.\w+\.(ModelCheckpoint|EarlyStopping|LearningRateMonitor)"
    r"|torch\.torch_version\.TorchVersion|torch\.nn\.modules\.\w+\.[A-Z]\w+"
    r"|torchvision\.models\.(\w+\.)+[A-Z]\w+|torchvision\.ops\.misc\.[A-Z]\w+|timm\.(models|layers)\.\w+\.[A-Z]\w+"
    r"|lightly\.models\.(\w+\.)*[A-Z]\w+|lightly_train\._(models|transforms)\.(\w+\.)+[A-Z]\w+"
)
_SAVE_ALONE = (
    'import torch; c = torch.load({path}, map_location="cpu", weights_only=False);'
    " t = lambda o: o.state_dict() if isinstance(o, torch.nn.Module) else"
    " {{str(k): t(v) for k, v in o.items() if isinstance(v, (dict, torch.Tensor, torch.nn.Module))}}"
    " if isinstance(o, dict) else o; torch.save(t(c), {target})"
)


def objects_in(path: Path, archive: bool) -> list[str]:
    """Return the names of the objects besides tensors that a file's pickles would load. No code of the file is run.

    Args:
        path: A file that torch.load(weights_only=True) has refused.
        archive: Whether it has torch.save's newer format, a zip file.
    """
    names: set[str] = set()
    try:
        if archive:
            names.update(_names(BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"))))
        else:
            names.update(_names_before_tensors(path))
    except Exception:  # the rest of the file is unknown
        names |= {_UNNAMED} if names else set()
    names = {name for name in names if not _TENSORS.fullmatch(name)}
    if not archive and not _is_torchs(path):
        # A plain pickle is never read, so only an attack is named.
        names = {name for name in names - {_UNNAMED} if not _HARMLESS.fullmatch(name)}
    return sorted(names)


def refusal(path: Path, objects: list[str]) -> WeightsError:
    """Return the error for a file with objects. If all are harmless, it has a command that saves only the weights."""
    foreign = [name for name in objects if not _HARMLESS.fullmatch(name)]
    if foreign:
        foreign = [name for name in foreign if name != _UNNAMED] or foreign
        return WeightsError(
            f"{path} is refused: loading it would call {_some(foreign)}. Weights do not need this call, and it can run"
            " any code. No code was run. Do not load this file with other programs. Ask its author for a .safetensors"
            " file, or for the state dict only"
        )
    target = str(path.with_name(f"{path.stem}_weights.pth"))
    program = _SAVE_ALONE.format(path=json.dumps(str(path)), target=json.dumps(target))
    return WeightsError(
        f"{path} contains Python objects besides tensors ({_some(objects)}). bt-plugin loads only tensors, because"
        f" objects can run any code. If you trust its author, save only its weights, and import {target}:\n"
        f"  python -c {shlex.quote(program)}"
    )


def _names_before_tensors(path: Path) -> Iterator[str]:
    """Yield the names in the pickles of torch.save's older format. The bytes of the tensors follow after them."""
    with open(path, "rb") as stream:
        for _ in range(_PICKLES):
            if stream.peek(1):  # another pickle follows
                yield from _names(stream)


def _names(stream: IO[bytes]) -> Iterator[str]:
    memo: dict[int, str | None] = {}
    # What the last instructions put on the stack, in order: texts, or None for anything else.
    recent: list[str | None] = []
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > _MOST_OPCODES:
            raise pickle.UnpicklingError("too long")
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"):
            recent.append(str(argument))
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET"):
            recent.append(memo.get(int(argument or 0)))
        elif opcode.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            memo[len(memo) if opcode.name == "MEMOIZE" else int(argument or 0)] = recent[-1] if recent else None
        elif opcode.name == "GLOBAL":
            yield _translated(*str(argument).split(" ", 1))
            recent = []
        elif opcode.name == "STACK_GLOBAL":
            module, name = recent[-2:] if len(recent) > 1 else (None, None)
            yield f"{module}.{name}" if module and name else _UNNAMED
            recent = []
        else:
            if opcode.name in _OTHER_WAYS:
                yield _UNNAMED
            recent = []


def _translated(module: str, name: str) -> str:
    """Translate the name of an object from Python 2 to Python 3, as the unpickler does."""
    module, name = _compat_pickle.NAME_MAPPING.get(
        (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    )
    return f"{module}.{name}"


def _is_torchs(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
