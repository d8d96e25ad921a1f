"""Jobs on Ray: values in order, lost workers replaced, errors as they are, and clusters that are refused."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import trimtab
from trimtab.common import on_ray
from trimtab.common.errors import FailedOutside, UserError
from trimtab.common.on_ray import RayError, cluster

ray_is_needed = pytest.mark.skipif(
    not on_ray.installed(), reason="ray is not installed: pip install 'trimtab[ray]' in an environment of its own"
)


@pytest.mark.parametrize("address", ["localhost", "auto", "rows.jsonl", "host:port", "a/b:1", ""])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(RayError, match="HOST:PORT, or local"):
        on_ray.check_asked(address)


def test_ray_client_is_refused_with_the_way_out():
    with pytest.raises(RayError, match=r"HOST:PORT \(6379 by default\)"):
        on_ray.check_asked("ray://head:10001")


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(on_ray, "installed", lambda: False)
    with pytest.raises(RayError, match=r"--ray needs the package ray: pip install 'ray\[data\]'$"):
        on_ray.check_asked("local")


def test_without_an_address_there_is_no_cluster():
    with cluster(None) as none:
        assert none is None


@pytest.fixture(scope="module")
def ray():
    """Two workers on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@ray_is_needed
@pytest.mark.slow
def test_values_come_in_the_order_of_the_jobs_from_both_workers(ray):
    def make():
        pid = os.getpid()
        return lambda job: (time.sleep(0.2 if job % 3 == 0 else 0.01), (job, pid))[1]

    with cluster("local") as found:
        values = list(found.map(make, range(12)))
    assert [job for job, _ in values] == list(range(12))
    assert len({pid for _, pid in values}) == 2
    assert ray.is_initialized()  # a cluster that was there stays


@ray_is_needed
@pytest.mark.slow
def test_the_job_of_a_killed_worker_is_done_by_another_one(ray, tmp_path):
    def make():
        def function(job):
            if job == 5 and not (tmp_path / "killed").exists():
                (tmp_path / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            with (tmp_path / "calls").open("a") as out:
                out.write(f"{job}\n")
            return job * job

        return function

    with cluster("local") as found:
        assert list(found.map(make, range(12))) == [job * job for job in range(12)]
    assert (tmp_path / "killed").exists()
    calls = (tmp_path / "calls").read_text().split()
    assert set(calls) == set(map(str, range(12)))
    assert calls.count("0") == 1  # what had come back is not computed again


@ray_is_needed
@pytest.mark.slow
def test_a_job_that_loses_every_worker_ends_in_one_line(ray):
    def make():
        return lambda job: os.kill(os.getpid(), signal.SIGKILL) if job == 1 else job

    with cluster("local") as found, pytest.raises(FailedOutside, match="lost 4 times at the same job"):
        list(found.map(make, range(3)))


@ray_is_needed
@pytest.mark.slow
def test_a_mistake_of_the_user_in_a_worker_is_the_same_mistake_here(ray):
    def make():
        raise UserError("the folder is empty; choose another")

    with cluster("local") as found, pytest.raises(UserError, match="^the folder is empty; choose another$"):
        list(found.map(make, range(3)))


@ray_is_needed
@pytest.mark.slow
def test_more_workers_than_processors_are_refused(ray):
    with cluster("local", 3) as found, pytest.raises(RayError, match="the cluster has 2 CPUs and no GPU.*3 workers"):
        next(found.map(lambda: abs, [1]))


@ray_is_needed
@pytest.mark.slow
def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start = time.monotonic()
    said = refused(f"127.0.0.1:{port}")
    assert f"--ray 127.0.0.1:{port} cannot be reached" in said
    assert time.monotonic() - start < 30


@ray_is_needed
@pytest.mark.slow
def test_a_port_of_another_server_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        said = refused(f"127.0.0.1:{other.getsockname()[1]}")
    assert "no Ray cluster" in said


@ray_is_needed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "said"),
    [
        ("__version__ = '0.0.1'", f"has trimtab 0.0.1, and this process {trimtab.__version__}"),
        ("raise ImportError", "lacks trimtab; install trimtab"),
    ],
)
def test_machines_without_this_version_of_trimtab_are_refused(tmp_path, there, said):
    """The workers' Python finds another package of that name first."""
    (tmp_path / "trimtab.py").write_text(there)
    start = (
        "import ray, sys; ray.init(address='local', num_cpus=1, include_dashboard=False);"
        "print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = {**loopback(), "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", start], env=environment, **pipes) as head:
        assert said in refused(head.stdout.readline().strip())
        head.stdin.close()


def loopback() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def refused(address: str) -> str:
    """What a process of its own says that connects to a cluster."""
    script = (
        f"from trimtab.common.on_ray import *\ntry:\n with cluster({address!r}): pass\nexcept RayError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=loopback(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
