"""Compare the gradient of our loss with those of other projects' losses, in one process on the same embeddings.

python benchmarks/peer_losses.py --solo-learn PATH/solo-learn

Lightly must be installed. stable-pretraining is compared if it is installed, solo-learn if a clone is named. Where
the gradients are parallel, LARS makes the same steps up to rounding, because it divides by the norm of the gradient.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from record import write_record
from torch import Tensor
from torch.nn import functional

from bt_plugin.loss.barlow_twins import BarlowTwinsLoss

Loss = Callable[[Tensor, Tensor], Tensor]
LAMBDA_PARAM = 5.1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solo-learn", type=Path)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    rows = []
    for n, dimension in ((64, 512), (256, 2048)):
        z_a, z_b = correlated(n, dimension)
        ours = gradient(BarlowTwinsLoss(lambda_param=LAMBDA_PARAM), z_a, z_b)
        for name, loss in losses(arguments.solo_learn).items():
            theirs = gradient(loss, z_a, z_b)
            cosine = float(functional.cosine_similarity(ours, theirs, dim=0))
            norm = float(theirs.norm() / ours.norm())
            rows.append({"loss": name, "images": n, "dimension": dimension, "1 - cosine": 1 - cosine, "norm": norm})
            print(rows[-1], flush=True)
    print(write_record("peer_losses", {"rows": rows}))


def losses(solo_learn: Path | None) -> dict[str, Loss]:
    from lightly.loss import BarlowTwinsLoss as Lightly

    found: dict[str, Loss] = {"Lightly": Lightly(lambda_param=LAMBDA_PARAM)}
    if solo_learn is not None:
        theirs = runpy.run_path(str(solo_learn / "solo/losses/barlow.py"))["barlow_loss_func"]
        found["solo-learn"] = partial(theirs, lamb=LAMBDA_PARAM)
    try:
        from stable_pretraining.losses import BarlowTwinsLoss as StablePretraining
    except ImportError as error:
        print(f"without stable-pretraining: {error}")
    else:
        found["stable-pretraining"] = StablePretraining(lambd=LAMBDA_PARAM)
    return found


def correlated(n: int, dimension: int) -> tuple[Tensor, Tensor]:
    """Return embeddings of two views that have half of their variance in common."""
    generator = torch.Generator().manual_seed(0)
    common, of_a, of_b = torch.randn(3, n, dimension, generator=generator)
    return common + of_a, common + of_b


def gradient(loss: Loss, z_a: Tensor, z_b: Tensor) -> Tensor:
    leaves = [z.clone().requires_grad_() for z in (z_a, z_b)]
    loss(*leaves).backward()
    return torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None])


if __name__ == "__main__":
    main()
