"""Train another objective of Lightly with bt-plugin's loader.

Run in the clone:

    pip install '.[demo]'
    bt-plugin demo-data data/demo && python examples/other_objectives.py vicreg

The argument is vicreg (the default), simclr or barlowtwins.
"""

import sys

import torch
import torchvision
from lightly.loss import BarlowTwinsLoss, NTXentLoss, VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead

from dali_pipelines import TwoViewLoader

objectives = {"vicreg": VICRegLoss(), "simclr": NTXentLoss(), "barlowtwins": BarlowTwinsLoss()}
criterion = objectives[sys.argv[1] if len(sys.argv) > 1 else "vicreg"]

device = "cuda" if torch.cuda.is_available() else "cpu"
resnet = torchvision.models.resnet18()
resnet.fc = VICRegProjectionHead(512, 2048, 2048, num_layers=2)
model = resnet.to(device)
dataloader = TwoViewLoader("data/demo/train", batch_size_per_rank=128, views="barlow_twins_32")
optimizer = torch.optim.SGD(model.parameters(), lr=0.06)

for epoch in range(10):
    total_loss = 0.0
    for (x0, x1), _, _ in dataloader:
        loss = criterion(model(x0.to(device)), model(x1.to(device)))
        total_loss += loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}, loss {total_loss / len(dataloader):.2f}")
