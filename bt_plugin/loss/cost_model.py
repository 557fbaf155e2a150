"""What the two forms of the objective cost a rank, in arithmetic and in traffic: the model behind form="auto".

docs/loss.md has the tables, tests/bt_plugin/test_loss_traffic.py counts the bytes, and
benchmarks/records/ holds the times that the two rates were chosen by.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ExactForm = Literal["cross", "gram"]

# A number of C passes through memory about four times outside the products: written, reduced over ranks,
# and read for the sums of squares by row and by column. On an H100 that takes the time of 160 multiply-adds
# (16 bytes at 3.35 TB/s, 33.5e12 multiply-adds/s in float32: NVIDIA's data sheet), on two CPU cores of 280
# (benchmarks/records/2026-11-22_loss.json, N = 64 and 256).
MULTIPLY_ADDS_PER_ENTRY_OF_C = 200
# Likewise the bytes between ranks: 74 for an H100's NVLink (450 GB/s each way), ten times as many
# over InfiniBand. The lowest that is common, so that traffic decides only where it is sure to.
MULTIPLY_ADDS_PER_BYTE_SENT = 74


class Cost(NamedTuple):
    """Of the loss and its gradient, on one rank.

    multiply_adds: Of the matrix products.
    entries_of_c: Numbers of the D x D matrix that this rank keeps.
    bytes_sent: To other ranks, by ring algorithms: a gather sends this rank's part W - 1 times, a
        reduction sends each number 2 (W - 1) / W times.
    """

    multiply_adds: int
    entries_of_c: int
    bytes_sent: float

    @property
    def in_multiply_adds(self) -> float:
        """All of it, in the time of one multiply-add."""
        passes = MULTIPLY_ADDS_PER_ENTRY_OF_C * self.entries_of_c
        return self.multiply_adds + passes + MULTIPLY_ADDS_PER_BYTE_SENT * self.bytes_sent


def loss_cost(form: ExactForm, *, n: int, d: int, world_size: int = 1, bytes_per_number: int = 4) -> Cost:
    """The cost of one step.

    Args:
        form: Of the redundancy-reduction term.
        n: Samples of this rank.
        d: Dimension of the embeddings.
        world_size: Ranks that the batch is gathered over.
        bytes_per_number: 4 for float32, 8 for float64.
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
    """The form that costs less; on one rank "gram" up to about N = 3/4 D."""
    cross, gram = (loss_cost(form, n=n, d=d, world_size=world_size).in_multiply_adds for form in ("cross", "gram"))
    return "gram" if gram < cross else "cross"
