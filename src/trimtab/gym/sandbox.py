"""Isolation by the operating system: commands that see the system read-only, one writable folder, and nothing else.

bubblewrap makes the namespaces where it is installed, else util-linux's `unshare`. What runs within has no network,
processes of its own, no capabilities, resource limits, a filter of system calls, and an environment without anything of
this one. Started by root, it runs as a user that owns nothing but the workspace.
"""

import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from trimtab.common.errors import UserError
from trimtab.common.options import Options
from trimtab.gym.running import Pipes, Ran, Running, finish, ready

WORKSPACE = "/workspace"
"""where a sandbox sees its writable folder"""
SCRATCH = "/tmp"
INSIDE = Path(__file__).parent / "inside"
STARTING = 20.0
"""seconds within which a sandbox must have started"""
SYSTEM = (
    "/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime",
)  # fmt: skip
"""of /etc; no names of users, hosts or keys"""
MISSING = (
    "there is no sandbox on this machine ({why}); install bubblewrap (`apt install bubblewrap`, `dnf install "
    "bubblewrap`) and allow user namespaces, or say that commands may do whatever you may (--unsafe)"
)

Engine = Literal["bwrap", "unshare", "none"]

_spawner = ThreadPoolExecutor(1, "trimtab-gym")
"""a sandbox ends with the thread that started it, so that is one which stays"""


class SandboxError(UserError):
    """No sandbox, or one that does not start."""


class SandboxLimits(Options):
    """What the processes of a sandbox may use."""

    cpu_seconds: int = Field(default=3600, ge=1)
    """CPU seconds of one process."""
    memory: int = Field(default=4 << 30, ge=1 << 26)
    """Bytes of address space of one process, and of resident memory of all together."""
    file_bytes: int = Field(default=1 << 30, ge=1 << 12)
    """Size of one file."""
    processes: int = Field(default=128, ge=4)
    """Processes and threads at a time; root's sandboxes of one workspace share them."""
    open_files: int = Field(default=256, ge=32)
    """Open files of one process."""
    scratch: int = Field(default=256 << 20, ge=1 << 16)
    """Bytes in /tmp, and as many in /dev/shm, both in memory and gone with the sandbox."""


