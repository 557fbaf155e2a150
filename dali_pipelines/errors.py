"""Errors of the loaders that a program may want to catch."""


class BadImageError(ValueError):
    """An image file that cannot be read or decoded; the message names it.

    Args:
        message: For the user.
        index: Of the file in its source.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index
