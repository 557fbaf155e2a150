"""Execute a compiled kernel's PTX with NumPy: one block at a time, all of its threads in lockstep.

It knows the instructions that Triton emits for the kernels, and raises NotImplementedError for any other. It checks
what a GPU would not report: addresses outside the memory, misaligned vectors, and branches in which threads of a block
part.

Source:
    NVIDIA's manual "Parallel Thread Execution ISA", chapter 9.7, defines each instruction.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.dali_pipelines.gpu.ptx_program import Instruction, Program

Lanes = NDArray[Any]

_WARP = 32
_SHARED_BYTES = 1 << 16
_UNWRITTEN = 0xFFFFFFFF  # NaN
_KINDS = {"s": "int", "u": "uint", "b": "uint"}
_COMPARISONS: dict[str, Callable[..., Lanes]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge, "neu": operator.ne,
}  # fmt: skip
_ON_PREDICATES: dict[str, Callable[..., Lanes]] = {
    "and": operator.and_, "or": operator.or_, "xor": operator.xor, "not": operator.invert, "mov": lambda x: x,
}  # fmt: skip
_ON_FLOATS: dict[str, Callable[..., Lanes]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "abs": np.abs, "neg": np.negative,
    # Triton's maximum and minimum of numbers. On Blackwell they may have three operands.
    "max": lambda *x: reduce(np.maximum, x), "min": lambda *x: reduce(np.minimum, x),
    # Exact in float64 up to one rounding, which is enough for the test that plants it.
    "fma": lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float32),
}  # fmt: skip
_ON_INTEGERS: dict[str, Callable[..., Lanes]] = {
    "add": np.add, "sub": np.subtract, "and": operator.and_, "or": operator.or_, "xor": operator.xor,
    "not": operator.invert, "neg": np.negative, "abs": np.abs, "shl": operator.lshift, "shr": operator.rshift,
    "max": lambda *x: reduce(np.maximum, x), "min": lambda *x: reduce(np.minimum, x),
    "div": np.floor_divide, "rem": np.remainder, "bfe": lambda x, at, bits: (x >> at) & ((1 << bits) - 1),
}  # fmt: skip


def _dtype(kind: str) -> np.dtype[Any]:
    """Return the NumPy type of a kind such as s32, b8 or f32."""
    bits = int(kind[1:])
    return np.dtype(f"float{bits}" if kind[0] == "f" else f"{_KINDS[kind[0]]}{bits}")


def _unsigned(values: Lanes) -> Lanes:
    return values.view(f"uint{8 * values.dtype.itemsize}")


class Block:
    """One block of threads.

    Args:
        program: Program of all threads.
        memory: Global memory, as bytes. Addresses are positions in it.
        parameters: Addresses that the kernel gets.
        place: Position of the block in the grid.
    """

    def __init__(self, program: Program, memory: Lanes, parameters: list[int], place: tuple[int, int]) -> None:
        self._program = program
        shared = np.full(_SHARED_BYTES, 0xFF, dtype=np.uint8)
        self._spaces = {"global": memory, "shared": shared, "param": np.array(parameters).view(np.uint8)}
        self._thread = np.arange(program.threads)
        self._special = {"%tid.x": self._thread, "%ctaid.x": place[0], "%ctaid.y": place[1]}
        self._registers: dict[str, Lanes] = {}

    def run(self, grid: tuple[int, int]) -> None:
        """Run all threads to their end."""
        self._special |= {"%nctaid.x": grid[0], "%nctaid.y": grid[1]}
        at = 0
        while at < len(self._program.instructions):
            one = self._program.instructions[at]
            at += 1
            mask = self._registers[one.predicate] ^ one.negated if one.predicate else None
            if one.name == "bra":
                if mask is None or mask.all():
                    at = self._program.labels[one.operands[0]]
                else:
                    assert not mask.any(), f"threads part: {one.text}"
            elif one.name == "ret":
                assert mask is None or mask.all()
                return
            elif one.name not in ("bar", "barrier"):
                self._step(one, mask)

    def _step(self, one: Instruction, mask: Lanes | None) -> None:
        if one.name == "ld":
            return self._load(one, mask)
        if one.name == "st":
            return self._store(one, mask)
        if one.name == "mov" and one.operands[1][0] == "{":
            half = np.dtype(f"uint{int(one.kinds[0][1:]) // 2}")
            parts = [self._read(name, half) for name in _names(one.operands[1])]
            return self._write(one.operands[0], _unsigned_pairs(np.stack(parts, axis=1)), mask)
        if one.name == "mov" and one.operands[0][0] == "{":
            whole = self._read(one.operands[1], _dtype(one.kinds[0]))
            parts = _unsigned(whole).view(f"uint{4 * whole.dtype.itemsize}").reshape(-1, 2)
            for name, part in zip(_names(one.operands[0]), parts.T):
                if name != "_":
                    self._write(name, part, mask)
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            return self._write(one.operands[0].split("|")[0], self._result(one), mask)

    def _result(self, one: Instruction) -> Lanes:
        """Return what an instruction writes to its first operand."""
        name, kinds, inputs = one.name, one.kinds, one.operands[1:]
        special = getattr(self, f"_{name}", None)
        if special is not None:
            result: Lanes = special(kinds, inputs)
            return result
        kind = kinds[-1]
        if kind == "pred":
            return _ON_PREDICATES[name](*(self._predicate(operand) for operand in inputs))
        if name == "mov":
            return self._read(inputs[0], _dtype(kind))
        if kind == "f32x2":
            assert kinds[0] == "rn", one.text
            pairs = [self._read(operand, np.dtype(np.uint64)).view(np.float32) for operand in inputs]
            return _ON_FLOATS[name](*pairs).view(np.uint64)
        if name == "add" and kind in ("s16x2", "u16x2"):
            pairs = [self._read(operand, np.dtype(np.uint32)).view(np.uint16) for operand in inputs]
            return (pairs[0] + pairs[1]).view(np.uint32)
        table = _ON_FLOATS if kind == "f32" else _ON_INTEGERS
        is_approximate = kind == "f32" and kinds[0] not in ("rn", "f32")
        if name not in table or is_approximate or kind.endswith("x2"):
            raise NotImplementedError(one.text)
        values = [self._read(operand, _dtype(kind)) for operand in inputs]
        if name in ("div", "rem") and kind != "f32":
            # Python rounds down where C truncates. Of numbers from 0 on they are the same.
            assert all((value >= 0).all() for value in values), one.text
        result = table[name](*values)
        return result.astype(_dtype(kind), copy=False)

    def _read(self, operand: str, dtype: np.dtype[Any]) -> Lanes:
        """Return the values of a register or a constant, in all threads."""
        if operand in self._special or operand == "global_smem":
            return np.broadcast_to(np.asarray(self._special.get(operand, 0), dtype), self._thread.shape)
        if found := re.search(r"_param_(\d+)$", operand):
            return np.full(self._thread.shape, np.dtype(np.int64).itemsize * int(found[1]), dtype)
        if operand[0] == "%":
            # prmt may name a register that is not written, and then picks no byte of it.
            bits = self._registers.get(operand, np.full(self._thread.shape, _UNWRITTEN, dtype=np.uint32))
            if bits.dtype.itemsize != dtype.itemsize:
                bits = bits.astype(f"uint{8 * dtype.itemsize}")
            return bits.view(dtype)
        if operand.startswith("0f"):
            return np.full(self._thread.shape, int(operand[2:], 16), dtype=np.uint32).view(dtype)
        number = int(operand.rstrip("U"), 16 if operand.startswith("0x") else 10) % 2 ** (8 * dtype.itemsize)
        return np.full(self._thread.shape, number, dtype=f"uint{8 * dtype.itemsize}").view(dtype)

    def _predicate(self, operand: str) -> Lanes:
        if operand[0] == "%":
            return self._registers[operand]
        return np.full(self._thread.shape, int(operand) != 0)

    def _write(self, register: str, values: Lanes, mask: Lanes | None) -> None:
        if values.dtype != np.bool_:
            bits = {"%rs": 16, "%rd": 64}.get(register[:3], 32)
            # A smaller value is extended: by its sign if its type has one, and else by zeros.
            kind = "int" if values.dtype.kind == "i" else "uint"
            values = values if values.dtype.kind in "iu" else _unsigned(np.ascontiguousarray(values))
            values = _unsigned(values.astype(f"{kind}{bits}"))
        self._registers[register] = values if mask is None else np.where(mask, values, self._registers[register])

    def _load(self, one: Instruction, mask: Lanes | None) -> None:
        dtype = _dtype(one.kinds[-1])
        names = _names(one.operands[0])
        on, view, index = self._located(one, one.operands[1], dtype, len(names), mask)
        for number, name in enumerate(names):
            values = np.zeros(self._thread.shape, dtype)
            values[on] = view[index + number]
            self._write(name, values, mask)

    def _store(self, one: Instruction, mask: Lanes | None) -> None:
        dtype, names = _dtype(one.kinds[-1]), _names(one.operands[1])
        on, view, index = self._located(one, one.operands[0], dtype, len(names), mask)
        for number, name in enumerate(names):
            register = self._registers[name] if name[0] == "%" else self._read(name, dtype)
            view[index + number] = register[on].astype(dtype)

    def _located(
        self, one: Instruction, operand: str, dtype: np.dtype[Any], count: int, mask: Lanes | None
    ) -> tuple[Lanes, Lanes, Lanes]:
        """Return the threads that take part, their memory as an array of dtype, and each thread's index in it."""
        space = one.kinds[0].split(":")[0]
        memory = self._spaces[space]
        found = re.fullmatch(r"\[\s*([\w%]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        assert found, one.text
        pointer = np.dtype(np.int32 if space == "shared" else np.int64)
        on = np.ones(self._thread.shape, dtype=bool) if mask is None else mask
        addresses = self._read(found[1], pointer)[on].astype(np.int64) + int(found[2] or 0)
        size = dtype.itemsize * count
        assert (addresses % size == 0).all(), f"misaligned: {one.text}"
        assert ((addresses >= 0) & (addresses + size <= memory.size)).all(), f"outside the memory: {one.text}"
        return on, memory.view(dtype), addresses // dtype.itemsize

    def _setp(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        comparison, kind = kinds
        return _COMPARISONS[comparison](*(self._read(operand, _dtype(kind)) for operand in inputs))

    def _selp(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        yes, no = (self._read(operand, _dtype(kinds[-1])) for operand in inputs[:2])
        return np.where(self._predicate(inputs[2]), yes, no)

    def _mul(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        """Multiply: whole numbers with the lower half, the upper half, or all of the product."""
        part, kind = kinds[0], kinds[-1]
        if kind == "f32x2":
            pairs = [self._read(operand, np.dtype(np.uint64)).view(np.float32) for operand in inputs]
            return (pairs[0] * pairs[1]).view(np.uint64)
        first, second = (self._read(operand, _dtype(kind)) for operand in inputs[:2])
        if part in ("rn", "f32", "lo"):
            return first * second
        bits = 8 * first.dtype.itemsize
        wide = np.dtype(f"{first.dtype.kind.replace('i', 'int').replace('u', 'uint')}{2 * bits}")
        product = first.astype(wide) * second.astype(wide)
        return product if part == "wide" else (product >> bits).astype(first.dtype)

    def _mad(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        product = self._mul(kinds, inputs[:2])
        return product + self._read(inputs[2], product.dtype)

    def _shfl(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        assert kinds == ("sync", "bfly", "b32")
        return self._read(inputs[0], np.dtype(np.uint32))[self._thread ^ int(inputs[1])]

    def _redux(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        assert kinds == ("sync", "add", "s32")
        warps = self._read(inputs[0], np.dtype(np.int32)).reshape(-1, _WARP)
        return warps.sum(axis=1, dtype=np.int32).repeat(_WARP)

    def _bfi(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        """Insert the lowest bits of the first value into the second one."""
        value, into, at, count = (self._read(operand, _dtype(kinds[0])) for operand in inputs)
        field = ((1 << count) - 1).astype(value.dtype)
        return (into & ~(field << at)) | ((value & field) << at)

    def _prmt(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        """Pick four bytes out of eight."""
        assert kinds == ("b32",)
        octets = [
            self._read(operand, np.dtype(np.uint32)).copy().view(np.uint8).reshape(-1, 4) for operand in inputs[:2]
        ]
        selector = int(inputs[2].rstrip("U"), 0)
        picks = [selector >> 4 * number & 15 for number in range(4)]
        assert max(picks) < 8, "the sign is not repeated"
        return np.ascontiguousarray(np.concatenate(octets, axis=1)[:, picks]).view(np.uint32).ravel()

    def _cvt(self, kinds: tuple[str, ...], inputs: list[str]) -> Lanes:
        target, source = kinds[-2:]
        values = [self._read(operand, _dtype(source)) for operand in inputs]
        if target in ("bf16x2", "f16x2"):
            assert kinds[0] == "rn"
            # The first operand is the upper half.
            return _unsigned_pairs(np.stack([_half(value, target) for value in reversed(values)], axis=1))
        if target in ("bf16", "f16"):
            assert kinds[0] == "rn"
            return _half(values[0], target)
        if target == source == "f32":
            assert kinds[0] == "rmi"
            return np.floor(values[0])
        if source == "f32":
            assert kinds[0] == "rzi"
            return values[0].astype(np.int64).astype(_dtype(target))
        assert target != "f32" or kinds[0] == "rn"
        return values[0].astype(_dtype(target))


def _names(operand: str) -> list[str]:
    return [name.strip() for name in operand.strip("{} ").split(",")]


def _unsigned_pairs(pairs: Lanes) -> Lanes:
    """Return (threads, 2) values as one value of twice the width in each thread; the first is the lower half."""
    return np.ascontiguousarray(pairs).view(f"uint{16 * pairs.dtype.itemsize}").ravel()


def _half(values: Lanes, kind: str) -> Lanes:
    """Return float32 rounded to the nearest bfloat16 or float16, ties to even, as 16 bits."""
    if kind.startswith("f16"):
        return values.astype(np.float16).view(np.uint16)
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
