"""Estimate what the two forms of the loss cost on one rank, in arithmetic and in traffic. form="auto" uses it.

docs/loss.md has the tables. tests/bt_plugin/loss/test_ranks.py compares the bytes with counted ones.
benchmarks/records/ has the measured times from which the two rates below were chosen.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ExactForm = Literal["cross", "gram"]

# Each number of C passes through memory about four times outside of the products: it is written, reduced over ranks,
# and read for the sums of squares of rows and of columns. On an H100 this takes as long as 160 multiply-adds (16 bytes
# at 3.35 TB/s, 33.5e12 multiply-adds/s in float32: NVIDIA's data sheet). On two CPU cores it takes as long as 280
# (benchmarks/records/2026-11-22_loss.json, N = 64 and 256).
MULTIPLY_ADDS_PER_ENTRY_OF_C = 200
# A byte that is sent to another rank takes as long as 74 multiply-adds over an H100's NVLink (450 GB/s each way), and
# ten times as long over InfiniBand. This is the lowest common value, so that traffic decides only in clear cases.
MULTIPLY_ADDS_PER_BYTE_SENT = 74


class Cost(NamedTuple):
    """The cost of the loss and its gradient on one rank.

    Args:
        multiply_adds: Number of multiply-adds in the matrix products.
        entries_of_c: Numbers of the D x D matrix that this rank keeps.
        bytes_sent: Bytes sent to other ranks by ring algorithms. A gather sends this rank's part W - 1 times. A
            reduction sends each number 2 (W - 1) / W times.
    """

    multiply_adds: int
    entries_of_c: int
    bytes_sent: float

    @property
    def in_multiply_adds(self) -> float:
        """The whole cost, in units of the time of one multiply-add."""
        passes = MULTIPLY_ADDS_PER_ENTRY_OF_C * self.entries_of_c
        return self.multiply_adds + passes + MULTIPLY_ADDS_PER_BYTE_SENT * self.bytes_sent


def loss_cost(form: ExactForm, *, n: int, d: int, world_size: int = 1, bytes_per_number: int = 4) -> Cost:
    """Return the cost of the loss and its gradient in one step.

    Args:
        form: Form of the redundancy term.
        n: Number of samples of this rank.
        d: Dimension D of the embeddings.
        world_size: Number of ranks over which the batch is gathered.
        bytes_per_number: Bytes of a number: 4 for float32, 8 for float64.
    """
    n_global = n * world_size
    gathered = 1 + 4 * d  # batch size, means and variances
    if form == "cross":
        multiply_adds, entries, reduced = 3 * n * d * d, d * d, d * d
    else:
        multiply_adds, entries, reduced = 4 * n * n_global * d, 0, 3 * d
        gathered += 2 * n * d
    numbers_sent = (world_size - 1) * (gathered + 2 * reduced / world_size)
    return Cost(multiply_adds, entries, bytes_per_number * numbers_sent)


def cheaper_form(n: int, d: int, world_size: int = 1) -> ExactForm:
    """Return the form that costs less. On one rank this is "gram" up to about N = 3/4 D.

    Args:
        n: Number of samples of this rank.
        d: Dimension D of the embeddings.
        world_size: Number of ranks over which the batch is gathered.
    """
    cross, gram = (loss_cost(form, n=n, d=d, world_size=world_size).in_multiply_adds for form in ("cross", "gram"))
    return "gram" if gram < cross else "cross"
