"""Barlow Twins as a method of Lightly's own tools: the ImageNet benchmark and LightlyTrain."""
