"""The processes of one launch: which of them this is, and whether they are the one group that a launcher meant."""

import os
from collections.abc import Mapping, Sequence

from trimtab.common.errors import UserError

SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""where torchrun, accelerate and MPI say how many processes they have started"""
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


class ProcessError(UserError):
    """Processes that would each do the whole work, and write the same files."""


def rank() -> int:
    """Of this process in its launch; 0 where nothing launched it, and the one that writes."""
    return max(_first(os.environ, RANKS, 0), 0)


def launched(environment: Mapping[str, str] | None = None) -> int:
    """How many processes the launcher of this one has started, or was asked for; 1 without a launcher."""
    return max(_first(os.environ if environment is None else environment, SIZES, 1), 1)


def check_group(size: int, environment: Mapping[str, str] | None = None) -> None:
    """Hold the processes of the trainer against those that were launched.

    Args:
        size: of the trainer's process group.
        environment: of this process, if it is another.

    Raises:
        ProcessError: where they differ.
    """
    environment = os.environ if environment is None else environment
    asked = launched(environment)
    if asked != size:
        raise ProcessError(
            f"{_many(asked)} launched (WORLD_SIZE) and the trainer's group has {size}: each would train the whole "
            "recipe and write the same files. On a CPU set ACCELERATE_USE_CPU=true beside torchrun, which makes them "
            "one group; else start one process, without a launcher"
        )
    if rank() >= asked:
        raise ProcessError(
            f"RANK is {rank()} and there is only {asked} process: another launch left it behind; unset RANK"
        )
    if size == 1 and _launched_alone(environment):
        raise ProcessError(
            "accelerate was asked for several processes and has started one (with --cpu it starts more only by "
            "--mpirun_hostfile): use `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m trimtab train ...`, or "
            "--num_processes 1"
        )


def check_alone(command: str) -> None:
    """Refuse a launcher for a command that works in one process.

    Raises:
        ProcessError: naming the command.
    """
    if launched() > 1 or _launched_alone(os.environ):
        raise ProcessError(
            f"trimtab {command} works in one process, and {_many(launched())} launched; start it without torchrun or "
            "accelerate launch (only `trimtab train` takes several)"
        )


def _launched_alone(environment: Mapping[str, str]) -> bool:
    """`accelerate launch` gives the address of a group where it was asked for one, and then starts a single process."""
    asked = {"ACCELERATE_DYNAMO_BACKEND", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()
    return asked and not any(name in environment for name in SIZES)


def _many(number: int) -> str:
    return f"{number} {'process was' if number == 1 else 'processes were'}"


def _first(environment: Mapping[str, str], names: Sequence[str], otherwise: int) -> int:
    """The first of the variables that holds a number."""
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), otherwise)
