"""Measure what one step allocates, computes, moves and sends. It works on fake tensors and on real ones.

torch has a memory tracker of its own (torch.distributed._tools.mem_tracker). This one also counts operations, bytes and
collectives in the same pass, because a pass over fake tensors takes seconds, and it tells backbone from projector.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bt_plugin.planning.flop_formulas import FLOP_FORMULAS

T = TypeVar("T")

# What no hook has claimed: outputs that only the next operation reads, and gradients of activations.
TEMPORARY = "temporary"
# CUDA's caching allocator rounds every block up to this size.
BLOCK_BYTES = 512
_LOW = (torch.bfloat16, torch.float16)
_COLLECTIVES = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "broadcast_": "broadcast",
}


class Operation(NamedTuple):
    """One operation of the step that reads or writes memory.

    Args:
        flops: Floating-point operations, two for each multiply-add. 0 if the operation is no product.
        moved_bytes: Bytes that it reads and writes, if nothing stays in a cache.
        kind: What limits its products: "low" (bf16 or fp16), "convolution" (float32, TF32 where a GPU has it) or
            "matmul" (float32).
    """

    flops: int
    moved_bytes: int
    kind: Literal["low", "convolution", "matmul"]


class Collective(NamedTuple):
    """One collective of the step.

    Args:
        name: "all_reduce", "all_gather", "reduce_scatter" or "broadcast".
        size_bytes: Bytes of this rank's tensor: of the part that it gives to a gather, of the whole input otherwise.
        waits: Whether the step waits for it. Sums of gradients and gathers of weights can overlap computation.
    """

    name: str
    size_bytes: int
    waits: bool


class StepMeter(TorchDispatchMode):
    """A context that measures the operations inside.

    Args:
        block_bytes: Size to which every allocation is rounded up, in bytes.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._block_bytes = block_bytes
        self._live: dict[int, tuple[int, str]] = {}
        self.now_bytes: dict[str, int] = {}
        """Bytes that are allocated now, by part."""
        self.peak_bytes: dict[str, int] = {}
        """Bytes that were allocated at the peak, by part."""
        self._peak = 0
        self.levels_bytes: list[int] = []
        """Bytes that are allocated after each allocation, outside of functions that are measured on their own."""
        self.outside_bytes = 0
        """Bytes that were allocated when such a function was called."""
        self.phase: str = TEMPORARY
        """Part to which tensors belong that the backward pass needs."""
        self.operations: list[Operation] = []
        self.collectives: list[Collective] = []
        self._waits = False
        self._is_paused = False

    def __enter__(self) -> StepMeter:
        resize = torch.UntypedStorage.resize_

        def resize_(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            self._resized(storage)
            return result

        self._entered = ExitStack()
        # FSDP frees and allocates the gathered weights by this method, which no mode sees.
        self._entered.enter_context(patch.object(torch.UntypedStorage, "resize_", resize_))
        self._entered.enter_context(saved_tensors_hooks(self._packed, _unpacked))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._entered.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # its local tensors come back here
        result = func(*args, **(kwargs or {}))
        if self._is_paused:
            return result
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func.namespace == "c10d":
            self._note_collective(func, args, given)
            return result
        for tensor in made:
            self._allocated(tensor, func, given)
        self._count(func, args, kwargs or {}, result, given, made)
        return result

    def mark(self, tensor: Tensor, part: str) -> None:
        """Say which part a tensor's memory belongs to."""
        storage = _storage(tensor)
        self._note(storage, part)
        size, before = self._live[storage._cdata]
        self._live[storage._cdata] = size, part
        self._add(before, -size)
        self._add(part, size)

    def begin(self) -> None:
        """Forget the peak, the operations and the collectives so far."""
        self._peak, self.peak_bytes = 0, {}
        self.levels_bytes.clear()
        self.operations.clear()
        self.collectives.clear()

    def claim(self, part: str) -> None:
        """Give all memory that belongs to no part yet to this part."""
        for key, (size, before) in self._live.items():
            if before == TEMPORARY:
                self._live[key] = size, part
                self._add(before, -size)
                self._add(part, size)

    def waiting(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function for whose collectives the step waits."""

        def waited(*args: Any, **kwargs: Any) -> T:
            self._waits = True
            try:
                return function(*args, **kwargs)
            finally:
                self._waits = False

        return waited

    def unseen(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function that is not measured."""

        def called(*args: Any, **kwargs: Any) -> T:
            self._is_paused = True
            try:
                return function(*args, **kwargs)
            finally:
                self._is_paused = False

        return called

    def on_its_own(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function whose memory is measured on its own, so that levels_bytes has no level of it."""

        def called(*args: Any, **kwargs: Any) -> T:
            begun = len(self.levels_bytes)
            self.outside_bytes = sum(self.now_bytes.values())
            try:
                return function(*args, **kwargs)
            finally:
                del self.levels_bytes[begun:]

        return called

    @property
    def flops(self) -> int:
        """Floating-point operations of all products."""
        return sum(operation.flops for operation in self.operations)

    def _packed(self, tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        self._note(storage, TEMPORARY)
        if self._live[storage._cdata][1] == TEMPORARY:
            self.mark(tensor, self.phase)
        return tensor

    def _allocated(self, tensor: Tensor, func: Any, given: list[Tensor]) -> None:
        storage = _storage(tensor)
        if storage._cdata in self._live:
            return
        casts = func is torch.ops.aten._to_copy.default and tensor.dtype in _LOW
        of_weights = casts and self._live.get(_storage(given[0])._cdata, (0, ""))[1] == "weights"
        self._note(storage, "low_precision_weights" if of_weights else TEMPORARY)

    def _note(self, storage: torch.UntypedStorage, part: str) -> None:
        key = storage._cdata
        if key in self._live:
            return
        size = self._rounded(storage.nbytes())
        self._live[key] = size, part
        self._add(part, size)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        size, part = self._live.pop(key)
        self._add(part, -size)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._live:
            before, part = self._live.pop(storage._cdata)
            self._add(part, -before)
            size = self._rounded(storage.nbytes())
            self._live[storage._cdata] = size, "gathered_weights"
            self._add("gathered_weights", size)

    def _rounded(self, size: int) -> int:
        return -(-size // self._block_bytes) * self._block_bytes

    def _add(self, part: str, size: int) -> None:
        self.now_bytes[part] = self.now_bytes.get(part, 0) + size
        total = sum(self.now_bytes.values())
        if size > 0:
            self.levels_bytes.append(total)
        if total > self._peak:
            self._peak, self.peak_bytes = total, dict(self.now_bytes)

    def _count(
        self, func: Any, args: Any, kwargs: dict[str, Any], result: Any, given: list[Tensor], made: list[Tensor]
    ) -> None:
        inputs = {_storage(tensor)._cdata for tensor in given}
        if not func._schema.is_mutable and made and all(_storage(tensor)._cdata in inputs for tensor in made):
            return  # a view
        if not given or not (made or func._schema.is_mutable):
            return  # memory that is only allocated, or a question such as which device a tensor is on
        formula: Callable[..., Any] | None = FLOP_FORMULAS.get(func._overloadpacket)
        flops = int(formula(*args, **kwargs, out_val=result)) if formula else 0
        moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
        products_of = next((tensor.dtype for tensor in given if tensor.is_floating_point()), None)
        is_convolution = "convolution" in func._overloadpacket.__name__
        kind: Literal["low", "convolution", "matmul"]
        kind = "low" if products_of in _LOW else "convolution" if is_convolution else "matmul"
        self.operations.append(Operation(flops, moved, kind))

    def _note_collective(self, func: Any, args: Any, given: list[Tensor]) -> None:
        name = _COLLECTIVES.get(func._overloadpacket.__name__)
        if name is None:
            return
        # The gathers of torch take output and input, reductions a list of tensors.
        tensors = given[1:2] if name in ("all_gather", "reduce_scatter") else given[:1]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.collectives.append(Collective(name, size, waits=self._waits))


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _unpacked(tensor: Tensor) -> Tensor:
    return tensor
