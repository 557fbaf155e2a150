"""Errors of the loaders that a program may want to catch."""


class BadImageError(ValueError):
    """An image file that cannot be read or decoded; the message names it."""
