"""Try weights that are not numbers, and attacks in files of weights (A9, B3)."""

from __future__ import annotations

import io
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_cases import Place, Try, tries
from hostile_cases_checkpoints import ATTACKS
from hostile_cases_verdicts import accepted, helpful, refused, right

NETWORK = "torchvision/shufflenet_v2_x0_5"
_VIEW = ("view.size_px=32", "view.resize_px=32", "run.device=cpu")


def state(place: Place) -> dict[str, Any]:
    """Return the weights of the undisturbed run."""
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(place.shared / "run/export/backbone.safetensors")
    return found


def save(path: Path, content: Any) -> None:
    import torch
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)


def _spoilt(place: Place, key: str, change: Callable[[Any], Any], suffix: str, command: str) -> None:
    """Use weights whose values give no features. They must be refused, and the key must be named."""
    content = state(place)
    content[key] = change(content[key].clone())
    path = place.folder / f"w{suffix}"
    save(path, content)
    data = (f"data.train={place.data}/train", f"data.val={place.data}/val")
    if command == "import":
        refused(place.bt("import", path, "--backbone", NETWORK, "-o", "o"), path.name, key)
        right(not (place.folder / "o").exists(), "something was written")
    elif command == "knn":
        refused(place.bt("knn", path, "--backbone", NETWORK, *data, *_VIEW), path.name, key)
    elif command == "embed":
        refused(
            place.bt("embed", path, place.data / "val", "--backbone", NETWORK, "-o", "e.npz", *_VIEW), path.name, key
        )
    else:
        folder = place.folder / "export"
        shutil.copytree(place.shared / "run/export", folder)
        save(folder / "backbone.safetensors", content)
        refused(place.bt("export", folder, "--to", "torchvision"), "backbone.safetensors", key)


def _fill(value: float, at: int | None = None) -> Callable[[Any], Any]:
    def change(tensor: Any) -> Any:
        (tensor.view(-1) if at is None else tensor.view(-1)[at : at + 1]).fill_(value)
        return tensor

    return change


def _to(name: str) -> Callable[[Any], Any]:
    import torch

    return lambda tensor: tensor.to(getattr(torch, name))


_CONV, _MEAN, _VAR, _LAST = "conv1.0.weight", "conv1.1.running_mean", "conv1.1.running_var", "conv5.0.weight"
_SPOILT: dict[str, tuple[str, Callable[[Any], Any], str, str]] = {
    "NaN throughout": (_CONV, _fill(float("nan")), ".safetensors", "knn"),
    "one NaN": (_LAST, _fill(float("nan"), -2), ".pth", "knn"),
    "one infinity": (_LAST, _fill(float("inf"), 5), ".safetensors", "embed"),
    "a negative infinity": (_MEAN, _fill(float("-inf"), 1), ".pth", "embed"),
    "NaN in BatchNorm's variance": (_VAR, _fill(float("nan"), 0), ".safetensors", "import"),
    "a negative variance": (_VAR, _fill(-5.0, 0), ".pth", "import"),
    "complex": (_CONV, _to("complex64"), ".pth", "knn"),
    "complex, in an import": (_LAST, _to("complex64"), ".pth", "import"),
    "bool": (_CONV, _to("bool"), ".pth", "embed"),
    "whole numbers": (_LAST, _to("int8"), ".pth", "import"),
    "int64": (_LAST, _to("int64"), ".safetensors", "knn"),
    "NaN in an export": (_LAST, _fill(float("nan"), 3), ".safetensors", "export"),
    "infinity in an export": (_VAR, _fill(float("inf"), 3), ".safetensors", "export"),
}


def _precise(place: Place, name: str) -> None:
    """Use other types of floats. They must be read correctly."""
    import torch

    content = {k: v.to(getattr(torch, name)) if v.is_floating_point() else v for k, v in state(place).items()}
    save(place.folder / "w.pth", {"state_dict": content, "epoch": 3})
    accepted(place.bt("import", "w.pth", "--backbone", NETWORK, "-o", "o"))
    from safetensors.torch import load_file

    written = load_file(place.folder / "o/backbone.safetensors")
    right(all(torch.equal(written[k], v.float()) for k, v in content.items() if v.is_floating_point()), "other values")


