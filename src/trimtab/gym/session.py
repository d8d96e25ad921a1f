"""A terminal in a sandbox: a shell that takes one command at a time, and remembers its folder and variables."""

import fcntl
import math
import os
import selectors
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from trimtab.common.errors import UserError
from trimtab.gym.processes import CpuCount, Process
from trimtab.gym.ring import Ring
from trimtab.gym.sandbox import Sandbox
from trimtab.gym.workspace import Workspace

TICK = 0.05
"""seconds between two looks at the processes of a session"""
GRACE = 1.0
"""seconds within which a command has to end once its processes are killed; after that the shell is, too"""
WORKING, OBSERVED = 0.02, 0.25
"""CPU seconds in so many seconds by which a shell is known to work, whatever it says"""
READ = 1 << 20
"""bytes of output at a time"""
COMMANDS, STATUS = 3, 4
"""descriptors of the shell, which its commands do not get"""
SHELL = (
    "while IFS= read -r -d '' line <&3; do "
    'eval "$line" 3<&- 4>&-; '
    "printf '%d\\n' \"$?\" >&4; done"
)  # fmt: skip
READING = 10.0
"""seconds within which a shell has to take a command"""
HOLDING = 1 << 26
"""bytes of memory beyond which a shell does not count as one that does nothing"""
LONGEST_COMMAND = 100_000
"""characters"""


class SessionError(UserError):
    """What a session cannot do now."""


