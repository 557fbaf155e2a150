"""The optimizer LARS, its parameter groups and the learning-rate schedule."""

from bt_plugin.optim.lars import LARS
from bt_plugin.optim.parameter_groups import parameter_groups
from bt_plugin.optim.schedule import lr_scale

__all__ = ["LARS", "lr_scale", "parameter_groups"]
