"""Two ranks by Lightning's own launcher: python -m tests.dali_pipelines.lightning_ranks DATA OUT [CHECKPOINT]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pytorch_lightning import Trainer

from dali_pipelines import Backend, EvalLoader, EvalParams, TwoViewLoader
from tests.dali_pipelines.conftest import SMALL
from tests.dali_pipelines.test_lightning import Module


def main(data: Path, out: Path) -> None:
    module = Module()
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        num_sanity_val_steps=1,
        default_root_dir=out,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Made before there is a group of processes, as any user would.
    train = TwoViewLoader(data / "train", 8, SMALL, backend=Backend("native", device="cpu", num_threads=1))
    val = EvalLoader(data / "val", 5, EvalParams(32, 32), backend=Backend("native", device="cpu", num_threads=1))
    trainer.fit(module, train, val)
    seen = {"trained": module.trained, "validated": module.validated}
    (out / f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