class Session:
    """A shell in a process group and namespaces of its own.

    Args:
        name: for messages.
        guard: asked at every look, with the session's CPU seconds and resident bytes so far; a text that it returns is
            why all that the session runs is killed.
    """

    def __init__(self, name: str, sandbox: Sandbox, guard: Callable[["Session", float, int], str | None] | None = None):
        self.name, self.ring, self.created = name, Ring(), time.time()
        self.last_command, self.last_status = "", None
        self.killed_because: str | None = None
        self.began = time.monotonic()
        """when its last command was started, or itself"""
        self._guard, self._cpu = guard, CpuCount()
        self._changed = threading.Condition()
        self._pending = False
        self._works, self._shell, self._stopped = False, (0.0, math.inf), 0.0
        commands, output, status, typed = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        theirs = (commands[0], output[1], status[1], typed[0])
        ours = (commands[1], output[0], status[0], typed[1])
        try:
            self._running = sandbox.start(
                ["bash", "--norc", "--noprofile", "-c", SHELL],
                stdin=typed[0],
                stdout=output[1],
                stderr=output[1],
                descriptors={COMMANDS: commands[0], STATUS: status[1]},
            )
        except BaseException:
            for one in ours:
                os.close(one)
            raise
        finally:
            for one in theirs:
                os.close(one)
        self._commands, self._output, self._status, self._typed = ours
        for one in (self._commands, self._typed, self._output):
            os.set_blocking(one, False)
        with suppress(OSError):  # beyond what the system grants
            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, READ)
        self._ended = False
        self._last_look = 0.0
        self._busy = False
        self._thread = threading.Thread(target=self._watch, name=f"session {name}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ state

    @property
    def alive(self) -> bool:
        return not self._ended

    @property
    def cpu_seconds(self) -> float:
        return self._cpu.seconds

    def processes(self) -> list[Process]:
        """What the agent's commands have started and still runs."""
        return [] if self._ended else self._running.processes.agents()

    @property
    def idle(self) -> bool:
        """Whether no command is being carried out and no process is left of one."""
        return self._ended or not (self._pending or self.processes())

    def held_open(self, workspace: Workspace) -> int:
        """Bytes on the disk of files that processes hold open although they are deleted."""
        return 0 if self._ended else self._running.processes.held_open(os.stat(workspace.folder).st_dev)  # noqa: PTH116

    def wait(self, seconds: float, until: Callable[[], bool]) -> bool:
        """Wait for a condition, which is looked at whenever something happens in the session.

        Returns:
            Whether it holds.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while not until():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, TICK))
        return True

    # ------------------------------------------------------------ actions

    def run(self, command: str) -> None:
        """Start a command line.

        Raises:
            SessionError: if another one runs, or has left processes.
        """
        if self._ended:
            raise SessionError(f"session {self.name} has ended; create another one")
        if not self.idle:
            names = ", ".join(f"{one.name} ({one.pid})" for one in self.processes()[:5])
            raise SessionError(
                f"session {self.name} is busy{f' with {names}' if names else ''}; wait, kill its processes or use "
                "another session"
            )
        if "\0" in command or len(command) > LONGEST_COMMAND:
            raise SessionError(f"a command has at most {LONGEST_COMMAND:,} characters, and no NUL")
        self.last_command, self.last_status, self.killed_because = command, None, None
        self.began, self._pending = time.monotonic(), True
        try:
            if not _write_all(self._commands, command.encode(errors="replace") + b"\0", READING):
                self._running.strike()
                raise SessionError(f"session {self.name} reads no commands any more, and was ended; create another one")
        except BrokenPipeError:
            raise SessionError(f"session {self.name} has ended; create another one") from None

    def input(self, text: str) -> int:
        """Type a text, for the process that reads standard input.

        Returns:
            Bytes that there was room for.

        Raises:
            SessionError: if nothing runs that could read it.
        """
        if self.idle:
            raise SessionError(f"nothing in session {self.name} waits for input")
        data, sent = text.encode(errors="replace"), 0
        with suppress(BlockingIOError, BrokenPipeError):
            while sent < len(data):
                sent += os.write(self._typed, data[sent:])
        return sent

    def kill_processes(self, force: bool = False) -> int:
        """End what the commands have started; the shell stays.

        Returns:
            How many processes got the signal.
        """
        return self._running.processes.signal(signal.SIGKILL if force else signal.SIGTERM)

    def stop(self, why: str) -> None:
        """Kill what the session runs, and remember why. The shell is killed too where it is what works or fills the
        memory, or where it still goes on when this is called again after a while: that ends the session."""
        if self.idle and not self._works:
            return
        if self.killed_because is None:
            self.killed_because, self._stopped = why, time.monotonic()
        if self.kill_processes(force=True) == 0 or time.monotonic() - self._stopped >= GRACE:
            self._running.strike()

    def close(self) -> None:
        """End the shell and all that has come from it."""
        if self._commands == -1:
            return
        if not self._ended:
            self._look()
        self._running.kill()
        self._thread.join()
        for one in (self._commands, self._output, self._status, self._typed):
            os.close(one)
        self._commands = -1

    # ------------------------------------------------------------ the thread

    def _watch(self) -> None:
        """Watch the session until its shell ends; what cannot be watched ends."""
        try:
            self._watched()
        finally:
            if not self._running.ended:
                self.killed_because = "it could not be watched any more"
            self._running.kill()
            self._ended, self._pending = True, False
            self._tell()

    def _watched(self) -> None:
        """Read what the session writes, and look at its processes."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._status, selectors.EVENT_READ)
            while not self._running.ended:
                for key, _ in selector.select(TICK):
                    if not (self._read_output() if key.fd == self._output else self._read_status()):
                        selector.unregister(key.fd)
                    self._tell()
                if time.monotonic() - self._last_look >= TICK:
                    self._look()
                    self._tell()
        self._read_output()

    def _read_output(self) -> bool:
        """Read what is in the pipe now; False once nobody can write to it any more."""
        with suppress(BlockingIOError):
            for _ in range(8):
                data = os.read(self._output, READ)
                if not data:
                    return False
                self.ring.feed(data)
        return True

    def _read_status(self) -> bool:
        """Read that a command has ended; what it has written before comes by the other pipe, and is read first."""
        data = os.read(self._status, READ)
        if data:
            self._read_output()
            self.last_status, self._pending = _status(data), False
        return bool(data)

    def _look(self) -> None:
        self._last_look = time.monotonic()
        found = self._running.processes.all()
        seconds = self._cpu.see(found)
        shell = next((one for one in found if one.pid == self._running.processes.command), None)
        if shell is not None and self._last_look - self._shell[0] >= OBSERVED:
            self._works = shell.cpu_seconds - self._shell[1] >= WORKING or shell.memory > HOLDING
            self._shell = (self._last_look, shell.cpu_seconds)
        if self._guard is None:
            return
        why = self._guard(self, seconds, sum(one.memory for one in found))
        if why is not None:
            self.stop(why)

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _status(said: bytes) -> int | None:
    """The last status that the shell tells; None where a command has written something else in its place."""
    word = said.split()[-1:]
    return int(word[0]) if word and word[0].isdigit() and len(word[0]) <= 3 else None


def _write_all(end: int, data: bytes, seconds: float) -> bool:
    """Write to a pipe, and tell whether all of it was taken in time."""
    until = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_WRITE)
        while data and selector.select(max(0.0, until - time.monotonic())):
            data = data[os.write(end, data) :]
    return not data
