"""Try files of tensors (B5, D10)."""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from hostile_cases import Place, Try, tries
from hostile_cases_arrays import spoilt
from hostile_cases_verdicts import either, refused, right
from hostile_cases_weights import NETWORK, save, state


def _weights(place: Place, suffix: str, build: Callable[[Place], Any]) -> None:
    """Give a wrong file of weights to a command. It must be refused by its name."""
    content = build(place)
    path = place.folder / f"w{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else save(path, content)
    result = place.bt("import", path, "--backbone", NETWORK, "-o", "o", limit=30)
    if content is not None and isinstance(content, dict) and None in content and either(result, path.name):
        return  # entries that are not weights are left out
    refused(result, path.name)
    right(not (place.folder / "o").exists(), "something was written")
    right(not list(place.folder.glob(".o*")), "something partial was left")


def _tensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(shape: list[Any], begin: int, end: int, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def _odd(key: str, kind: str) -> Callable[[Place], Any]:
    def build(place: Place) -> Any:
        import torch

        content = state(place)
        value = content[key]
        content[key] = {
            "sparse": lambda: value.to_sparse(),
            "csr": lambda: value.flatten(1).to_sparse_csr(),
            "quantized": lambda: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            "meta": lambda: torch.empty(value.shape, device="meta"),
            "expanded": lambda: torch.zeros(1).expand(2**37),
            "empty": lambda: torch.zeros(0),
            "scalar": lambda: torch.tensor(1.0),
            "list": lambda: value.tolist(),
            "array": lambda: value.numpy(),
            "nested": lambda: {"weight": value},
        }[kind]()
        return content

    return build


_CONV = "conv1.0.weight"
_FILES: dict[str, tuple[str, Callable[[Place], Any]]] = {
    **{
        f"a tensor that is {kind}": (".pth", _odd(_CONV, kind))
        for kind in ("sparse", "csr", "quantized", "meta", "expanded")
    },
    **{
        f"a tensor that is a {kind}": (".pth", _odd(_CONV, kind))
        for kind in ("empty", "scalar", "list", "array", "nested")
    },
    "keys that are numbers": (".pth", lambda place: dict(enumerate(state(place).values()))),
    "keys of all kinds": (".pth", lambda place: {**state(place), None: 1, (1, 2): next(iter(state(place).values()))}),
    "keys of bytes": (".pth", lambda place: {key.encode(): value for key, value in state(place).items()}),
    "a key of 10^6 letters": (".pth", lambda place: {**state(place), "x" * 10**6: state(place)[_CONV]}),
    "a key with escapes": (".pth", lambda place: {**state(place), "\x1b]0;x\x07": state(place)[_CONV]}),
    "a list": (".pth", lambda place: list(state(place).values())),
    "a tensor alone": (".pth", lambda place: state(place)[_CONV]),
    "nothing in it": (".pth", lambda place: {}),
    "None": (".pth", lambda place: None),
    "cut": (".pth", lambda place: _saved(state(place))[:200_000]),
    "cut, older format": (".pth", lambda place: _saved(state(place), False)[:200_000]),
    "no bytes": (".pth", lambda place: b""),
    "text": (".pth", lambda place: b"not weights\n" * 10),
    "a pickle": (".pkl", lambda place: pickle.dumps({"a": np.zeros(3)})),
    "a wrong checksum": (".pth", lambda place: spoilt(_saved(state(place)))),
    "no bytes in tensors": (".safetensors", lambda place: b""),
    "a header beyond the file": (".safetensors", lambda place: _tensors({}, length=2**40)),
    "a header of 2^63": (".safetensors", lambda place: _tensors({}, length=2**63)),
    "a header that is no JSON": (".safetensors", lambda place: _tensors(b"{'a': 1}")),
    "a header that is a list": (".safetensors", lambda place: _tensors([1, 2])),
    "a deep header of tensors": (".safetensors", lambda place: _tensors(b'{"a":' * 5000 + b"1" + b"}" * 5000)),
    "offsets beyond the file": (".safetensors", lambda place: _tensors({"a": _entry([4], 0, 16)}, b"\0" * 8)),
    "offsets that overlap": (
        ".safetensors",
        lambda place: _tensors({"a": _entry([2], 0, 8), "b": _entry([2], 4, 12)}, b"\0" * 12),
    ),
    "a shape of 2^62": (".safetensors", lambda place: _tensors({"a": _entry([2**62, 8], 0, 8)}, b"\0" * 8)),
    "a negative shape": (".safetensors", lambda place: _tensors({"a": _entry([-2], 0, 8)}, b"\0" * 8)),
    "an unknown type": (".safetensors", lambda place: _tensors({"a": _entry([2], 0, 8, "F99")}, b"\0" * 8)),
    "a tensor twice": (
        ".safetensors",
        lambda place: _tensors(b'{"a":%s,"a":%s}' % ((json.dumps(_entry([2], 0, 8)).encode(),) * 2), b"\0" * 8),
    ),
    "no tensors": (".safetensors", lambda place: _tensors({"__metadata__": {"a": "b"}})),
    "tensors that are cut": (
        ".safetensors",
        lambda place: (place.shared / "run/export/backbone.safetensors").read_bytes()[:-100],
    ),
    "a file of torch by another name": (".safetensors", lambda place: _saved(state(place))),
}


def _saved(content: Any, new: bool = True) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save(content, out, _use_new_zipfile_serialization=new)
    return out.getvalue()


def all_tries() -> list[Try]:
    """Return the tries of these kinds."""
    found = []
    for name, case in _FILES.items():
        row = "B5" if any(word in name for word in ("expanded", "2^6", "2^40", "deep")) else "D10"
        found += tries(row, {f"weights: {name}": case}, _weights)
    return found
