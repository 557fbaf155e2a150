"""The measured speed of a recipe, and the advice that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

from bt_plugin.config.recipe import Recipe


@dataclass(frozen=True)
class Throughput:
    """The speed of a recipe. Rates are images per second over all ranks, medians of the rounds.

    Args:
        loader: Rate of the loader alone, without training.
        step: Rate of the step alone, on views that are already on the device.
        both: Rate of training.
        decode: Rate of the loader with tiny views, which is the rate of reading and decoding.
        data_wait: Share of training's time spent waiting for views, 0 to 1.
        optimizer_share: Optimizer's share of the step's time, 0 to 1, with nothing else on the device.
        flops_per_image: FLOP per image for forward and backward of two views, by torch's counter. A multiply-add
            counts as two.
        matmul_flops_per_s: FLOP per second of one rank's device in a large matrix product, in the run's precision.
        matmul_bf16_flops_per_s: FLOP per second of the same product in bfloat16.
        transfer: Rate that copies to the device allow, None on a CPU. If the device decodes, files are copied,
            otherwise views.
        backend: Backend of the loader, dali or native.
        other_loader: Rate of the loader alone with the other backend, None if DALI is not installed.
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
    backend: str = "native"
    other_loader: float | None = None

    def of_matmul(self, world_size: int) -> float:
        """Return the step's FLOP rate as a fraction of the device's rate in large matrix products."""
        return self.step * self.flops_per_image / (world_size * self.matmul_flops_per_s)

    def nearest_limit(self, world_size: int) -> tuple[str, float]:
        """Return the name of the limit that training is nearest to, and the fraction of it that training reaches."""
        shares = {
            "large matrix products": self.of_matmul(world_size) * self.both / self.step,
            "reading and decoding": self.both / self.decode,
        }
        if self.transfer is not None:
            shares["copies to the device"] = self.both / self.transfer
        return max(shares.items(), key=lambda item: item[1])


def advice(found: Throughput, recipe: Recipe, *, device: str, world_size: int) -> list[str]:
    """Name the bottleneck and the keys to change, the most useful first.

    Args:
        found: The measurements.
        recipe: The recipe that was measured.
        device: Type of the device, cpu or cuda.
        world_size: Number of ranks.
    """
    said = []
    if device == "cpu":
        views = found.both / found.loader
        said.append(
            f"views and step share the cores: views take {min(views, 1):.0%} of the time. On a GPU they overlap"
        )
    if found.data_wait > 0.05:
        by_decoding = found.decode < 1.3 * found.loader
        limit = "reading and decoding" if by_decoding else "augmentation"
        said.append(
            f"the step waits {found.data_wait:.0%} of the time for views, limited by {limit}. Raise data.num_threads"
            f" (now {recipe.data.num_threads or 'all of this rank'}), or use more cores or smaller image files"
        )
        if by_decoding and device == "cuda":
            said.append(
                f"data.hw_decoder_load (now {recipe.data.hw_decoder_load:g}) is the share of JPEGs that the GPU's"
                " decoder takes. Lower it if you have many CPU cores, raise it if you have few"
            )
        if found.loader > 1.2 * found.step:
            said.append(
                f"the loader alone is fast enough, but its batches arrive unevenly. Raise data.prefetch (now"
                f" {recipe.data.prefetch})"
            )
    else:
        said.append(f"the step is the bottleneck: it waits {found.data_wait:.0%} of the time for views")
    if found.other_loader is not None:
        other = "dali" if found.backend == "native" else "native"
        gain = found.other_loader / found.loader
        said.append(
            f"the loader alone has {gain:.2f} times the rate with data.backend={other}"
            + (". Try it" if gain > 1 else f", so {found.backend} is the faster backend here")
        )
    reached = found.of_matmul(world_size)
    said.append(
        f"the step reaches {reached:.0%} of this device's rate in large matrix products. The optimizer takes"
        f" {found.optimizer_share:.1%} of the step"
    )
    nearest, share = found.nearest_limit(world_size)
    said.append(f"the nearest limit is {nearest}: training reaches {share:.0%} of it")
    if recipe.optim.accumulation_steps > 1:
        said.append("optim.accumulation_steps above 1 embeds every image twice. Lower it if memory allows")
    gain = found.matmul_bf16_flops_per_s / found.matmul_flops_per_s
    if gain > 1.2:
        said.append(f"large matrix products are {gain:.1f} times as fast in bfloat16. Try run.mixed_precision=bf16")
    if device == "cuda" and reached < 0.3:
        said.append("larger batches per rank make larger products. Raise optim.global_batch_size, or use fewer ranks")
    return said
