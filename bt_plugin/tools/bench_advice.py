"""What was measured of a recipe's speed, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from bt_plugin.config.recipe import Recipe


@dataclass(frozen=True)
class Throughput:
    """Images a second over all ranks, medians of the rounds.

    Args:
        loader: Of the loader with nobody to train.
        step: Of the step on views that lie on the device already.
        both: Of training.
        decode: Of the loader if its views were tiny: reading and decoding.
        data_wait: Of training's time, the share in which it waits for views, 0 to 1.
        optimizer_share: Of the step's time, the optimizer's, 0 to 1, measured with nothing else on the device.
        flops_per_image: Multiply-adds count twice; forward and backward of two views, by torch's counter.
        matmul_flops_per_s: What one rank's device does in a large matrix product, in the run's precision.
        matmul_bf16_flops_per_s: The same in bfloat16.
        transfer: That could be copied to the device, files where it decodes them, else views; None on a CPU.
    """

    loader: float
    step: float
    both: float
    decode: float
    data_wait: float
    optimizer_share: float
    flops_per_image: float
    matmul_flops_per_s: float
    matmul_bf16_flops_per_s: float
    transfer: float | None = None

    def of_matmul(self, world_size: int) -> float:
        """The part of the device's matrix products that the step reaches."""
        return self.step * self.flops_per_image / (world_size * self.matmul_flops_per_s)

    def nearest_limit(self, world_size: int) -> tuple[str, float]:
        """What training comes nearest to, and how near, 1 being there."""
        shares = {
            "large matrix products": self.of_matmul(world_size) * self.both / self.step,
            "reading and decoding": self.both / self.decode,
        }
        if self.transfer is not None:
            shares["copies to the device"] = self.both / self.transfer
        return max(shares.items(), key=lambda item: item[1])


def advice(found: Throughput, recipe: Recipe, *, device: str, world_size: int) -> list[str]:
    """What holds training back, and which keys to change, the most useful first.

    Args:
        found: What was measured.
        recipe: That it was measured with.
        device: cpu or cuda.
        world_size: Ranks.
    """
    said = []
    if device == "cpu":
        views = found.both / found.loader
        said.append(
            f"views and step share the cores: views take {min(views, 1):.0%} of the time; on a GPU they overlap"
        )
    if found.data_wait > 0.05:
        by_decoding = found.decode < 1.3 * found.loader
        limit = "reading and decoding" if by_decoding else "making the views"
        said.append(
            f"the step waits {found.data_wait:.0%} of the time, and {limit} is what it waits for: more data.num_threads"
            f" (now {recipe.data.num_threads or 'all of this rank'}), more cores, or smaller image files"
        )
        if by_decoding and device == "cuda":
            said.append(
                f"data.hw_decoder_load (now {recipe.data.hw_decoder_load:g}) shares JPEGs between the GPU's decoder and"
                " the cores: less where cores are many, more where they are few"
            )
        if found.loader > 1.2 * found.step:
            said.append(
                f"the loader alone is fast enough, and its batches come unevenly: data.prefetch (now"
                f" {recipe.data.prefetch})"
            )
    else:
        said.append(f"the step decides: it waits {found.data_wait:.0%} of the time for views")
    reached = found.of_matmul(world_size)
    said.append(
        f"the step reaches {reached:.0%} of the rate of large matrix products on this device; the optimizer takes"
        f" {found.optimizer_share:.1%} of the step"
    )
    nearest, share = found.nearest_limit(world_size)
    said.append(f"the nearest limit is {nearest}: training takes {share:.0%} of it")
    if recipe.optim.accumulation_steps > 1:
        said.append("optim.accumulation_steps embeds every image twice; take fewer where memory allows")
    gain = found.matmul_bf16_flops_per_s / found.matmul_flops_per_s
    if gain > 1.2:
        said.append(f"large matrix products are {gain:.1f} times as fast in bfloat16: try run.mixed_precision=bf16")
    if device == "cuda" and reached < 0.3:
        said.append("a larger batch on each rank makes larger products: optim.global_batch_size, or fewer ranks")
    return said