def _archive(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            file.writestr(f"archive/{name}", data)
    return out.getvalue()


def _names(*names: str) -> bytes:
    """Write a file with a state dict and objects of these classes."""
    parts = [b"\x80\x02}("]
    for number, name in enumerate(names):
        module, _, attribute = name.rpartition(".")
        parts.append(b"X" + struct.pack("<I", 1) + str(number).encode())
        parts.append(b"c" + module.encode() + b"\n" + attribute.encode() + b"\n)\x81")
    return b"".join([*parts, b"u."])


def _no_advice(place: Place, content: bytes, suffix: str) -> None:
    """Read an attack. The refusal must not print a command that would run it."""
    (place.folder / f"w{suffix}").write_bytes(content)
    (place.folder / "evil.py").write_text("open('ran', 'w')")
    result = place.bt("import", f"w{suffix}", "-o", "o")
    refused(result, f"w{suffix}")
    helpful("weights_only=False" not in result.err, f"a line that runs it is printed: {result.message[:200]}")


_HOSTILE = (
    *(
        "subprocess.Popen",
        "builtins.getattr",
        "webbrowser.open",
        "shutil.rmtree",
        "torch.hub.load",
        "pip._internal.main",
    ),
    *("functools.partial", "operator.methodcaller", "multiprocessing.process.Process", "pathlib.PosixPath.unlink"),
    *("ctypes.CDLL", "pydoc.pipepager", "code.InteractiveInterpreter", "asyncio.run", "unknown_package.Class"),
    *("torch.serialization.load", "argparse._sys.exit", "omegaconf._utils.os.system", "lightning.os.system"),
)
_HARMLESS = (
    ("argparse.Namespace",),
    ("omegaconf.dictconfig.DictConfig", "omegaconf.base.ContainerMetadata"),
    ("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",),
)


def _advice(place: Place, names: tuple[str, ...]) -> None:
    """Read a common checkpoint with other objects. It must be refused, with a way to its weights."""
    (place.folder / "w.ckpt").write_bytes(_archive(_names(*names)))
    refused(place.bt("import", "w.ckpt", "-o", "o"), "w.ckpt", "weights_only=False", names[0])


def _mixed(place: Place) -> None:
    (place.folder / "w.ckpt").write_bytes(_archive(_names("argparse.Namespace", "subprocess.Popen")))
    result = refused(place.bt("import", "w.ckpt", "-o", "o"), "w.ckpt", "subprocess.Popen")
    helpful("weights_only=False" not in result.err, "a line that runs it is printed")


def _array_attack(place: Place, suffix: str) -> None:
    attack = ATTACKS["eval"]
    head = b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }"
    head = head.ljust(117) + b"\n"
    npy = b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + attack
    if suffix == ".npz":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("images.npy", npy)
        npy = out.getvalue()
    (place.folder / f"a{suffix}").write_bytes(npy)
    refused(place.bt("scan", f"a{suffix}", "-o", "s"), f"a{suffix}")


def all_tries() -> list[Try]:
    found = tries("A9", _SPOILT, _spoilt)
    found += tries("A9", {f"{name}, which is right": name for name in ("float16", "bfloat16", "float64")}, _precise)
    attacks = {f"{name} in an archive": (_archive(attack), ".pth") for name, attack in ATTACKS.items()}
    attacks |= {f"{name} in a pickle": (ATTACKS[name], ".pt") for name in ("eval", "os.system", "subprocess")}
    attacks |= {f"the name {name}": (_archive(_names(name)), ".ckpt") for name in _HOSTILE}
    found += tries("B3", attacks, _no_advice)
    found += tries("B3", {f"{names[0]}, which is common": (names,) for names in _HARMLESS}, _advice)
    found += [Try("B3", "an attack among what is common", _mixed)]
    found += tries("B3", {"objects in .npy": ".npy", "objects in .npz": ".npz"}, _array_attack)
    return found
