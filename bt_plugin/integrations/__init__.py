"""Barlow Twins where Lightly's own tools look for a method."""
