"""What the processes of a run know and decide together; with one process nothing is sent."""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from trimtab.common import processes
from trimtab.common.collectives import objects, rank, size
from trimtab.common.errors import Interrupted, UserError

T = TypeVar("T")
EVERY = 1.0
"""seconds between two looks for a failure elsewhere"""
OWN_END = 3.0
"""seconds for a process to end by itself, as where all fail alike"""
PATIENCE = 15.0
"""seconds that a process which fails waits until the others know why"""
_NUMBERS = itertools.count()


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether this holds in any process, so that all do the same."""
    if size() == 1:
        return flag
    found = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def summed(pairs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the same shape by name, summed over processes; each process may have other names."""
    found: dict[str, Tensor] = {}
    for one in objects({name: pair.detach().cpu() for name, pair in pairs.items()}):
        for name, pair in one.items():
            found[name] = found[name] + pair if name in found else pair
    return found


def share() -> tuple[int, int]:
    """Rank of this process, and number of processes."""
    return rank(), size()


def joined(rows: Mapping[int, T]) -> dict[int, T]:
    """What the processes have found of rows, each of its share, in all of them."""
    return dict(sorted((row, found) for one in objects(rows) for row, found in one.items()))


@contextmanager
def told_of_failures(abandon: Callable[[], None]) -> Iterator[None]:
    """Within, a process that fails tells the others, which end with its message and its exit code, wherever they wait.

    Args:
        abandon: cleans up in a process that is ended by another one's failure.
    """
    if processes.launched() == 1:
        yield
        return
    watch = _Watch(abandon, f"trimtab/{next(_NUMBERS)}")
    try:
        yield
    except Exception as error:
        if not isinstance(error, Interrupted):
            watch.tell(error)
        raise
    finally:
        watch.stop()


class _Watch(threading.Thread):
    """Looks for the failure of another process in the store over which the group was formed."""

    def __init__(self, abandon: Callable[[], None], key: str):
        super().__init__(daemon=True)
        self.abandon, self.key = abandon, key
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.done.wait(EVERY):
            if size() == 1:
                continue
            try:
                store = self._store()
                while not store.check([self.key]):
                    if self.done.wait(EVERY):
                        return
                said = json.loads(store.get(self.key))
            except RuntimeError:  # the store has gone, and with it the launch
                return
            if said["rank"] != processes.rank() and not self.done.wait(OWN_END):
                self._end(store, said)
            return

    def _end(self, store: Any, said: Mapping[str, Any]) -> None:
        self.abandon()
        sys.stdout.flush()
        print(f"error: process {said['rank']} failed: {said['text']}", file=sys.stderr, flush=True)
        with suppress(RuntimeError):
            store.add(f"{self.key}/know", 1)
        os._exit(said["code"])

    def tell(self, error: Exception) -> None:
        """Say why this process fails, unless another one has failed before."""
        if size() == 1:
            return
        text = " ".join(str(error).split()) or type(error).__name__
        own = isinstance(error, UserError)
        said = {"rank": processes.rank(), "text": text if own else f"{type(error).__name__}: {text}"[:500]}
        with suppress(RuntimeError):
            store = self._store()
            store.compare_set(self.key, "", json.dumps({**said, "code": 2 if own else 1}))
            store.add(f"{self.key}/know", 1)
            until = time.monotonic() + PATIENCE
            while store.add(f"{self.key}/know", 0) < processes.launched() and time.monotonic() < until:
                time.sleep(EVERY / 5)

    def stop(self) -> None:
        self.done.set()

    def _store(self) -> Any:
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        if not host or not port.isdecimal():
            raise RuntimeError("the group was not formed over a store with an address")
        return TCPStore(host, int(port), None, False, timedelta(seconds=10), False)
