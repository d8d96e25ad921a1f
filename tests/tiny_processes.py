"""Whole runs in several processes that talk over gloo, forked so that nothing is imported again."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from tiny_group import environment_of, free_port
from tiny_runs import QUIET


def run_all(
    jobs: Sequence[Mapping[str, Any]],
    folder: Path,
    number: int = 2,
    before: Callable[[int], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[list[dict[str, Any]]]:
    """Run recipes one after the other, in `number` processes.

    Args:
        jobs: `tree` of a recipe, or `trees` by rank; `resume`.
        before: called in each process with its rank, before the first run.
        environment: more variables.

    Returns:
        By rank and job: `error`, "" if there was none, and `seconds`.
    """
    folder.mkdir(exist_ok=True)
    port = free_port()
    given = (list(jobs), str(folder), number, port, before, dict(environment or {}))
    start: Any = mp.start_processes  # pyright: ignore[reportPrivateImportUsage]
    context = start(_process, args=given, nprocs=number, join=False, start_method="fork")
    assert context is not None
    children: list[Any] = list(context.processes)
    for one in children:
        one.join(300)
        if one.is_alive():
            one.kill()
            raise TimeoutError(f"process {one.pid} did not end")
    found = []
    for rank in range(number):
        path = folder / f"rank{rank}.json"
        lines = json.loads(path.read_text()) if path.exists() else []
        found.append([*lines, {"code": children[rank].exitcode}])
    return found


def _process(rank: int, jobs: Any, folder: str, number: int, port: int, before: Any, environment: Any) -> None:
    if number > 1:
        os.environ |= environment_of(rank, number, port)
    os.environ |= environment
    torch.set_num_threads(1)
    from trimtab.runs.parse import parse
    from trimtab.runs.run import run

    if before is not None:
        before(rank)
    found = []
    with Path(folder, f"rank{rank}.err").open("w", buffering=1) as errors:
        os.dup2(errors.fileno(), 2)
        sys.stderr = errors  # in place of what catches the parent's
        for job in jobs:
            tree = job["trees"][rank] if "trees" in job else job["tree"]
            since, error = time.monotonic(), ""
            try:
                one: Any = parse(tree, "test", "run")
                run(one, resume=job.get("resume", False), console=QUIET)
            except Exception as failed:
                error = f"{type(failed).__name__}: {failed}"
                traceback.print_exc()
            found.append({"error": error, "seconds": time.monotonic() - since})
            Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
        if torch.distributed.is_initialized() and not any(one["error"] for one in found):
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false", "FSDP_OFFLOAD_PARAMS": "false",
}  # fmt: skip
"""what `accelerate launch` sets from the file of `trimtab launch --fsdp`"""


def fsdp_on_a_cpu(rank: int) -> None:
    """Let accelerate, which knows FSDP for accelerators alone, make it of processes on a CPU."""
    from accelerate import state
    from accelerate.utils import DistributedType

    plain = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if self.distributed_type == DistributedType.MULTI_CPU and plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    state.AcceleratorState.__init__ = init
