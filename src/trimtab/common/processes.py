"""The processes of a launch: the rank of this one, and whether they form one group."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from trimtab.common.errors import Interrupted, UserError

SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""variables in which torchrun, accelerate and MPI give the number of processes"""
RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")


class ProcessError(UserError):
    """Processes that would each do the whole work and write the same files."""


def rank() -> int:
    """Rank of this process; 0 is the one that writes."""
    return max(_first(os.environ, RANKS, 0), 0)


ZERO_ON_A_CPU = "training.use_cpu=true"
"""what `trimtab launch` adds for DeepSpeed on a CPU, which excludes ACCELERATE_USE_CPU"""


def launched(environment: Mapping[str, str] | None = None) -> int:
    """Number of launched processes; 1 without a launcher."""
    return max(_first(os.environ if environment is None else environment, SIZES, 1), 1)


def started_with(recipe: str, overrides: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The command that starts this training again in as many processes."""
    given = os.environ if environment is None else environment
    number = launched(given)
    if number == 1:
        return ["trimtab", "train", recipe, *overrides]
    zero = is_on(given, "ACCELERATE_USE_DEEPSPEED")
    kind = ["--zero2"] if zero else ["--fsdp"] if is_on(given, "ACCELERATE_USE_FSDP") else []
    kept = [word for word in overrides if not (zero and word == ZERO_ON_A_CPU)]
    return ["trimtab", "launch", recipe, "--devices", str(number), *kind, *kept]


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """Whether a launcher has set this variable."""
    return environment.get(name, "").lower() in ("1", "true", "yes")


def number_in(line: str) -> int:
    """The number of processes in a line of a signature, such as "2, DDP over gloo"; 1 where it gives none."""
    number = line.partition(",")[0]
    return int(number) if number.isdecimal() else 1


def dealt(number: int, share: tuple[int, int]) -> list[int]:
    """The places, of `number`, that are a process's: every so manieth from its rank.

    All have as many, as what they do with them may be collective; what is missing in one comes a second time.

    Args:
        share: (rank, processes).
    """
    rank, processes = share
    return [place % number for place in range(rank, -(-number // processes) * processes, processes)]


def check_group(size: int, environment: Mapping[str, str] | None = None) -> None:
    """Check the size of the trainer's process group against the launched processes."""
    environment = os.environ if environment is None else environment
    asked = launched(environment)
    if asked != size:
        raise ProcessError(
            f"{_many(asked)} launched (WORLD_SIZE) and the trainer's group has {size}: each would train the whole "
            "recipe and write the same files. On a CPU set ACCELERATE_USE_CPU=true with torchrun, which makes them "
            "one group; otherwise start one process, without a launcher"
        )
    if rank() >= asked:
        raise ProcessError(
            f"RANK is {rank()} but there is only {asked} process: it is left over from another launch; unset RANK"
        )
    if size == 1 and _launched_alone(environment):
        raise ProcessError(
            "accelerate was asked for several processes but started one (with --cpu it starts more only with "
            "--mpirun_hostfile): use `ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m trimtab train ...`, or "
            "--num_processes 1"
        )


def check_alone(command: str) -> None:
    """Refuse a launcher for a command that runs in one process."""
    if launched() > 1 or _launched_alone(os.environ):
        raise ProcessError(
            f"trimtab {command} runs in one process, but {_many(launched())} launched; start it without torchrun or "
            "accelerate launch (only `trimtab train` takes several)"
        )


@contextmanager
def ended_tidily() -> Iterator[None]:
    """Within, a launcher that ends this process because another one has failed lets it clean up first."""
    if launched() == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    with terminated_as_exit():
        yield


def ending() -> list[signal.Signals]:
    """The signals that ask this process to end: SIGTERM, and SIGHUP where its terminal's end is not to be survived, as
    under nohup."""
    named = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [one for one in named if signal.getsignal(one) is not signal.SIG_IGN]


@contextmanager
def terminated_as_exit() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP are a SystemExit, so that what is open is closed."""
    before = {one: signal.signal(one, lambda number, _: sys.exit(128 + number)) for one in ending()}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def until_stopped(what: str) -> Iterator[None]:
    """Within, something serves until Ctrl-C (which a shell's background jobs ignore otherwise), SIGTERM or SIGHUP.

    Raises:
        Interrupted: for Ctrl-C, naming `what` was stopped.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with terminated_as_exit():
            yield
    except KeyboardInterrupt:
        raise Interrupted(f"{what} was stopped") from None


def _launched_alone(environment: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was asked for a group (it sets an address) but started a single process."""
    asked = {"ACCELERATE_DYNAMO_BACKEND", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()
    return asked and not any(name in environment for name in SIZES)


def _many(number: int) -> str:
    return f"{number} {'process was' if number == 1 else 'processes were'}"


def _first(environment: Mapping[str, str], names: Sequence[str], otherwise: int) -> int:
    """The first variable that holds a number."""
    return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), otherwise)
