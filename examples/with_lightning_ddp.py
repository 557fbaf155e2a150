"""Train Barlow Twins in Lightning on several ranks.

The script follows Lightly's examples/pytorch_lightning_distributed/barlowtwins.py. Lines that end with # differ from
it. The loss is that of the samples of all ranks together. The loader gives each rank its share of every batch. Run in
the clone:

    pip install '.[demo]'
    bt-plugin demo-data data/demo && python examples/with_lightning_ddp.py
"""

import pytorch_lightning as pl
import torch
import torchvision
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import nn

from bt_plugin import LARS, BarlowTwinsLoss  #
from dali_pipelines import TwoViewLoader  #


class BarlowTwins(pl.LightningModule):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = BarlowTwinsProjectionHead(512, 2048, 2048)
        self.criterion = BarlowTwinsLoss(gather_distributed=True)

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch, batch_index):
        (x0, x1) = batch[0]
        return self.criterion(self(x0), self(x1))

    def configure_optimizers(self):
        return LARS(self.parameters(), lr=0.3, weight_decay=1e-6)  #


has_gpu = torch.cuda.is_available()
dataloader = TwoViewLoader("data/demo/train", batch_size_per_rank=64, views="barlow_twins_32")  #
trainer = pl.Trainer(
    max_epochs=10,
    devices="auto" if has_gpu else 2,
    strategy="ddp",
    sync_batchnorm=has_gpu,
)
trainer.fit(BarlowTwins(), dataloader)
