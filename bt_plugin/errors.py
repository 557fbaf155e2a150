"""Errors that are the user's to correct; the command line prints them without a traceback."""


class UserError(ValueError):
    """Something to correct; the message names it, its value, the rule and the remedy."""


class RecipeError(UserError):
    """A recipe that cannot be run as it is."""


class LaunchError(UserError):
    """Processes that were not launched as one group."""


class DivergenceError(UserError):
    """Training that has become NaN or infinite, as every rank knows."""


class LostRankError(UserError):
    """Another rank that does not answer any more."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or restored, as every rank knows."""


class WeightsError(UserError):
    """Weights that cannot be read, or written for another library."""


class HostError(UserError):
    """A version of another program that this one cannot be plugged into."""


class PreemptedError(Exception):
    """The run was asked to stop, and did so with a checkpoint."""
