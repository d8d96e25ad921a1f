"""Two processes that talk over gloo, without importing anything again."""

import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PROCESSES = 2


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment_of(rank: int, number: int, port: int) -> dict[str, str]:
    """What a launcher tells a process of a group."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip


def in_group(folder: Path, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(*given)` returns in each of two forked processes of one group, or the exception that ended it."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    mp.start_processes(_process, args=(str(folder), port, work, given), nprocs=PROCESSES, start_method="fork")
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def _process(rank: int, folder: str, port: int, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    from accelerate.state import AcceleratorState, GradientState, PartialState

    torch.set_num_threads(1)
    os.environ |= environment_of(rank, PROCESSES, port)
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()  # of the process that forked this one
    try:
        found = work(*given)
    except Exception as error:
        traceback.print_exc()
        found = error
    torch.save(found, f"{folder}/found-{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()
