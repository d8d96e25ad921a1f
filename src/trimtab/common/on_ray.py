"""Work in many processes on Ray: workers take jobs, and their values come back in the order of the jobs."""

import importlib.util
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from trimtab import __version__
from trimtab.common.count import count
from trimtab.common.errors import FailedOutside, UserError

T = TypeVar("T")
J = TypeVar("J")
LOCAL = "local"
"""Ray is started on this machine, and ended"""
ADDRESS = r"(local|(ray://)?[^\s/=]+:\d+)"
"""what an address looks like"""
RETRIES = 3
"""lost workers that are replaced, and tries of a job whose worker was lost"""
REACH = 5.0
"""seconds in which a cluster's port has to open"""
ANSWER = 60.0
"""seconds in which a cluster and each of its machines have to answer"""


class RayError(UserError):
    """A Ray cluster that is missing, cannot be reached, or lacks what its workers need."""


def installed() -> bool:
    """Whether Ray can be imported."""
    return importlib.util.find_spec("ray") is not None


def check_asked(address: str) -> None:
    """Check the form of an address, and that Ray is installed.

    Raises:
        RayError: if it is not, or the address is none or one of Ray Client.
    """
    if not re.fullmatch(ADDRESS, address):
        raise RayError(f"--ray {address}: that is no address; write HOST:PORT, or local")
    if address.startswith("ray://"):
        raise RayError(
            f"--ray {address}: Ray Client does not carry Ray Data; run the command on a machine of the cluster, "
            "with its HOST:PORT (6379 by default)"
        )
    if not installed():
        raise RayError("--ray needs the package ray: pip install 'ray[data]'")


