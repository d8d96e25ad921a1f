"""Work that several processes share, in the order in which it is handed out."""

import multiprocessing
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from trimtab.common.files import DataError

T = TypeVar("T")
AHEAD = 2
"""jobs of each process that wait for it"""
_function: Callable[..., Any] | None = None


def in_order(function: Callable[..., T], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """What the function gives for each of the arguments, one after another.

    Args:
        function: with what it holds it goes to each process once.
        jobs: arguments of the calls.
        workers: processes; with 1, or fewer, this one does it all.

    Raises:
        DataError: where a process was killed; what the function raises otherwise.
    """
    if workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    # a copy of this process has all that was imported; it holds no lock of the tokenizers' threads, which know of it
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        with ProcessPoolExecutor(workers, context, _begin, (function,)) as pool:
            waiting: deque[Any] = deque()
            try:
                for job in jobs:
                    waiting.append(pool.submit(_call, job))
                    if len(waiting) > AHEAD * workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            except BrokenProcessPool as error:
                raise DataError(
                    f"data.workers: one of {workers} processes was killed, mostly for want of memory; choose fewer"
                ) from error
            finally:
                for one in waiting:
                    one.cancel()


def _begin(function: Callable[..., Any]) -> None:
    global _function
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each has a core to itself
    _function = function


def _call(job: tuple[Any, ...]) -> Any:
    assert _function is not None
    return _function(*job)
