"""The loaders in Lightning's Trainer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from bt_plugin import BarlowTwinsLoss
from dali_pipelines import EvalLoader, EvalParams, TwoViewLoader
from dali_pipelines.eval_loader import EvalBatch
from dali_pipelines.loaders import Batch
from tests.dali_pipelines.conftest import SMALL, chosen

pytestmark = [
    pytest.mark.usefixtures("each_backend"),
    pytest.mark.filterwarnings("ignore::pytorch_lightning.utilities.warnings.PossibleUserWarning"),
]


class Module(LightningModule):
    """As a user of Lightly writes one."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 16))
        self.criterion = BarlowTwinsLoss()
        self.trained: list[list[str]] = []
        self.validated: list[str] = []

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        (view_a, view_b), _, filenames = batch
        self.trained.append(filenames)
        loss: Tensor = self.criterion(self.model(view_a), self.model(view_b))
        return loss

    def validation_step(self, batch: EvalBatch, batch_index: int) -> None:
        images, targets, filenames = batch
        assert images.shape[0] == targets.shape[0]
        self.validated += filenames

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(data: Path, folder: Path, checkpoint: Path | None = None, **options: object) -> Module:
    torch.manual_seed(0)
    module = Module()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator=chosen().device,
        devices=1,
        default_root_dir=folder,
        **{"max_epochs": 2, "enable_checkpointing": False, **quiet, **options},  # type: ignore[arg-type]
    )
    trainer.fit(
        module,
        TwoViewLoader(data / "train", 8, SMALL, backend=chosen()),
        EvalLoader(data / "val", 5, EvalParams(32, 32), backend=chosen()),
        ckpt_path=checkpoint,
    )
    return module


def test_fit_sees_every_image_once_an_epoch(small_data: Path, tmp_path: Path) -> None:
    """36 images are four batches of eight; the sanity check and two epochs validate 12 images in three batches."""
    module = fit(small_data, tmp_path, num_sanity_val_steps=2)
    assert len(module.trained) == 2 * 4
    for epoch in (module.trained[:4], module.trained[4:]):
        assert max(Counter(name for batch in epoch for name in batch).values()) == 1
    assert module.trained[:4] != module.trained[4:]
    assert len(module.validated) == 10 + 2 * 12


def test_limits(small_data: Path, tmp_path: Path) -> None:
    """An epoch that is left early is over: the next one is another."""
    module = fit(small_data, tmp_path, limit_train_batches=2, limit_val_batches=1, num_sanity_val_steps=0)
    whole = TwoViewLoader(small_data / "train", 8, SMALL, backend=chosen())
    expected = [[batch.filenames for batch in whole][:2] for _ in range(2)]
    assert module.trained == expected[0] + expected[1]
    assert len(module.validated) == 2 * 5


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_a_checkpoint_of_lightnings_has_the_loaders_state(small_data: Path, tmp_path: Path, stop: int) -> None:
    """Stopped in an epoch or at its edge, a run sees what the whole one sees, and ends with its weights."""
    whole = fit(small_data, tmp_path)
    saved = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    options = {"enable_checkpointing": True, "callbacks": [saved]}
    begun = fit(small_data, tmp_path, max_epochs=-1, max_steps=stop, **options)
    continued = fit(small_data, tmp_path, tmp_path / f"step={stop}.ckpt")
    assert begun.trained + continued.trained == whole.trained
    for name, weight in whole.state_dict().items():
        assert torch.equal(continued.state_dict()[name], weight), name
