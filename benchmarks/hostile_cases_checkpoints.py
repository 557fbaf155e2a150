"""Try damaged checkpoints, and checkpoints that attack (A4, B1)."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from hostile_cases import FailedError, Place, Try, tries
from hostile_cases_verdicts import accepted, either, refused, right, sound

NEWEST, BEFORE = "checkpoint-12", "checkpoint-8"


def reseal(checkpoint: Path) -> None:
    """Update the manifest to the files, as an attacker would."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())
    for name in content["files"]:
        data = (checkpoint / name).read_bytes()
        content["files"][name] = [len(data), hashlib.blake2b(data, digest_size=16).hexdigest()]
    path.write_text(json.dumps(content))


def _flip(name: str, at: float) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        content[int(at * (len(content) - 1))] ^= 0x10
        (checkpoint / name).write_bytes(content)

    return change


def _zero(name: str, at: int, count: int) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        with open(checkpoint / name, "r+b") as file:
            file.seek(at)
            file.write(bytes(count))

    return change


def _cut(name: str, share: float) -> Callable[[Path], None]:
    return lambda checkpoint: os.truncate(checkpoint / name, int(share * (checkpoint / name).stat().st_size))


def _swap(checkpoint: Path) -> None:
    shutil.copy(checkpoint.parent / BEFORE / "__0_0.distcp", checkpoint / "__0_0.distcp")


def _other_manifest(checkpoint: Path) -> None:
    shutil.copy(checkpoint.parent / BEFORE / "manifest.json", checkpoint / "manifest.json")


def _manifest(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def changed(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return changed


_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "64 zeros in a tensor": _zero("__0_0.distcp", 1_700_000, 64),
    "a bit in the middle": _flip("__0_0.distcp", 0.5),
    "a bit near the end": _flip("__0_0.distcp", 0.99),
    "a bit of .metadata": _flip(".metadata", 0.5),
    "half of the tensors": _cut("__0_0.distcp", 0.5),
    "no tensors": _cut("__0_0.distcp", 0),
    "half of .metadata": _cut(".metadata", 0.5),
    "a part that is gone": lambda checkpoint: (checkpoint / "__0_0.distcp").unlink(),
    ".metadata that is gone": lambda checkpoint: (checkpoint / ".metadata").unlink(),
    "tensors of another checkpoint": _swap,
    "another manifest": _other_manifest,
    "a manifest that names no files": _manifest(lambda content: {**content, "files": {}}),
    "a manifest that leaves out the tensors": _manifest(
        lambda content: {**content, "files": {".metadata": content["files"][".metadata"]}}
    ),
}


def _damaged(place: Place, damage: Callable[[Path], Any], command: str) -> None:
    """Damage a checkpoint. Every command must refuse it by its name."""
    run = place.run_copy(finished=False)
    damage(run / NEWEST)
    checkpoint = run / NEWEST
    view = ("view.size_px=32", "view.resize_px=32")
    if command == "knn":
        refused(place.bt("knn", checkpoint), NEWEST)
    elif command == "embed":
        refused(place.bt("embed", checkpoint, place.data / "val", "-o", "e.npz", *view), NEWEST)
        right(not (place.folder / "e.npz").exists(), "features were written")
    elif command == "report":
        accepted(place.bt("report", run, "--map-images", "30"), "map")
    elif command == "named":
        changes = (f"run.output_dir={run}", f"run.resume={checkpoint}")
        refused(place.bt("pretrain", place.recipe, *changes), NEWEST)
    else:
        accepted(place.bt("pretrain", place.recipe, f"run.output_dir={run}", limit=90), NEWEST)
        same_weights(place, run)


def same_weights(place: Place, run: Path) -> None:
    """Check that the run has the weights of the undisturbed run."""
    ours, theirs = ((folder / "export/backbone.safetensors").read_bytes() for folder in (run, place.shared / "run"))
    right(ours == theirs, "the run resumed, but has other weights")


def calls(module: str, name: str, *arguments: Any) -> bytes:
    """Return a pickle that calls a function when it is loaded."""
    if "." not in name and not any(isinstance(each, Path) for each in arguments) and len(name) % 2:
        # The older protocol is the one of torch.save.
        values = pickle.dumps(arguments, protocol=2)[2:-1]
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + values + b"R."
    values = pickle.dumps(arguments, protocol=4)[2:-1]
    at = values.index(b"\x95") if values[:1] == b"\x95" else -1
    values = values[9:] if at == 0 else values
    names = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + names + b"\x93" + values + b"R."


_OPEN = "open('ran', 'w').close()"
ATTACKS: dict[str, bytes] = {
    "eval": calls("builtins", "eval", _OPEN),
    "exec": calls("builtins", "exec", _OPEN),
    "os.system": calls("os", "system", "touch ran"),
    "posix.system": calls("posix", "system", "touch ran"),
    "subprocess": calls("subprocess", "check_call", ["touch", "ran"]),
    "open": calls("io", "open", "ran", "w"),
    "Path.touch": calls("pathlib", "Path.touch", Path("ran")),
    "a module of torch's, and os behind it": calls("torch.distributed.checkpoint.filesystem", "os.system", "touch ran"),
    "pickle behind a module of torch's": calls(
        "torch.distributed.checkpoint.filesystem", "pickle.loads", calls("builtins", "eval", _OPEN)
    ),
    "a function of torch's that writes": calls(
        "torch.distributed.checkpoint.filesystem", "FileSystem.mkdir", None, Path("ran")
    ),
    "os behind torch's metadata": calls("torch.distributed.checkpoint.metadata", "os.system", "touch ran"),
    "torch.storage": calls("torch.storage", "_load_from_bytes", calls("builtins", "eval", _OPEN)),
    "timeit": calls("timeit", "timeit", _OPEN),
    "runpy": calls("runpy", "run_path", "evil.py"),
    "numpy": calls("numpy.testing._private.utils", "runstring", _OPEN, {}),
}


def _in_metadata(checkpoint: Path, attack: bytes) -> None:
    # An attacker keeps the checkpoint loadable. The call comes first, and the real content follows.
    real = (checkpoint / ".metadata").read_bytes()
    (checkpoint / ".metadata").write_bytes(attack[:-1] + b"0" + real[2:])


def _in_item(checkpoint: Path, attack: bytes) -> None:
    """Hide an attack in the bytes of an item that is not a tensor, such as the random states."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    with open(checkpoint / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    archive = _archive(attack)
    parts = sorted(path for path in checkpoint.glob("*.distcp"))
    offset = parts[0].stat().st_size
    with open(parts[0], "ab") as file:
        file.write(archive)
    # Two items that are always loaded: one of the model, and one of the random states.
    for index, info in metadata.storage_data.items():
        kind = metadata.state_dict_metadata[index.fqn]
        if isinstance(kind, BytesStorageMetadata) or index.fqn == next(iter(metadata.state_dict_metadata)):
            metadata.state_dict_metadata[index.fqn] = BytesStorageMetadata()
            info.relative_path, info.offset, info.length = parts[0].name, offset, len(archive)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _in_tensor(checkpoint: Path, attack: bytes) -> None:
    with open(checkpoint / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    archive = _archive(attack)
    parts = sorted(path for path in checkpoint.glob("*.distcp"))
    offset = parts[0].stat().st_size
    with open(parts[0], "ab") as file:
        file.write(archive)
    for index, info in metadata.storage_data.items():
        if index.fqn.startswith("model."):
            info.relative_path, info.offset, info.length = parts[0].name, offset, len(archive)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _in_random_states(checkpoint: Path, attack: bytes) -> None:
    """Hide an attack in the earlier format: the bytes of a pickle, in a file of torch.save."""
    import torch

    out = BytesIO()
    torch.save(attack, out)
    with open(checkpoint / ".metadata", "rb") as file:
        metadata = pickle.load(file)
    part = next(checkpoint.glob("*.distcp"))
    offset = part.stat().st_size
    with open(part, "ab") as file:
        file.write(out.getvalue())
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    for index in [each for each in metadata.storage_data if each.fqn.startswith("random.0")]:
        del metadata.storage_data[index], metadata.state_dict_metadata[index.fqn]
    metadata.state_dict_metadata["random.0"] = BytesStorageMetadata()
    metadata.storage_data[MetadataIndex("random.0")] = _StorageInfo(part.name, offset, len(out.getvalue()))
    (metadata.planner_data or {})["random.0"] = ("random", "0")
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))


def _archive(attack: bytes) -> bytes:
    """Return a file of torch.save that contains a pickle."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", attack)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return out.getvalue()


