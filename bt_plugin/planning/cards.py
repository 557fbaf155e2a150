"""GPUs: their memory, their peak rates, and what connects them. All numbers are those of NVIDIA's data sheets."""

from __future__ import annotations

import difflib
from typing import NamedTuple

from bt_plugin.errors import RecipeError

_TRAILING = ("GB", "GIB")


class Card(NamedTuple):
    """A GPU.

    Args:
        name: Name, as `--gpu` takes it.
        memory_gib: Memory in GiB.
        low_tflops: Peak of matrix products in bf16 or fp16 with sums in float32, without sparsity, in TFLOP/s.
        tf32_tflops: The same in TF32, which cuDNN's convolutions of float32 use. Without TF32: that of float32.
        float32_tflops: Peak of float32, which matrix products of float32 use, in TFLOP/s.
        memory_gb_s: Bandwidth of the memory in GB/s.
        link_gb_s: Bandwidth to the other GPUs of the host, each way, in GB/s: of NVLink, or else of PCIe.
        source: The data sheet.
    """

    name: str
    memory_gib: float
    low_tflops: float
    tf32_tflops: float
    float32_tflops: float
    memory_gb_s: float
    link_gb_s: float
    source: str


CARDS = {
    card.name: card
    for card in (
        Card("b200", 180, 2250, 1125, 75, 7700, 900, "data sheet of HGX B200, per GPU, half of the sparse rates"),
        Card("h200", 141, 989, 494, 67, 4800, 450, "data sheet of H200 SXM, half of the sparse rates"),
        Card("h100", 80, 989, 494, 67, 3350, 450, "data sheet of H100 SXM, half of the sparse rates"),
        Card("h100-pcie", 80, 756, 378, 51, 2000, 64, "data sheet of H100 PCIe, half of the sparse rates"),
        Card("a100", 80, 312, 156, 19.5, 2039, 300, "data sheet of A100 80GB SXM"),
        Card("a100-40", 40, 312, 156, 19.5, 1555, 300, "data sheet of A100 40GB SXM"),
        Card("l40s", 48, 362, 183, 91.6, 864, 32, "data sheet of L40S, half of the sparse rates"),
        Card("l4", 24, 121, 60, 30.3, 300, 32, "data sheet of L4, half of the sparse rates"),
        Card("a10", 24, 125, 62.5, 31.2, 600, 32, "data sheet of A10"),
        Card("rtx-a6000", 48, 154.8, 77.4, 38.7, 768, 32, "data sheet of RTX A6000, half of the sparse rates"),
        Card("4090", 24, 165.2, 82.6, 82.6, 1008, 32, "white paper of the Ada architecture, RTX 4090"),
        Card("3090", 24, 71, 35.6, 35.6, 936, 32, "white paper of the GA102 architecture, RTX 3090"),
        Card("v100", 32, 125, 15.7, 15.7, 900, 150, "data sheet of V100 SXM2 32GB; bf16 has no fast products there"),
        Card("t4", 16, 65, 8.1, 8.1, 300, 16, "data sheet of T4; bf16 has no fast products there"),
    )
}
# Of a card that is given as three numbers: the ratios of an A100, rounded, and PCIe 4.
_TF32_SHARE, _FLOAT32_SHARE, _PCIE_GB_S = 0.5, 0.125, 32.0


def find_card(text: str) -> Card:
    """Return the GPU of a name, or of its numbers.

    Args:
        text: A name of CARDS, with or without the size of its memory (a100-80GB), or "GiB,TFLOPS,GBPS": memory in GiB,
            peak in bf16 in TFLOP/s, and bandwidth of the memory in GB/s.

    Raises:
        RecipeError: If it is neither.

    Examples:
        >>> find_card("h100").memory_gib
        80
        >>> find_card("24,165,1008").low_tflops
        165.0
    """
    if "," in text:
        return _custom(text)
    name = text.strip().lower().replace("_", "-").replace(" ", "-").removeprefix("nvidia-").removeprefix("rtx-")
    name = {"a6000": "rtx-a6000"}.get(name, name)
    for ending in _TRAILING:
        name = name.removesuffix(ending.lower())
    if name in CARDS:
        return CARDS[name]
    for card in CARDS.values():
        if name == f"{card.name}-{card.memory_gib:.0f}":
            return card
    near = difflib.get_close_matches(name, CARDS, n=1)
    raise RecipeError(
        f"--gpu: {text} is not known{f', did you mean {near[0]}?' if near else ';'} use one of {', '.join(CARDS)}, or"
        " its numbers as GiB,TFLOPS,GBPS: memory in GiB, peak in bf16 in TFLOP/s, bandwidth of the memory in GB/s, such"
        " as 80,989,3350"
    )


def _custom(text: str) -> Card:
    try:
        memory_gib, tflops, gb_s = (float(part) for part in text.split(","))
    except ValueError:
        memory_gib = tflops = gb_s = 0.0
    if not all(0 < number < 1e9 for number in (memory_gib, tflops, gb_s)):
        raise RecipeError(
            f"--gpu: {text} is not allowed; it must be three positive numbers, GiB,TFLOPS,GBPS: memory in GiB, peak in"
            " bf16 in TFLOP/s, bandwidth of the memory in GB/s, such as 80,989,3350"
        )
    source = "given; TF32 is taken as a half and float32 as an eighth of the peak, and the link as PCIe 4"
    return Card(text, memory_gib, tflops, tflops * _TF32_SHARE, tflops * _FLOAT32_SHARE, gb_s, _PCIE_GB_S, source)
