"""The states of this process's random number generators, as tensors."""

from __future__ import annotations

import io
import math
import random
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bt_plugin.checkpoints.reader import read_allowed
from bt_plugin.errors import CheckpointError

# random.getstate()'s first value since Python 3.2.
_VERSION = 3

RandomStates = dict[str, Tensor]


def random_states(device: torch.device) -> RandomStates:
    """Return the states of Python's, NumPy's and torch's generators, and of the GPU's if the device is a GPU.

    Shape:
        - python: (625,) int64; python_gauss: (1,) float64, NaN for none.
        - numpy: (626,) int64, which is 624 numbers, the position, and whether numpy_gauss is used;
          numpy_gauss: (1,) float64.
        - torch, gpu: uint8, in torch's own format.
    """
    of_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return _as_tensors(random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state(), of_gpu)


def set_random_states(states: RandomStates, device: torch.device) -> None:
    """Set the generators to states that random_states returned.

    Raises:
        CheckpointError: If a state is not valid.
    """
    try:
        gauss = states["python_gauss"].item()
        random.setstate((_VERSION, tuple(states["python"].tolist()), None if math.isnan(gauss) else gauss))
        *keys, position, has_gauss = states["numpy"].tolist()
        np.random.set_state(
            ("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, states["numpy_gauss"].item())
        )
        torch.set_rng_state(states["torch"])
        if "gpu" in states and device.type == "cuda":
            torch.cuda.set_rng_state(states["gpu"], device)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"its random states are damaged: {error}") from error


def from_pickle(content: bytes) -> RandomStates:
    """Convert the states from the pickle that version 0.1.0 wrote until November 2026. No code in it is run.

    Raises:
        CheckpointError: If the pickle holds anything else.
    """
    try:
        of_python, of_numpy, of_torch, of_gpu = read_allowed(content, _ALLOWED)
        return _as_tensors(of_python, of_numpy, of_torch, of_gpu)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"its random states are damaged: {error}") from error


def _as_tensors(of_python: Any, of_numpy: Any, of_torch: Tensor, of_gpu: Tensor | None) -> RandomStates:
    _, numbers, gauss = of_python
    _, keys, position, has_gauss, cached = of_numpy
    states = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "python_gauss": torch.tensor([math.nan if gauss is None else gauss], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": of_torch,
    }
    return states if of_gpu is None else states | {"gpu": of_gpu}


def _storage_of(content: bytes) -> Any:
    """Read a tensor's memory, which is a file of torch.save inside the pickle, with torch's allow-list."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _numpy_names() -> dict[str, Any]:
    """Return the functions that pickle NumPy's arrays. NumPy 1 and 2 name their modules differently."""
    array = np.zeros(1, dtype=np.uint32)
    reconstruct = array.__reduce__()[0]
    from_buffer = array.__reduce_ex__(5)[0]
    return {
        **{f"numpy.{core}.multiarray._reconstruct": reconstruct for core in ("core", "_core")},
        **{f"numpy.{core}.numeric._frombuffer": from_buffer for core in ("core", "_core")},
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
    }


_ALLOWED: dict[str, Any] = {
    **_numpy_names(),
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.storage._load_from_bytes": _storage_of,
    "collections.OrderedDict": OrderedDict,
}
