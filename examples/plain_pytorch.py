"""Train Barlow Twins in plain PyTorch.

The script follows Lightly's examples/pytorch/barlowtwins.py. Lines that end with # differ from it. Run in the clone:

    pip install '.[demo]'
    bt-plugin demo-data data/demo && python examples/plain_pytorch.py
"""

import torch
import torchvision
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import nn

from bt_plugin import LARS, BarlowTwinsLoss  #
from dali_pipelines import TwoViewLoader  #


class BarlowTwins(nn.Module):
    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = BarlowTwinsProjectionHead(512, 2048, 2048)

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))


device = "cuda" if torch.cuda.is_available() else "cpu"
model = BarlowTwins().to(device)
dataloader = TwoViewLoader("data/demo/train", batch_size_per_rank=128, views="barlow_twins_32")  #
criterion = BarlowTwinsLoss()
optimizer = LARS(model.parameters(), lr=0.3, weight_decay=1e-6)  #

for epoch in range(10):
    total_loss = 0.0
    for batch in dataloader:
        x0, x1 = batch[0]
        loss = criterion(model(x0.to(device)), model(x1.to(device)))
        total_loss += loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}, loss {total_loss / len(dataloader):.2f}")
