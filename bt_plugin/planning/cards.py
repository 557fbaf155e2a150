"""GPUs: their memory, their peak rates, and what connects them. The numbers are those of NVIDIA's documents."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from bt_plugin.errors import RecipeError

# Part of the memory of the data sheet that the driver reports.
USABLE_SHARE = 0.985
# Words in the names of nvidia-smi that do not distinguish two GPUs here.
_COMMON = re.compile(r"nvidia|tesla|geforce|rtx|sxm\d?|hbm\d?e?")
_SIZE = re.compile(r"(\d+)(gb|gib)?")


class Card(NamedTuple):
    """A GPU.

    Args:
        name: Name, as `--gpu` takes it.
        memory_gib: Memory in GiB.
        low_tflops: Peak of matrix products in bf16 or fp16 with sums in float32, without sparsity, in TFLOP/s.
        tf32_tflops: The same in TF32, which cuDNN's convolutions of float32 use. Without TF32: that of float32.
        float32_tflops: Peak of float32, which matrix products of float32 use, in TFLOP/s.
        memory_gb_s: Bandwidth of the memory in GB/s.
        link_gb_s: Bandwidth to the other GPUs of the host, each way, in GB/s: of NVLink, or else of PCIe. Bridges of
            NVLink, which join only two cards, do not count.
        source: NVIDIA's document.
        has_ecc_inside: Whether the memory has no bits of its own for ECC (error correction), which is on by default.
    """

    name: str
    memory_gib: float
    low_tflops: float
    tf32_tflops: float
    float32_tflops: float
    memory_gb_s: float
    link_gb_s: float
    source: str
    has_ecc_inside: bool = False

    @property
    def usable_gib(self) -> float:
        """Memory that the driver reports, in GiB."""
        # Check bits take a sixteenth. nvidia-smi reports 46,068 MiB of an L40S and 23,034 MiB of an L4.
        return self.memory_gib * (15 / 16 if self.has_ecc_inside else USABLE_SHARE)


CARDS = {
    card.name: card
    for card in (
        # TF32 is half of bf16. The data sheet has 2.2 PFLOP/s, sparse and rounded.
        Card("b200", 180, 2250, 1125, 75, 7700, 900, "Blackwell Datasheet, HGX B200 per GPU, half of the sparse rates"),
        Card("h200", 141, 989, 494, 67, 4800, 450, "H200 GPU Datasheet, SXM, half of the sparse rates"),
        Card("h100", 80, 989, 494, 67, 3350, 450, "H100 Tensor Core GPU Datasheet, SXM, half of the sparse rates"),
        Card("h100-pcie", 80, 756, 378, 51, 2000, 64, "H100 Tensor Core GPU Datasheet, PCIe, half of the sparse rates"),
        Card("a100", 80, 312, 156, 19.5, 2039, 300, "A100 Tensor Core GPU Datasheet, 80GB SXM, dense rates"),
        Card("a100-40", 40, 312, 156, 19.5, 1555, 300, "white paper A100 Tensor Core GPU Architecture, dense rates"),
        # The data sheet has 362.05 dense and 733 sparse.
        Card("l40s", 48, 362, 183, 91.6, 864, 32, "L40S Datasheet, dense rates", True),
        Card("l4", 24, 121, 60, 30.3, 300, 32, "L4 Tensor Core GPU Datasheet, half of the sparse rates", True),
        Card("a10", 24, 125, 62.5, 31.2, 600, 32, "A10 Tensor Core GPU Datasheet, dense rates", True),
        Card("rtx-a6000", 48, 154.8, 77.4, 38.7, 768, 32, "white paper GA102 GPU Architecture V2.0, dense rates"),
        Card("4090", 24, 165.2, 82.6, 82.6, 1008, 32, "white paper Ada GPU Architecture, appendix A, dense rates"),
        Card("3090", 24, 71, 35.6, 35.6, 936, 32, "white paper GA102 GPU Architecture V2.0, appendix A, dense rates"),
        Card("v100", 32, 125, 15.7, 15.7, 900, 150, "V100 Datasheet, SXM2 32GB; bf16 has no fast products there"),
        # The data sheet rounds the bandwidth to 300 GB/s. The product brief has 256 bits at 5001 MHz.
        Card("t4", 16, 65, 8.1, 8.1, 320, 16, "T4 Datasheet and product brief; bf16 has no fast products", True),
    )
}
# Of a card that is given as three numbers: the ratios of an A100, rounded, and PCIe 4.
_TF32_SHARE, _FLOAT32_SHARE, _PCIE_GB_S = 0.5, 0.125, 32.0


def find_card(text: str) -> Card:
    """Return the GPU of a name, or of its numbers.

    Args:
        text: A name of CARDS or of nvidia-smi, with or without the size of its memory, or "GiB,TFLOPS,GBPS": memory in
            GiB, peak in bf16 in TFLOP/s, and bandwidth of the memory in GB/s.

    Raises:
        RecipeError: If it is neither.

    Examples:
        >>> find_card("h100").memory_gib
        80
        >>> find_card("NVIDIA A100-SXM4-40GB").name
        'a100-40'
        >>> find_card("24,165,1008").low_tflops
        165.0
    """
    if "," in text:
        return _custom(text)
    name, gib = _name_and_gib(text)
    for card in CARDS.values():
        if name == _name_and_gib(card.name)[0] and gib in (None, card.memory_gib):
            return card
    near = difflib.get_close_matches(name, CARDS, n=1)
    raise RecipeError(
        f"--gpu: {text} is not known{f', did you mean {near[0]}?' if near else ';'} use one of {', '.join(CARDS)}, or"
        " its numbers as GiB,TFLOPS,GBPS: memory in GiB, peak in bf16 in TFLOP/s, bandwidth of the memory in GB/s, such"
        " as 80,989,3350"
    )


def _name_and_gib(text: str) -> tuple[str, int | None]:
    """Return the words that name a GPU, and the size of its memory if the text has it."""
    first, *others = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if not _COMMON.fullmatch(word)] or [""]
    sizes = [int(size[1]) for size in map(_SIZE.fullmatch, others) if size]
    return "-".join([first, *(word for word in others if not _SIZE.fullmatch(word))]), sizes[0] if sizes else None


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
