"""Tools that are functions of a user's Python file, called in a process that can be killed."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from trimtab.agents.tools import Toolbox, ToolFailed, ToolsError, check_limits
from trimtab.common.errors import looked_in

STARTING = 120.0
"""seconds within which the file must have been imported"""


class PythonTools(Toolbox):
    """The public functions of a file, or those in its list `TOOLS`. Type hints and docstrings become their schemas, by
    `transformers.utils.get_json_schema`.

    The file is imported in a process of its own, which then stays, so functions may remember things. One that takes too
    long, or ends its process, is an observation that says so; a new process is started at the next call and remembers
    nothing. What functions print is dropped. This guards against mistakes: the code may do whatever the user may.

    Args:
        place: the file. It may import its neighbours, like a script.
        seconds: of a call.
        longest: characters of an observation.
        memory: limit of the process, in bytes of address space (Linux); none if not given.

    Raises:
        ToolsError: if the file is not there, cannot be imported, or has no function that can be described.
    """

    def __init__(
        self, place: str, seconds: float = 30.0, longest: int = Toolbox.longest, memory: int | None = None
    ):  # fmt: skip
        check_limits(seconds, longest)
        if not Path(place).expanduser().is_file():
            raise ToolsError(
                f"there is no file {place}{looked_in(place)}; write your own tools as functions in TOOLS.py"
            )
        self.place, self.seconds, self.longest, self.memory = place, seconds, longest, memory
        self._lock = threading.Lock()
        self._running: list[_ToolProcess] = []
        """one, or none after a call that ended it"""
        self._finalizer = weakref.finalize(self, _end, self._running, os.getpid())
        found = self._started().described
        self.schemas: list[dict[str, Any]] = found["schemas"]
        self.files = [Path(one) for one in found["files"]]
        """the user's files that the functions come from: its own and those that it imports"""

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._started().process.pid

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        with self._lock:
            process = self._started()
            try:
                reply = process.ask(name, arguments, self.seconds)
            except BaseException:  # a reply that comes later would be taken for that to the next call
                self._drop()
                raise
        if reply["error"]:
            raise ToolFailed(reply["text"])
        return reply["text"]

    def restart(self) -> None:
        """Start a new process at the next call."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        self.restart()

    def _started(self) -> "_ToolProcess":
        if self._running and self._running[0].process.poll() is not None:
            self._drop()  # something has ended it between two calls
        if not self._running:
            described = hasattr(self, "schemas")
            self._running.append(_ToolProcess(self.place, self.seconds, self.longest, self.memory, described))
        return self._running[0]

    def _drop(self) -> None:
        _end(self._running, os.getpid())


def _end(running: "list[_ToolProcess]", owner: int) -> None:
    if os.getpid() == owner:
        while running:
            running.pop().kill()


class _ToolProcess:
    """A process that has imported the file, and described its functions where they were not `described` before."""

    def __init__(self, place: str, seconds: float, longest: int, memory: int | None, described: bool):
        path = os.pathsep.join(folder for folder in sys.path if folder)
        work = f"work({place!r}, {seconds!r}, {longest!r}, {memory!r}, {described!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from trimtab.agents._tool_worker import work; {work}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            process_group=0,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._heard, self._asked = b"", 0
        try:
            found = self._hear(time.monotonic() + STARTING)
        except BaseException:
            self.kill()
            raise
        if found is None:
            self.kill()
            raise ToolsError(f"{place}: importing it took longer than {STARTING:g} seconds")
        if "failed" in found:
            self.kill()
            raise ToolsError(found["failed"])
        if "ended" in found:
            raise ToolsError(f"{place}: its process ended while the file was imported ({found['ended']})")
        self.described = found

    def ask(self, name: str, arguments: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply to a call.

        Raises:
            ToolFailed: if there is none in time, or the process has ended.
        """
        self._asked += 1
        assert self.process.stdin is not None
        line = json.dumps({"id": self._asked, "name": name, "arguments": arguments}).encode()
        with contextlib.suppress(BrokenPipeError):  # it died just now, which is heard next
            self.process.stdin.write(line + b"\n")
        until = time.monotonic() + seconds
        while True:
            reply = self._hear(until)
            if reply is None:
                raise ToolFailed(f"{name} took longer than {seconds:g} s and was stopped; its process is started anew")
            if "ended" in reply:
                raise ToolFailed(f"{name} ended its process ({reply['ended']}), which is started anew")
            if reply.get("id") == self._asked:
                return reply

    def _hear(self, until: float) -> dict[str, Any] | None:
        """The next reply, `{"ended": how}` at the end of the process, or None if there is neither in time."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                if not selector.select(max(0.0, until - time.monotonic())):
                    return None
                part = os.read(self.process.stdout.fileno(), 2**16)
                if not part:
                    return {"ended": self._exit()}
                self._heard += part
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def _exit(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)  # its code, before the rest of its group is killed
        self.kill()
        code = self.process.returncode
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End it, with the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
