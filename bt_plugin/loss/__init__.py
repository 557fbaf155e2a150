"""The Barlow Twins loss over the global batch, and its exact gradient from micro-batches."""

from bt_plugin.loss.accumulation import accumulated_backward
from bt_plugin.loss.barlow_twins import BarlowTwinsLoss, LossTerms

__all__ = ["BarlowTwinsLoss", "LossTerms", "accumulated_backward"]
