"""A module with networks of the user's own, as tests write it into a folder."""

from __future__ import annotations

NAME = "own_nets"
SOURCE = '''
import torch
from torch import nn


def flat(width=8, in_chans=3):
    return nn.Sequential(nn.Conv2d(in_chans, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), Mean())


def mapped(width=8):
    """Give a map of features, of which the mean is taken."""
    return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU())


class Mean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Reads(nn.Module):
    """A network that reads values, and so cannot run without memory."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) < 1e9 else x


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        return {"dict": {"features": x}, "tokens": x.flatten(2), "one": x.mean()}[self.what]


class Fixed(nn.Module):
    """Take images of one size."""

    def __init__(self, px=48):
        super().__init__()
        self.layer = nn.Linear(3 * px * px, 4)

    def forward(self, x):
        return self.layer(x.flatten(1))


SHARED = mapped()


def shared():
    return SHARED


def fails(depth):
    raise ValueError(f"depth {depth} is odd\\nand more")


def number():
    return 3
'''
