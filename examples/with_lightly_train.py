"""Train Barlow Twins with LightlyTrain's own pretrain, after one call of register().

LightlyTrain is licensed under the AGPL-3.0, or commercially by Lightly. Run in the clone:

    pip install '.[demo,lightly-train]'
    bt-plugin demo-data data/demo && python examples/with_lightly_train.py
"""

import lightly_train

import bt_plugin

bt_plugin.register(dali=True)  # register() without the argument keeps LightlyTrain's own loader

if __name__ == "__main__":
    lightly_train.pretrain(
        out="runs/lightlytrain",
        data="data/demo/train",
        model="torchvision/resnet18",
        method="barlowtwins",
        method_args={"hidden_dim": 2048, "output_dim": 2048},
        transform_args={"image_size": (48, 48)},
        optim_args={"lr": 3.0, "lr_biases": 0.01, "weight_decay": 1e-4},
        batch_size=128,
        epochs=10,
    )