@functools.cache
def find_engine() -> Engine:
    """What isolates here: bubblewrap, else `unshare`.

    Raises:
        SandboxError: if neither works.
    """
    whys = []
    for name in ("bwrap", "unshare"):
        if shutil.which(name) is None:
            whys.append(f"{name} is not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                ran = Sandbox(Path(folder), engine=name).run(["true"], seconds=STARTING)
            except SandboxError as error:
                whys.append(f"{name}: {error}")
                continue
        if ran.code == 0:
            return name
        whys.append(f"{name}: {' '.join(ran.error.decode(errors='replace').split())[:200]}")
    raise SandboxError(MISSING.format(why="; ".join(whys)))


@dataclass(frozen=True)
class Sandbox:
    """How commands are isolated. One object may start any number of them, each in namespaces of its own.

    Args:
        folder: what they see as /workspace.
        engine: see `find_engine`; "none" isolates nothing.
        uid: whom they run as, where this process is root.
        writable: whether they may write there.
        readable: further files and folders that they see, at their places.
        masked: folders that they see empty where a readable one holds them.
        environment: variables besides the few that every command gets.
        scratch: a folder that they see as /tmp; otherwise that is in memory, and each has its own.
    """

    folder: Path
    engine: Engine = "bwrap"
    uid: int | None = None
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    writable: bool = True
    readable: tuple[Path, ...] = ()
    masked: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    scratch: Path | None = None

    @property
    def inside(self) -> str:
        """Where commands see the folder."""
        return str(self.folder) if self.engine == "none" else WORKSPACE

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        stderr: int = subprocess.DEVNULL,
        descriptors: Mapping[int, int] | None = None,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> "Running":
        """Start a command.

        Args:
            descriptors: the number that the command sees -> a descriptor of this process.
            folder: where it starts, by default in the workspace.

        Raises:
            SandboxError: if the sandbox cannot be set up.
        """
        with ExitStack() as stack:
            heard, report = os.pipe()
            stack.callback(os.close, heard)
            theirs = stack.enter_context(ExitStack())  # closed here as soon as the process has them
            theirs.callback(os.close, report)
            root = stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-root-"))
            plan = None if self.engine == "none" else self.plan()
            asked = self._asked(command, plan, root, report, descriptors or {}, folder)
            request = _held(theirs, json.dumps(asked).encode())
            outer, passed = self._outer(theirs, plan, report)
            process = _spawner.submit(
                subprocess.Popen,
                [*outer, _base_python(), "-I", "-S", str(INSIDE / "enter.py"), str(request)],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[report, request, *passed, *(descriptors or {}).values()],
                cwd="/",
                start_new_session=True,
                env={**self._environment(), **(environment or {})},
            ).result()
            theirs.close()
            init = ready(heard, STARTING)
        if init is None:
            process.kill()
            process.wait()
            raise SandboxError(f"the sandbox did not start ({self.engine}, exit code {process.returncode})")
        return Running(process, init, isolated=self.engine != "none", wrapped=self.engine == "bwrap")

    def run(
        self,
        command: Sequence[str],
        seconds: float,
        input: bytes = b"",
        most: int = 10 << 20,
        **how: Any,
    ) -> Ran:
        """Run a command to its end.

        Args:
            seconds: after which it is killed, with all that it has started.
            most: bytes of each output; a command that writes more is killed.
            how: `folder` and `environment`, as for `start`.
        """
        with closing(Pipes()) as pipes:
            ends = {"stdin": pipes.input[0], "stdout": pipes.output[1], "stderr": pipes.error[1]}
            return finish(self.start(command, **ends, **how), pipes, seconds, input, most)

    def plan(self) -> list[list[str]]:
        """The places that a sandbox has, in the order in which they are made."""
        size = str(self.limits.scratch)
        scratch = ["tmpfs", SCRATCH, size] if self.scratch is None else ["write", str(self.scratch), SCRATCH]
        steps = [scratch, ["read", "/usr", "/usr"]]
        for place in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
            if place.is_symlink():
                steps.append(["link", str(place.readlink()), str(place)])
            elif place.is_dir():
                steps.append(["read", str(place), str(place)])
        steps += [["read", place, place] for place in SYSTEM if Path(place).exists()]
        read = [place for place in (*_python(), INSIDE, *self.readable) if not place.is_relative_to("/usr")]
        parents = dict.fromkeys(above for place in read for above in reversed(place.parents[:-1]))
        steps += [["folder", str(place)] for place in parents]  # or bubblewrap makes them for root alone
        steps += [["read", str(place.resolve()), str(place)] for place in read]
        hidden = [one.resolve() for one in (*self.masked, INSIDE.parent / "tasks") if one.is_dir()]
        for source, target in ((place.resolve(), place) for place in (Path("/usr"), *read)):
            steps += [["mask", str(target / one.relative_to(source))] for one in hidden if one.is_relative_to(source)]
        kind = "write" if self.writable else "read"
        return [*steps, ["proc"], ["dev"], ["tmpfs", "/dev/shm", size], [kind, str(self.folder), WORKSPACE]]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": SCRATCH if self.engine != "none" else str(self.folder),
            "USER": "agent",
            "LOGNAME": "agent",
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            **self.environment,
        }

    def _outer(
        self, stack: ExitStack, plan: list[list[str]] | None, report: int
    ) -> tuple[list[str], list[int]]:  # fmt: skip
        """The words before the launcher's, which make the namespaces, and the descriptors that they need."""
        if plan is None:
            return [], []
        if self.engine == "unshare":
            user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
            kinds = ["--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup"]
            words = ["setpriv", "--pdeathsig", "KILL", "unshare", *user, *kinds, "--fork", "--kill-child", "--"]
            return words, []
        told = os.dup(report)  # bubblewrap closes it, and the launcher reports too
        stack.callback(os.close, told)
        args = _held(stack, "".join(f"{word}\0" for word in _bwrap(plan, told)).encode())
        return ["bwrap", "--args", str(args), "--"], [args, told]

    def _asked(
        self, command: Sequence[str], plan: Any, root: str, report: int, descriptors: Mapping[int, int], folder: Any
    ) -> dict[str, Any]:
        """What the launcher is to do."""
        limits = {
            "CPU": self.limits.cpu_seconds,
            "AS": self.limits.memory,
            "FSIZE": self.limits.file_bytes,
            "NOFILE": self.limits.open_files,
            "CORE": 0,
            "MEMLOCK": 1 << 16,
            "MSGQUEUE": 0,
            **({} if self.engine == "none" else {"NPROC": self.limits.processes}),
        }
        return {
            "limits": limits,
            "uid": self.uid if os.geteuid() == 0 and self.engine != "none" else None,
            "mounts": {"plan": plan, "root": root} if self.engine == "unshare" else None,
            "report": report,
            "tell": self.engine != "bwrap",
            "descriptors": {str(to): at for to, at in descriptors.items()},
            "filter": self.engine != "none",
            "folder": folder or self.inside,
            "command": list(command),
        }


def _bwrap(plan: list[list[str]], told: int) -> list[str]:
    """The plan as bubblewrap's arguments; `told` is a descriptor that gets the number of the first process."""
    words = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    words += ["--die-with-parent", "--new-session", "--info-fd", str(told), "--hostname", "sandbox"]
    if os.geteuid() == 0:  # the launcher becomes another user and gives these up too
        words += ["--cap-drop", "ALL"]
        words += [word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}")]
    else:
        words += ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
    for kind, *places in plan:
        match kind:
            case "read":
                words += ["--ro-bind", *places]
            case "write":
                words += ["--bind", *places]
            case "link":
                words += ["--symlink", *places]
            case "tmpfs":
                words += ["--perms", "1777", "--size", places[1], "--tmpfs", places[0]]
            case "mask":
                words += ["--tmpfs", places[0], "--remount-ro", places[0]]
            case "folder":
                words += ["--perms", "0755", "--dir", *places]
            case "proc":
                words += ["--proc", "/proc"]
            case "dev":
                words += ["--dev", "/dev"]
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/"]


def _held(stack: ExitStack, data: bytes) -> int:
    """A descriptor that these bytes are read from: what is no argument is in no list of processes."""
    descriptor = os.memfd_create("trimtab")
    stack.callback(os.close, descriptor)
    while data:
        data = data[os.write(descriptor, data) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _python() -> list[Path]:
    """Where this Python and its packages lie."""
    places = (Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix), Path(sys.base_prefix).resolve())
    return list(dict.fromkeys(places))


def _base_python() -> str:
    """The interpreter itself, of which a virtual environment holds a link."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def agent_uid() -> int | None:
    """A user that owns nothing, for sandboxes that root starts; None where this process is not root."""
    return 20_000 + secrets.randbelow(40_000) if os.geteuid() == 0 else None
