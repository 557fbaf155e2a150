"""Check the environment variables that launchers set, before other code reads them."""

from __future__ import annotations

import os

from bt_plugin.errors import LaunchError
from dali_pipelines.ranks import number_from_environment

# The lowest allowed value of each number.
_NUMBERS = {
    "WORLD_SIZE": 1,
    "RANK": 0,
    "LOCAL_WORLD_SIZE": 1,
    "LOCAL_RANK": 0,
    "MASTER_PORT": 1,
    "NUMBA_NUM_THREADS": 1,
}
_MOST_PORT = 2**16 - 1
_FLAGS = ("ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP", "ACCELERATE_DEBUG_MODE")
# The words that Accelerate accepts for a flag.
_FLAG_WORDS = {"1", "0", "y", "n", "yes", "no", "t", "f", "true", "false", "on", "off"}
_PRECISIONS = ("no", "fp16", "bf16")
_OF_A_GROUP = ("RANK", "MASTER_ADDR", "MASTER_PORT")


def check_launch_environment() -> None:
    """Check that each variable has a value that a launcher would set.

    Raises:
        LaunchError: If a variable has a wrong value, or a variable that a group of ranks needs is missing.
    """
    try:
        numbers = {name: number_from_environment(name, -1, least=least) for name, least in _NUMBERS.items()}
    except ValueError as error:
        raise LaunchError(str(error)) from error
    if numbers["MASTER_PORT"] > _MOST_PORT:
        raise LaunchError(
            f"$MASTER_PORT={numbers['MASTER_PORT']} is not allowed; it must be 1 to {_MOST_PORT}. Correct it"
        )
    for name in _FLAGS:
        value = os.environ.get(name, "no")
        if value.lower() not in _FLAG_WORDS:
            raise LaunchError(
                f"${name}={value[:40]!r} is not allowed; it must be true or false. Unset it, or correct it"
            )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in _PRECISIONS:
        raise LaunchError(
            f"$ACCELERATE_MIXED_PRECISION={precision[:40]!r} is not allowed; it must be {', '.join(_PRECISIONS)}. Unset"
            " it, or correct it"
        )
    world_size, rank = numbers["WORLD_SIZE"], numbers["RANK"]
    if world_size > 1 and (missing := [name for name in _OF_A_GROUP if not os.environ.get(name)]):
        raise LaunchError(
            f"$WORLD_SIZE is {world_size}, but {' and '.join(f'${name}' for name in missing)} is not set. Start the"
            " processes with `accelerate launch`, or unset WORLD_SIZE"
        )
    if 0 < world_size <= rank:
        raise LaunchError(f"$RANK={rank} is not allowed with $WORLD_SIZE={world_size}: ranks are 0 to {world_size - 1}")
