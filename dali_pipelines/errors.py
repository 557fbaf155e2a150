"""Errors of the loaders that a program may want to catch."""


class StorageError(Exception):
    """The error of a storage that does not answer, also after retries. The message names the URL and the cause.

    It says nothing about an image, so no image is replaced. A run saves its state and ends; the same command resumes.
    """


class BadImageError(ValueError):
    """The error of an image that cannot be read or decoded, or is too large. The message names the image.

    Args:
        message: Text for the user.
        index: Position of the image in its source, 0 to len(source) - 1.
    """

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index