@contextmanager
def cluster(address: str | None, workers: int | None = None) -> Iterator["Cluster | None"]:
    """A Ray cluster for this context; None without an address. One that is there already is used and left as it is.

    Args:
        address: HOST:PORT, or "local" to start one on this machine alone, which nothing outside can reach.
        workers: by default one for each GPU of the cluster, or for each CPU if it has no GPU.

    Raises:
        RayError: without Ray, without an answer, or if a machine lacks trimtab or has another version of it.
    """
    if address is None:
        yield None
        return
    check_asked(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray listens on the loopback device alone
    import ray  # pyright: ignore[reportMissingImports]
    import ray.data  # pyright: ignore[reportMissingImports]

    there = ray.is_initialized()
    if not there:
        _connect(ray, address, workers)
    try:
        _check_machines(ray)
        yield Cluster(workers)
    finally:
        if not there:
            ray.shutdown()


def _connect(ray: Any, address: str, workers: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        number = max(os.cpu_count() or 1, workers or 1)
        ray.init(address=LOCAL, num_cpus=number, include_dashboard=False, **quiet)
        return
    _check_port(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:  # no cluster; another version of Ray or Python
        said = " ".join(str(error).split())
        raise RayError(f"--ray {address}: {said or 'there is no cluster'}; start one with: ray start --head") from None


def _check_port(address: str) -> None:
    """See that a cluster answers: `ray.init` would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH).close()
    except (OSError, OverflowError) as error:
        raise RayError(
            f"--ray {address} cannot be reached ({error}); write the address that `ray start --head` printed"
        ) from None
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        healthy = subprocess.run(words, capture_output=True, timeout=ANSWER).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise RayError(
            f"--ray {address}: what listens there is no Ray cluster of this version of Ray, or its token is not that "
            "of this process (RAY_AUTH_TOKEN_PATH)"
        )


def _check_machines(ray: Any) -> None:
    """Compare the versions of trimtab on all machines with that of this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]

    def version() -> str | None:  # within a function, so that it is sent as it is
        try:
            import trimtab
        except ImportError:
            return None
        return trimtab.__version__

    machines = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    task, asked = ray.remote(version), {}
    for machine, name in machines.items():
        there = NodeAffinitySchedulingStrategy(machine, soft=False)
        asked[name] = task.options(num_cpus=0, scheduling_strategy=there).remote()
    for name, found in asked.items():
        try:
            version_there = ray.get(found, timeout=ANSWER)
        except ray.exceptions.GetTimeoutError:
            raise RayError(f"the Ray worker on {name} has not answered for {ANSWER:.0f} s; see `ray status`") from None
        if version_there is None:
            raise RayError(
                f"the Ray worker on {name} lacks trimtab; install trimtab {__version__} in the Python "
                "that `ray start` runs in"
            )
        if version_there != __version__:
            raise RayError(
                f"the Ray worker on {name} has trimtab {version_there}, and this process {__version__}; install "
                "the same one"
            )


class Cluster:
    """A connected cluster.

    Args:
        workers: see `cluster`.
    """

    def __init__(self, workers: int | None = None):
        self.workers = workers

    def map(self, make: Callable[[], Callable[[J], T]], jobs: Sequence[J]) -> Iterator[T]:
        """What the function gives for each job, in their order.

        Each worker makes the function once. If a worker is lost, another one takes its place and its jobs; nothing that
        has come back is computed again.

        Args:
            make: makes the function; it is pickled, as are jobs and values.
            jobs: as many as there are to share.

        Raises:
            FailedOutside: if one job loses its worker again and again. What the function raises otherwise.
        """
        if not jobs:
            return
        import ray  # pyright: ignore[reportMissingImports]
        from ray.data import ActorPoolStrategy  # pyright: ignore[reportMissingImports]

        number, share = self._share(ray, len(jobs))
        rows = [{"job": ray.cloudpickle.dumps(job)} for job in jobs]
        with _quiet(ray), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            values = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                Worker, batch_size=1, fn_constructor_args=(ray.cloudpickle.dumps(make),), max_restarts=RETRIES,
                max_task_retries=RETRIES, compute=ActorPoolStrategy(size=number), **share,
            )  # fmt: skip
            try:
                for row in values.iter_rows():
                    given, value = pickle.loads(row["value"])
                    if not given:
                        raise value
                    yield value
            except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError, ray.exceptions.NodeDiedError):
                raise FailedOutside(
                    f"a Ray worker was lost {RETRIES + 1} times at the same job, mostly for want of memory; what is "
                    "finished is kept: use fewer workers (--ray-workers) or smaller batches, and run the same command "
                    "again"
                ) from None

    def _share(self, ray: Any, jobs: int) -> tuple[int, dict[str, float]]:
        """Workers, and what each of them takes."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus, cpus = (int(sum(one.get(kind, 0) for one in machines)) for kind in ("GPU", "CPU"))
        number = self.workers or gpus or cpus
        if not 1 <= number <= (gpus or cpus):
            has = f"{count(cpus, 'CPU')} and no GPU" if not gpus else count(gpus, "GPU")
            raise RayError(
                f"--ray: the cluster has {has}, and each of {number or 'the'} workers takes one; use fewer workers"
            )
        smallest = min(int(one["CPU"]) for one in machines if one.get("CPU", 0) >= 1) if cpus else 0
        return min(number, jobs), {"num_gpus": 1} if gpus else {"num_cpus": min(cpus // number, smallest)}


class Worker:
    """What runs in a worker's process: it makes its function when the first job comes."""

    def __init__(self, make: bytes):
        self.make = make
        self.function: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            if self.function is None:
                self.function = pickle.loads(self.make)()
            function: Any = self.function
            value = True, function(pickle.loads(batch["job"][0]))
        except Exception as error:
            if not isinstance(error, UserError):
                error.add_note(f"in a Ray worker:\n{traceback.format_exc()}")
            value = False, error
        return {"value": [pickle.dumps(value)]}


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Ray Data keeps the order and draws no bars; what was set before comes back."""
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    options = context.execution_options
    before = context.enable_progress_bars, options.preserve_order, context.print_on_execution_start, log.level
    context.enable_progress_bars, options.preserve_order, context.print_on_execution_start = False, True, False
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, options.preserve_order, context.print_on_execution_start = before[:3]
        log.setLevel(before[3])