_PLACES = {
    "metadata": _in_metadata,
    "an item": _in_item,
    "a tensor": _in_tensor,
    "the random states": _in_random_states,
}
_COMMANDS = ("knn", "report", "pretrain", "embed", "linear", "named")


def _attack(place: Place, where: str, attack: bytes, command: str) -> None:
    run = place.run_copy(finished=False)
    (place.folder / "evil.py").write_text(_OPEN)
    for name in (NEWEST, BEFORE):
        _PLACES[where](run / name, attack)
        reseal(run / name)
    if command == "pretrain":
        result = place.bt("pretrain", place.recipe, f"run.output_dir={run}", "optim.epochs=3", limit=90)
    elif command == "named":
        result = place.bt("pretrain", place.recipe, f"run.output_dir={run}", f"run.resume={run / NEWEST}", limit=90)
    elif command == "report":
        result = place.bt("report", run, "--map-images", "30")
    elif command == "embed":
        result = place.bt("embed", run / NEWEST, place.data / "val", "-o", "e.npz")
    else:
        result = place.bt(command, run / NEWEST, *(["linear.epochs=1"] if command == "linear" else []))
    if place.sentinel.exists():
        raise FailedError("code", f"an attacker's code ran {result.tail}")
    sound(result, 8000)
    # Not every command reads every file. A command must refuse each file that it reads by its name.
    reads = where == "metadata" or (where == "a tensor") or command in ("pretrain", "named")
    if reads and command != "report":
        refused(result, ("checkpoint", "metadata"))
    else:
        either(result, "checkpoint")


def all_tries() -> list[Try]:
    found = tries("A4", {f"{name}, knn": (case, "knn") for name, case in _DAMAGES.items()}, _damaged)
    for command in ("embed", "report", "named", "resume"):
        some = list(_DAMAGES.items())[:8:3] if command != "resume" else list(_DAMAGES.items())
        found += tries("A4", {f"{name}, {command}": (case, command) for name, case in some}, _damaged)
    for number, (name, attack) in enumerate(ATTACKS.items()):
        both = (_COMMANDS[number % 6], _COMMANDS[(number + 2) % 6])
        cases = {f"{name} in metadata, {command}": ("metadata", attack, command) for command in both}
        where = ("an item", "the random states", "a tensor")[number % 3]
        cases[f"{name} in {where}, pretrain"] = (where, attack, "pretrain")
        found += tries("B1", cases, _attack)
    found += tries(
        "B1", {f"eval in {where}, knn": (where, ATTACKS["eval"], "knn") for where in list(_PLACES)[1:]}, _attack
    )
    return found
